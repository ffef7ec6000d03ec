"""The content of a run directory, finished or in progress: config, progress, checkpoints and scores."""

import time
from typing import Any

from finetune_scaling import configuration
from finetune_scaling.errors import CheckpointError
from finetune_scaling.evaluation.example_rows import EVALUATION
from finetune_scaling.files import Location
from finetune_scaling.inspection.checkpoint import inspect_checkpoint
from finetune_scaling.runs.checkpoints import checkpoint_steps, damaged_checkpoints
from finetune_scaling.runs.run_config import read_run_config
from finetune_scaling.runs.run_directory import CHECKPOINTS, RunDirectory

_RETRY_SECONDS = 0.2


def inspect_run(path: Location) -> dict[str, Any]:
    """Return the content of a run directory; `kind` is "base" for base models. Raises UserError for a damaged file."""
    directory = RunDirectory(path)
    run_config = read_run_config(directory.config)
    record, metrics = directory.result, directory.metrics()
    dev = [line for line in metrics if "dev_loss" in line]
    checkpoint, damage = _newest(path)
    best = (record or checkpoint or {}).get("best_step")
    steps, folder = sorted(checkpoint_steps(path)), path / EVALUATION
    return {
        "kind": "base" if run_config.is_base else "run",
        "path": str(path),
        "name": run_config.name,
        "state": "done" if record else "started",
        "task": None if run_config.task is None else run_config.task.get("name"),
        "method": configuration.without_unset(run_config.method),
        "base": configuration.plain(run_config.base),
        "public": configuration.plain(run_config.public),
        "tokenizer": run_config.tokenizer,
        "finetune_examples": record.get("finetune_examples") if record else run_config.finetune_examples,
        "batch_size": run_config.batch_size,
        "length": run_config.row_length,
        "limits": configuration.plain(run_config.limits),
        "last_report": metrics[-1] if metrics else None,
        "dev_losses": {str(line["step"]): line["dev_loss"] for line in dev},
        "best_step": best,
        "dev_loss": min((line["dev_loss"] for line in dev), default=None),
        "checkpoints": {
            "steps": steps,
            "best": best if best in steps else None,
            "save_every": run_config.checkpoint.every_steps,
            "set_aside": damaged_checkpoints(path / CHECKPOINTS),
        },
        "checkpoint": checkpoint,
        "damage": damage,
        "result": record,
        "evaluations": sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else [],
    }


def _newest(run: Location) -> tuple[dict[str, Any] | None, str | None]:
    """Return the newest checkpoint, or the error of reading it; neither if there is none yet.

    A run in progress may delete the checkpoint being read: it is damaged only if it still exists a moment later.
    """
    failed = None
    while (step := next(checkpoint_steps(run), None)) is not None:
        try:
            return inspect_checkpoint(run / CHECKPOINTS / str(step)), None
        except CheckpointError as error:
            if step == failed:
                return None, str(error)
            failed = step
            time.sleep(_RETRY_SECONDS)
    return None, None
