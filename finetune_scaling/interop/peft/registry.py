"""The tuning methods that can be exchanged with PEFT, and the errors about the others."""

from pathlib import Path

from finetune_scaling.errors import ConfigError
from finetune_scaling.interop.families.matching_family import FamilyMatch
from finetune_scaling.interop.peft.adapter_format import CONFIG, ConvertedAdapter, PeftAdapter, PeftMethod
from finetune_scaling.interop.peft.ia3 import IA3
from finetune_scaling.interop.peft.low_rank import LORA
from finetune_scaling.interop.peft.virtual_tokens import PREFIX_TUNING, PROMPT_TUNING
from finetune_scaling.interop.weights.run_weights import TrainedRun

PEFT_METHODS = {method.peft_type: method for method in (LORA, IA3, PROMPT_TUNING, PREFIX_TUNING)}


def method_of_run(run: TrainedRun) -> PeftMethod:
    """Return the PEFT method of a run's adapter. Raises ConfigError where PEFT has none."""
    methods = {name: method for method in PEFT_METHODS.values() for name in method.names}
    if run.tuning.name not in methods:
        fix = " Fix: export the tuned model with --to-hf=DIR." if run.tuning.mergeable else ""
        raise ConfigError(
            f"{run.found.directory}: PEFT has no method {run.tuning.name!r} (it has {', '.join(methods)}).{fix}"
        )
    return methods[run.tuning.name]


def import_peft_adapter(adapter: PeftAdapter, match: FamilyMatch) -> ConvertedAdapter:
    """Convert an adapter for a base that matches a family; raises as `PeftMethod.read` does."""
    peft_type = adapter.fields.get("peft_type")
    if peft_type not in tuple(PEFT_METHODS):  # a tuple, since a field of a JSON file may be of any type
        raise ConfigError(
            f"{Path(adapter.where) / CONFIG}: peft_type = {peft_type!r} is not supported (supported: "
            f"{', '.join(PEFT_METHODS)}). Fix: merge the adapter with peft and import the model."
        )
    return PEFT_METHODS[peft_type].read(adapter, match)
