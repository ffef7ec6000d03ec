"""The model that an evaluation scores: a finetuned run, its base model, or a public model."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from finetune_scaling import configuration
from finetune_scaling.data.tokenizers.hugging_face import (
    HuggingFaceTokenizer,
    load_hugging_face_tokenizer,
    read_model_fields,
)
from finetune_scaling.data.tokenizers.loading import load_tokenizer
from finetune_scaling.errors import ConfigError
from finetune_scaling.files import Location, local_path
from finetune_scaling.interop.hugging_face_model import files_digest, load_model, open_model
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.paths import user_path
from finetune_scaling.runs.model_loading import (
    RunCheckpoint,
    TunedModel,
    find_run,
    load_run_checkpoint,
    load_untuned,
    make_model_sharding,
    untuned_model,
)
from finetune_scaling.runs.run_config import BaseConfig, RunConfig, SequenceConfig
from finetune_scaling.sharding.mesh import ShardingConfig

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class EvaluatedModel:
    """A model to score; its parameters are read on demand.

    Attributes:
      directory: directory whose subdirectory evaluation/ receives the records.
      run_config: config of the run; for a public model, of the finetuning run whose task it is scored on.
      checkpoint: step and digest of the parameters; for a public model, the digest of its files.
      base: the base model whose scores are reported next to its own; None if there is none.
      load: reads the parameters.
      is_base: whether it is scored as a base model, without a tuning method.
      split_digests: digests of the splits of its own task when it was trained.
    """

    directory: Location
    run_config: RunConfig
    config: ModelConfig
    checkpoint: Mapping[str, Any]
    base: BaseConfig | None
    load: Callable[[], TunedModel]
    is_base: bool = False
    split_digests: Mapping[str, str] = dataclasses.field(default_factory=dict)


def open_run(
    directory: str | Path, step: int | None, sharding: ShardingConfig, model_changes: Mapping[str, Any]
) -> EvaluatedModel:
    """Return a run (finetuned or pretrained) as an evaluated model; no array is read yet.

    Raises the errors of `find_run`.
    """
    found = find_run(directory, step, sharding, model_changes)
    run_config = found.run_config
    if run_config.is_base:
        return base_model(found, run_config.tokenizer, sharding, model_changes)
    load = functools.partial(load_run_checkpoint, found)
    digests = found.metadata.get("split_digests", {})  # older checkpoints have none
    return EvaluatedModel(
        found.directory,
        run_config,
        _model_config(found),
        _checkpoint(found),
        run_config.base,
        load,
        split_digests=digests,
    )


def base_model(
    found: RunCheckpoint, tokenizer: str, sharding: ShardingConfig, model_changes: Mapping[str, Any]
) -> EvaluatedModel:
    """Return a pretraining run as an evaluated model that is not tuned."""
    checkpoint = _checkpoint(found)
    base = BaseConfig(str(found.directory), checkpoint["step"])
    load = functools.partial(load_untuned, base, load_tokenizer(tokenizer), sharding, model_changes)
    return EvaluatedModel(found.directory, found.run_config, _model_config(found), checkpoint, None, load, is_base=True)


def _model_config(found: RunCheckpoint) -> ModelConfig:
    return configuration.build(ModelConfig, found.metadata["model"], f"{found.path}: model")


def _checkpoint(found: RunCheckpoint) -> dict[str, Any]:
    """Return step and digest of a run's checkpoint."""
    return {"step": int(found.path.name), "arrays_digest": found.metadata["arrays_digest"]}


def open_public_model(
    directory: str | Path,
    finetuning: RunConfig | None,
    tokenizer_directory: str,
    sharding: ShardingConfig,
    model_changes: Mapping[str, Any],
) -> tuple[EvaluatedModel, HuggingFaceTokenizer]:
    """Return a public model in the Hugging Face format, and its tokenizer; no tensor is kept in memory yet.

    Args:
      finetuning: the run config whose task and sequence format the model is scored on.
      tokenizer_directory: "" for the model's own tokenizer.

    Raises:
      ConfigError: `finetuning` is missing or not causal, or the decoder does not support the model.
      CheckpointError: files are missing or do not match the config.
      DataError: the tokenizer's files are missing or damaged.
    """
    directory = local_path(directory, "a public model")
    config = dataclasses.replace(open_model(directory)[1], **model_changes)
    if finetuning is None:
        raise ConfigError(f"{directory}: a public model has no task; give a finetuning run's config with --config=FILE")
    _check_causal(finetuning.sequence)
    tokenizer_path = Path(user_path(tokenizer_directory or directory))
    tokenizer = load_hugging_face_tokenizer(tokenizer_path, read_model_fields(directory))
    run_config = dataclasses.replace(
        finetuning, base=None, model=configuration.plain(config), method={"name": "full"}, tokenizer=str(tokenizer_path)
    )
    log.info("%s: computing the digest of the weights", directory)
    checkpoint = {"files_sha256": files_digest(directory)}

    def load() -> TunedModel:
        model_sharding = make_model_sharding(config, sharding)
        _, params = load_model(directory, model_sharding.parameters)
        return untuned_model(config, params, tokenizer, {}, model_sharding)

    return EvaluatedModel(directory, run_config, config, checkpoint, None, load, is_base=True), tokenizer


def _check_causal(sequence: SequenceConfig) -> None:
    """Raise ConfigError if a config asks for bidirectional attention or a mode token, which public models lack."""
    if sequence.bidirectional_input or sequence.mode:
        raise ConfigError(
            f"sequence.bidirectional_input = {sequence.bidirectional_input}, sequence.mode = {sequence.mode!r}: public "
            "models are causal and have no mode tokens; add --config.sequence.bidirectional_input=False "
            "--config.sequence.mode="
        )
