"""Import of a PEFT adapter as a run, to be evaluated, merged, exported or trained like one that was trained here."""

import contextlib
import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune_scaling import configuration
from finetune_scaling.errors import CheckpointError, ConfigError
from finetune_scaling.files import absolute, check_new, local_path, new_directory, read_json, sha256
from finetune_scaling.interop.families.matching_family import families_for, match_family
from finetune_scaling.interop.peft.adapter_format import (
    CONFIG,
    WEIGHTS,
    ConvertedAdapter,
    PeftAdapter,
    read_peft_adapter,
)
from finetune_scaling.interop.peft.registry import import_peft_adapter
from finetune_scaling.interop.peft.saved_embeddings import without_saved_embeddings
from finetune_scaling.interop.peft.saved_tokenizer import check_saved_tokenizer
from finetune_scaling.interop.weights.run_weights import PROVENANCE
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.paths import user_path
from finetune_scaling.runs.checkpoints import CheckpointMetadata, Checkpoints
from finetune_scaling.runs.model_loading import RunCheckpoint, check_length, find_base
from finetune_scaling.runs.run_config import BaseConfig, RunConfig, read_run_config
from finetune_scaling.runs.run_directory import RunDirectory
from finetune_scaling.runs.streamed_checkpoint import StreamedCheckpoint
from finetune_scaling.runs.training_progress import TrainingProgress
from finetune_scaling.training.step import State, init_state
from finetune_scaling.trees import unflatten
from finetune_scaling.tuning.method import configure
from finetune_scaling.tuning.registry import METHODS


@dataclasses.dataclass(frozen=True)
class AdapterImport:
    """A request to import a PEFT adapter.

    Attributes:
        adapter: The adapter's directory.
        base: The run that the adapter extends.
        out: Directory of the new run.
        step: Checkpoint of the base; None for the newest.
        config: A finetuning config, whose task the adapter is evaluated and trained on; empty for none.
    """

    adapter: str
    base: str
    out: str
    step: int | None = None
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def import_adapter(request: AdapterImport) -> dict[str, Any]:
    """Create the run after checking everything; return a summary.

    Raises:
        CheckpointError: The adapter is damaged or belongs to another base or tokenizer.
        ConfigError: The adapter has an option that is not supported, or the config does not fit it.
        WorkdirError: `out` is not empty.
    """
    directory, out = Path(user_path(request.adapter)), local_path(request.out, "an imported adapter")
    check_new(out)
    base = find_base(BaseConfig(request.base, request.step))
    model = _base_model(base)
    source = read_peft_adapter(directory)
    match = match_family(model, families_for(base), str(base.directory))
    source = without_saved_embeddings(source, match, StreamedCheckpoint(base.path))
    adapter = import_peft_adapter(source, match)
    _check_base(directory, source, base)
    check_saved_tokenizer(directory, base.run_config.tokenizer, model.vocab_size)
    config = _run_config(request, adapter, base, model)
    checkpoint = _checkpoint(read_run_config(config), model, adapter, base)
    with new_directory(out) as unfinished:
        RunDirectory(unfinished).write_config(config)
        with contextlib.closing(Checkpoints(unfinished)) as checkpoints:
            checkpoints.save(0, *checkpoint)
    trained = sum(leaf.size for leaf in adapter.leaves.values())
    return {"out": str(out), "method": dict(adapter.method), "trainable_parameters": trained, "base": str(base.path)}


def _base_model(base: RunCheckpoint) -> ModelConfig:
    """Return the base's config. Raises CheckpointError where the run holds an adapter itself."""
    if not configure(METHODS, base.metadata["method"]).trains_all:
        raise CheckpointError(f"{base.path}: holds an adapter, not a model. Fix: give --base=RUN the adapter's base.")
    return configuration.build(ModelConfig, base.metadata["model"], f"{base.path}: model")


def _check_base(directory: Path, adapter: PeftAdapter, base: RunCheckpoint) -> None:
    """Raise CheckpointError where the adapter's files name another base than this one."""
    if (record := directory / PROVENANCE).is_file():
        fields = read_json(record, fix="copy it again")
        trained_on = fields.get("base_digest") if isinstance(fields, dict) else fields
        if trained_on not in (None, base.metadata["arrays_digest"]):
            raise CheckpointError(
                f"{record}: base_digest = {trained_on!r}, but {base.path} has digest "
                f"{base.metadata['arrays_digest']!r}. Fix: give --base=RUN the base that the adapter was trained on; "
                f"if the weights are the same, remove {record}."
            )
    name, public = str(adapter.fields.get("base_model_name_or_path") or ""), base.run_config.public
    if public and _is_hub_name(public.name) and _is_hub_name(name) and name.lower() != public.name.lower():
        raise CheckpointError(
            f"{directory / CONFIG}: base_model_name_or_path = {name!r}, but {base.directory} was imported from "
            f"{public.name!r}. Fix: give --base=RUN a base imported from {name!r}; if the two are the same model, "
            "change the field."
        )


def _is_hub_name(name: str) -> bool:
    """Return whether a model's name is OWNER/NAME on the hub rather than a local directory."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None and not Path(name).exists()


def _run_config(
    request: AdapterImport, adapter: ConvertedAdapter, base: RunCheckpoint, model: ModelConfig
) -> dict[str, Any]:
    """Return the run's config: the given one with the adapter's method, base and tokenizer."""
    given = configuration.plain(request.config)
    name = (given.get("method") or {}).get("name") or adapter.method["name"]
    if name != adapter.method["name"]:
        raise ConfigError(
            f"--config: method.name = {name!r}, but the adapter's method is {adapter.method['name']!r}. Fix: give the "
            "config of that method."
        )
    if not given:  # no task: use the complete context that virtual tokens leave
        length = max(1, model.max_length - adapter.method.get("length", 0))
        given = {"sequence": {"length": length}, "limits": {"max_steps": 1}}
    return {
        **given,
        "method": _all_options(adapter.method),
        "base": {"run": str(absolute(base.directory)), "step": int(base.path.name)},
        "tokenizer": given.get("tokenizer") or base.run_config.tokenizer,
        "adapter": {
            "name": str(absolute(request.adapter)),
            "weights_sha256": sha256(Path(request.adapter) / WEIGHTS),
        },
    }


def _all_options(method: Mapping[str, Any]) -> dict[str, Any]:
    """Return a `method` block completed with the defaults of the options that PEFT lacks, as configs list them."""
    options = {name: value for name, value in method.items() if name != "name"}
    complete: Any = configuration.build(METHODS[method["name"]].options, options, "method")
    return {"name": method["name"], **configuration.plain(complete)}


def _checkpoint(
    run_config: RunConfig, model: ModelConfig, adapter: ConvertedAdapter, base: RunCheckpoint
) -> tuple[State, CheckpointMetadata]:
    """Return the checkpoint of step 0: the adapter with a fresh optimizer state, and its metadata."""
    tuning = run_config.tuning
    check_length(model, tuning, run_config.sequence.length)
    metadata = {
        "model": configuration.plain(model),
        "method": configuration.plain(run_config.method),
        "tokenizer_sha256": base.metadata["tokenizer_sha256"],
        "base_digest": base.metadata["arrays_digest"],
        "tokens_per_step": run_config.tokens_per_step,
        "position": dataclasses.asdict(TrainingProgress()),
        "best_step": None,
    }
    return init_state(unflatten(adapter.leaves), run_config.optimizer), metadata
