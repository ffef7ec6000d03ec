"""Export of a run: its tuned model, its base or its adapter, each to its own directory."""

import dataclasses
from pathlib import Path
from typing import Any

from finetune_scaling.errors import ConfigError
from finetune_scaling.files import absolute, check_new, local_path
from finetune_scaling.interop.families.matching_family import families_for, match_family
from finetune_scaling.interop.model_export import write_model
from finetune_scaling.interop.peft.adapter_export import plan_adapter, write_adapter
from finetune_scaling.interop.tokenizers.tokenizer_files import tokenizer_files
from finetune_scaling.interop.weights.run_weights import TrainedRun, merged_config, read_run
from finetune_scaling.runs.checkpoints import CHECKPOINTS
from finetune_scaling.runs.model_loading import RunCheckpoint, find_base, find_run

ADAPTER = "adapter"  # directory of an adapter that is written with its base


@dataclasses.dataclass(frozen=True)
class RunExport:
    """A request to export a run.

    Attributes:
        source: The run directory or one of its checkpoints.
        step: The checkpoint; None for the best one (of a model that was trained itself, the newest).
        model: Directory for the model; empty for none.
        adapter: Directory for the adapter; empty for none.
        merged: Whether the adapter is merged into the model. If not, the model is the base, and the adapter goes to
            `adapter` below it unless that names another directory.
        dtype: Dtype of the model; None keeps the stored dtypes.
    """

    source: str
    step: int | None = None
    model: str = ""
    adapter: str = ""
    merged: bool = True
    dtype: str | None = None


def export_run(request: RunExport) -> dict[str, Any]:
    """Write the requested directories after checking everything; return a summary.

    Raises:
        ConfigError: No public family computes the model, or the method cannot be exported as requested.
        WorkdirError: A directory is not empty, or the disk lacks space.
        CheckpointError: A checkpoint is damaged, or the base has changed.
    """
    model_out, adapter_out = _directories(request)
    found = _find(request)
    run = read_run(found)
    if not request.merged and run.tuning.trains_all:
        raise ConfigError(
            f"{found.directory}: {run.tuning.name} trained the model itself and has no adapter. Fix: remove --no-merge."
        )
    families, what = families_for(found), str(found.directory)
    base = _base_fields(run, None if request.merged else model_out)
    adapter = plan_adapter(run, match_family(run.model, families, what), base) if adapter_out else None
    summary = {}
    if model_out:
        match = match_family(merged_config(run) if request.merged else run.model, families, what)
        tokenizer = tokenizer_files(found.run_config.tokenizer, run.model.vocab_size)
        summary["model"] = write_model(run, match, model_out, tokenizer, merged=request.merged, dtype=request.dtype)
    if adapter_out and adapter:
        summary["adapter"] = write_adapter(adapter, adapter_out, run)
    return summary


def _directories(request: RunExport) -> tuple[Path | None, Path | None]:
    """Return the directories of model and adapter. Raises WorkdirError where one is not empty."""
    model = local_path(request.model, "an exported model") if request.model else None
    adapter = local_path(request.adapter, "an exported adapter") if request.adapter else None
    if model and not adapter and not request.merged:
        adapter = model / ADAPTER
    if model and adapter and (model == adapter or adapter in model.parents):
        raise ConfigError(f"--to-hf={model} is inside --to-peft={adapter}. Fix: give each its own directory.")
    for directory in (model, adapter):
        if directory:
            check_new(directory)
    return model, adapter


def _base_fields(run: TrainedRun, model_out: Path | None) -> dict[str, str | None]:
    """Return the fields that name an adapter's base: the directory it is exported to, or its public model."""
    name: str | None = None
    revision: str | None = None
    base = run.found.run_config.base
    if model_out:
        name = str(model_out.resolve())
    elif base and (public := find_base(base).run_config.public):
        name, revision = public.name, public.commit or public.revision
    return {"base_model_name_or_path": name, "revision": revision}


def _find(request: RunExport) -> RunCheckpoint:
    """Find the run; the path of a checkpoint also gives the step."""
    path = absolute(request.source)
    if path.parent.name != CHECKPOINTS or not path.name.isdigit():
        return find_run(request.source, request.step)
    if request.step not in (None, int(path.name)):
        raise ConfigError(f"--step={request.step} contradicts the checkpoint of step {path.name}. Fix: remove one.")
    return find_run(path.parent.parent, int(path.name))
