"""What is written beside a run's files for others: which run it was, by digests that tell it from any other."""

from typing import Any

from finetune_scaling import configuration
from finetune_scaling.interop.weights.run_weights import TrainedRun

PROVENANCE = "finetune_scaling.json"


def provenance(run: TrainedRun) -> dict[str, Any]:
    """A run's name, step and method, and the digests of its checkpoint, its base's and its tokenizer."""
    metadata = run.found.metadata
    return {
        "run": run.found.directory.name,
        "step": int(run.found.path.name),
        "method": configuration.plain(metadata["method"]),
        "arrays_digest": metadata["arrays_digest"],
        "base_digest": metadata["base_digest"],
        "tokenizer_sha256": metadata["tokenizer_sha256"],
    }
