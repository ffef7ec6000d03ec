"""What leaves of a run, by what is asked: its tuned model, its base, its adapter; each a directory of its own."""

import dataclasses
from pathlib import Path
from typing import Any

from finetune_scaling.errors import ConfigError
from finetune_scaling.files import absolute, check_new, local_path
from finetune_scaling.interop.export import plan_export, write_model
from finetune_scaling.interop.families.standard_form import standard_form
from finetune_scaling.interop.hugging_face import is_model
from finetune_scaling.interop.peft.export import BaseName, plan_adapter, write_adapter
from finetune_scaling.interop.provenance import provenance
from finetune_scaling.interop.source import families_for, source_of
from finetune_scaling.interop.tokenizers.tokenizer_files import tokenizer_files
from finetune_scaling.interop.weights.run_weights import TrainedRun, read_run
from finetune_scaling.runs.checkpoints import CHECKPOINTS
from finetune_scaling.runs.model_loading import RunCheckpoint, find_base, find_run

ADAPTER = "adapter"  # the folder of an adapter that is written with its base


@dataclasses.dataclass(frozen=True)
class Outgoing:
    """source: a run or one of its checkpoints; step: None for the best, of a whole model the newest.

    model, adapter: directories to write, "" for none. merged: whether an adapter goes into the model; where not, the
    model is its base, and the adapter stands below it unless a directory is named. dtype: None keeps the stored ones.
    """

    source: str
    step: int | None = None
    model: str = ""
    adapter: str = ""
    merged: bool = True
    dtype: str | None = None


def write_out(outgoing: Outgoing) -> dict[str, Any]:
    """Writes what is asked; returns the figures for its user. All is checked before anything is written.

    Raises ConfigError where there is no standard form of it, WorkdirError where a directory is not empty or has not the
    room, and otherwise as `read_run` does.
    """
    model_out, adapter_out = _directories(outgoing)
    found = _find(outgoing)
    run = read_run(found)
    if not outgoing.merged and run.is_whole:
        raise ConfigError(f"{found.directory}: {run.tuning.name} tuned the model itself; leave --no-merge out")
    form = standard_form(run.model, families_for(found), str(found.directory))
    adapter = plan_adapter(run, form, _base_name(run, model_out, outgoing)) if adapter_out else None
    figures = {}
    if model_out:
        export = plan_export(run, form, merged=outgoing.merged, dtype=outgoing.dtype)
        tokenizer = tokenizer_files(found.run_config.tokenizer, run.model.vocab_size)
        figures["model"] = write_model(export, model_out, tokenizer, provenance(run))
    if adapter_out and adapter:
        figures["adapter"] = write_adapter(adapter, adapter_out, run)
    return figures


def _directories(outgoing: Outgoing) -> tuple[Path | None, Path | None]:
    """Those of the model and of the adapter, which may not have anything in them. Raises WorkdirError otherwise."""
    model = local_path(outgoing.model, "a model for others") if outgoing.model else None
    adapter = local_path(outgoing.adapter, "an adapter for others") if outgoing.adapter else None
    if model and not adapter and not outgoing.merged:
        adapter = model / ADAPTER
    if model and adapter and (model == adapter or adapter in model.parents):
        raise ConfigError(f"--to-hf={model} would be in --to-peft={adapter}; give each a directory of its own")
    for directory in (model, adapter):
        if directory:
            check_new(directory)
    return model, adapter


def _base_name(run: TrainedRun, model_out: Path | None, outgoing: Outgoing) -> BaseName:
    """How an adapter calls its base: the directory where that is written with it, or what it was converted from."""
    if model_out and not outgoing.merged:
        return BaseName(str(model_out.resolve()))
    source = source_of(find_base(run.found.run_config.base)) if run.found.run_config.base else None
    return BaseName(source.name, source.revision) if source else BaseName()


def _find(outgoing: Outgoing) -> RunCheckpoint:
    """The run; a path of one of its checkpoints says the step, too."""
    path = absolute(outgoing.source)
    if is_model(path):
        raise ConfigError(f"{path}: is a public model, and no run; bring it in first: --from-hf={path} --out=DIR")
    if path.parent.name != CHECKPOINTS or not path.name.isdigit():
        return find_run(outgoing.source, outgoing.step)
    if outgoing.step not in (None, int(path.name)):
        raise ConfigError(f"--step={outgoing.step} and a checkpoint of step {path.name}; leave one of them out")
    return find_run(path.parent.parent, int(path.name))
