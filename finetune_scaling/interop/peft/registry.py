"""The tuning methods that can be exchanged with PEFT, and the errors about the others."""

from pathlib import Path

from finetune_scaling.errors import ConfigError
from finetune_scaling.interop.families.matching_family import FamilyMatch
from finetune_scaling.interop.peft.adapter_format import CONFIG, ConvertedAdapter, PeftAdapter, PeftMethod
from finetune_scaling.interop.peft.ia3 import IA3
from finetune_scaling.interop.peft.low_rank import LORA
from finetune_scaling.interop.peft.prefix import PREFIX_TUNING
from finetune_scaling.interop.peft.soft_prompt import PROMPT_TUNING
from finetune_scaling.interop.weights.run_weights import TrainedRun

PEFT_METHODS: tuple[PeftMethod, ...] = (LORA, IA3, PROMPT_TUNING, PREFIX_TUNING)


def method_of_run(run: TrainedRun) -> PeftMethod:
    """Return the PEFT method of a run's adapter. Raises ConfigError where PEFT has none."""
    name = run.tuning.name
    for method in PEFT_METHODS:
        if name in method.names:
            return method
    known = ", ".join(name for method in PEFT_METHODS for name in method.names)
    fix = " Fix: export the tuned model with --to-hf=DIR." if run.tuning.mergeable else ""
    raise ConfigError(f"{run.found.directory}: PEFT has no method {name!r} (it has {known}).{fix}")


def import_peft_adapter(adapter: PeftAdapter, match: FamilyMatch) -> ConvertedAdapter:
    """Convert an adapter for a base that matches a family; raises as `PeftMethod.read` does."""
    peft_type = adapter.fields.get("peft_type")
    for method in PEFT_METHODS:
        if peft_type == method.peft_type:
            return method.read(adapter, match)
    known = ", ".join(method.peft_type for method in PEFT_METHODS)
    raise ConfigError(
        f"{Path(adapter.where) / CONFIG}: peft_type = {peft_type!r} is not supported (supported: {known})"
    )
