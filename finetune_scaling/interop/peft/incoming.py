"""A PEFT adapter as a run of ours: scored, merged, written out or trained on like one that was trained here."""

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune_scaling import configuration
from finetune_scaling.errors import CheckpointError, ConfigError
from finetune_scaling.files import absolute, check_new, local_path, new_directory, read_json, sha256
from finetune_scaling.interop.families.standard_form import standard_form
from finetune_scaling.interop.peft.adapter_config import CONFIG, WEIGHTS
from finetune_scaling.interop.peft.read import ReadAdapter, read_adapter
from finetune_scaling.interop.provenance import PROVENANCE
from finetune_scaling.interop.source import families_for, is_hub_name, source_of
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.runs.checkpoints import CheckpointMetadata, Checkpoints
from finetune_scaling.runs.model_loading import RunCheckpoint, check_length, find_base
from finetune_scaling.runs.run_config import BaseConfig, RunConfig, read_run_config
from finetune_scaling.runs.run_directory import RunDirectory
from finetune_scaling.runs.training_progress import TrainingProgress
from finetune_scaling.training.step import State, init_state
from finetune_scaling.trees import unflatten
from finetune_scaling.tuning.method import configure
from finetune_scaling.tuning.registry import METHODS


@dataclasses.dataclass(frozen=True)
class Incoming:
    """adapter: its directory; base: the run that it stands on, at `step` (None: the newest); out: the new run's.

    config: of a finetuning run, whose task the adapter is scored on and trained on with; empty for none.
    """

    adapter: str
    base: str
    out: str
    step: int | None = None
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def bring_in(incoming: Incoming) -> dict[str, Any]:
    """Makes the run; returns the figures for its user. All is checked before anything is written.

    Raises CheckpointError where the adapter is damaged or was made for another base, ConfigError for what our adapters
    do not compute or the config does not fit, WorkdirError where `out` is not empty.
    """
    directory, out = Path(incoming.adapter), local_path(incoming.out, "a run of an adapter")
    check_new(out)
    base = find_base(BaseConfig(incoming.base, incoming.step))
    model = _whole_model(base)
    form = standard_form(model, families_for(base), str(base.directory))
    adapter = read_adapter(directory, form)
    _check_base(directory, adapter, base)
    config = _config(incoming, adapter, base, model)
    run_config = read_run_config(config)
    checkpoint = _checkpoint(run_config, model, adapter, base)
    with new_directory(out) as unfinished:
        RunDirectory(unfinished).write_config(config)
        with contextlib.closing(Checkpoints(unfinished)) as checkpoints:
            checkpoints.save(0, *checkpoint)
    trained = sum(leaf.size for leaf in adapter.leaves.values())
    return {"out": str(out), "method": dict(adapter.method), "trainable_parameters": trained, "base": str(base.path)}


def _whole_model(base: RunCheckpoint) -> ModelConfig:
    if configure(METHODS, base.metadata["method"]).size is not None:
        raise CheckpointError(f"{base.path}: holds an adapter itself; name the run that it was trained on as --base")
    return configuration.build(ModelConfig, base.metadata["model"], f"{base.path}: model")


def _check_base(directory: Path, adapter: ReadAdapter, base: RunCheckpoint) -> None:
    """Raises CheckpointError where the adapter says that it was made for another base than this one."""
    record = directory / PROVENANCE
    known = _recorded_base(record) if record.is_file() else None
    if known not in (None, base.metadata["arrays_digest"]):
        raise CheckpointError(
            f"{directory}: was trained on another base (digest {known[:12]}...) than {base.path} (digest "
            f"{base.metadata['arrays_digest'][:12]}...); name its own as --base. Where the weights are the same all "
            f"the same, as in a base that was converted again, remove {PROVENANCE}"
        )
    name, source = str(adapter.fields.get("base_model_name_or_path") or ""), source_of(base)
    if source is not None and source.is_of_hub and is_hub_name(name) and name.lower() != source.name.lower():
        raise CheckpointError(
            f"{directory / CONFIG}: base_model_name_or_path = {name!r}, but {base.directory} was converted from "
            f"{source.name!r}; name a base of the former as --base, or change the field where both are the same model"
        )


def _recorded_base(record: Path) -> str | None:
    """The digest of the base that an adapter of ours was trained on."""
    fields = read_json(record, mend="copy it again")
    known = fields.get("base_digest") if isinstance(fields, Mapping) else fields
    if known is not None and not isinstance(known, str):
        raise CheckpointError(f"{record}: names no base_digest; copy it again")
    return known


def _config(incoming: Incoming, adapter: ReadAdapter, base: RunCheckpoint, model: ModelConfig) -> dict[str, Any]:
    """The run's config: what was given, with method, base and tokenizer as they have to be."""
    given = configuration.without_unset(incoming.config)
    asked = given.get("method", {}).get("name", adapter.method["name"])
    if asked != adapter.method["name"]:
        raise ConfigError(
            f"--config: method.name = {asked!r}, but the adapter is {adapter.method['name']!r}; give the config of that"
        )
    origin = {"name": str(absolute(incoming.adapter)), "weights_sha256": sha256(Path(incoming.adapter) / WEIGHTS)}
    place = {"run": str(absolute(base.directory)), "step": int(base.path.name)}
    tokenizer = given.get("tokenizer") or base.run_config.tokenizer
    shared = {"method": dict(adapter.method), "base": place, "tokenizer": tokenizer, "adapter": origin}
    return {**(given or _without_task(model, adapter)), **shared}


def _without_task(model: ModelConfig, adapter: ReadAdapter) -> dict[str, Any]:
    """What a config has to say of a run that nothing is known of: all of the context that a soft prompt leaves."""
    room = model.max_length - adapter.method.get("length", 0)
    return {"sequence": {"length": max(1, room)}, "limits": {"max_steps": 1}}


def _checkpoint(
    run_config: RunConfig, model: ModelConfig, adapter: ReadAdapter, base: RunCheckpoint
) -> tuple[State, CheckpointMetadata]:
    """The checkpoint of step 0: the adapter's parameters, a new optimizer state, and a run's metadata."""
    tuning = configure(METHODS, run_config.method)
    check_length(model, tuning, run_config.sequence.length)
    metadata = {
        "model": configuration.plain(model),
        "method": configuration.plain(run_config.method),
        "tokenizer_sha256": base.metadata["tokenizer_sha256"],
        "base_digest": base.metadata["arrays_digest"],
        "tokens_per_step": run_config.batch_size * run_config.row_length,
        "position": dataclasses.asdict(TrainingProgress()),
        "best_step": None,
    }
    return init_state(unflatten(adapter.leaves), run_config.optimizer), metadata
