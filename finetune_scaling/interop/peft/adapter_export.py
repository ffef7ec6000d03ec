"""Export of a run's adapter to a directory that peft's PeftModel.from_pretrained loads on the exported base."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from finetune_scaling.files import new_directory
from finetune_scaling.interop.families.matching_family import FamilyMatch
from finetune_scaling.interop.peft.adapter_format import CONFIG, WEIGHTS, PeftAdapter
from finetune_scaling.interop.peft.registry import method_of_run
from finetune_scaling.interop.weights.run_weights import PROVENANCE, TrainedRun, provenance
from finetune_scaling.interop.weights.safetensors_writer import TensorSpec, open_files


class BaseName(NamedTuple):
    """Directory, or name and revision on the hub, of an adapter's base; None if unknown."""

    name: str | None = None
    revision: str | None = None


def plan_adapter(run: TrainedRun, match: FamilyMatch, base: BaseName) -> PeftAdapter:
    """Return the adapter of a run whose base matches a family. Raises ConfigError where PEFT has no such method."""
    method = method_of_run(run)
    fields, tensors = method.export(run, match)
    common = {
        "peft_type": method.peft_type,
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.name,
        "revision": base.revision,
        "inference_mode": True,
    }
    return PeftAdapter({**common, **fields}, tensors)


def write_adapter(adapter: PeftAdapter, out: Path, run: TrainedRun) -> dict[str, Any]:
    """Write an adapter's directory atomically; return a summary.

    Raises:
        WorkdirError: `out` is not empty, or the disk lacks space.
    """
    specs = {name: TensorSpec(value.shape, str(value.dtype)) for name, value in adapter.tensors.items()}
    total = sum(spec.bytes for spec in specs.values())
    with new_directory(out, total) as directory:
        with open_files({directory / WEIGHTS: specs}) as files:
            for name, value in adapter.tensors.items():
                files.write(name, value)
        for name, content in ((CONFIG, adapter.fields), (PROVENANCE, provenance(run))):
            (directory / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    parameters = sum(value.size for value in adapter.tensors.values())
    return {"out": str(out), "peft_type": adapter.fields["peft_type"], "parameters": parameters, "bytes": total}
