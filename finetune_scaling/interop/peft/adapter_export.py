"""Export of a run's adapter to a directory that peft's PeftModel.from_pretrained loads on the exported base."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from finetune_scaling.files import new_directory, write_json_atomically
from finetune_scaling.interop.families.matching_family import FamilyMatch
from finetune_scaling.interop.peft.adapter_format import CONFIG, WEIGHTS, PeftAdapter
from finetune_scaling.interop.peft.registry import method_of_run
from finetune_scaling.interop.weights.run_weights import PROVENANCE, TrainedRun, provenance


def plan_adapter(run: TrainedRun, match: FamilyMatch, base: Mapping[str, str | None]) -> PeftAdapter:
    """Return the adapter of a run whose base matches a family; `base` has the fields that name the base.

    Raises ConfigError where PEFT has no such method.
    """
    method = method_of_run(run)
    fields, tensors = method.export(run, match)
    common = {
        "peft_type": method.peft_type,
        "task_type": "CAUSAL_LM",
        **base,
        "inference_mode": True,
    }
    return PeftAdapter({**common, **fields}, tensors)


def write_adapter(adapter: PeftAdapter, out: Path, run: TrainedRun) -> dict[str, Any]:
    """Write an adapter's directory atomically; return a summary.

    Raises:
        WorkdirError: `out` is not empty, or the disk lacks space.
    """
    tensors = {name: np.ascontiguousarray(value) for name, value in adapter.tensors.items()}
    total = sum(value.nbytes for value in tensors.values())
    with new_directory(out, total) as directory:
        save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})
        write_json_atomically(directory / CONFIG, adapter.fields)
        write_json_atomically(directory / PROVENANCE, provenance(run))
    parameters = sum(value.size for value in adapter.tensors.values())
    return {"out": str(out), "peft_type": adapter.fields["peft_type"], "parameters": parameters, "bytes": total}
