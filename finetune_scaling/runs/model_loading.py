"""Models of runs: initialize one from a config, or find and load the checkpoint of a run or of its base model."""

import contextlib
import dataclasses
import functools
import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from finetune_scaling import configuration
from finetune_scaling.data.tokenizers.interface import Tokenizer
from finetune_scaling.data.tokenizers.loading import load_tokenizer
from finetune_scaling.errors import CheckpointError, WorkdirError
from finetune_scaling.files import Location, location
from finetune_scaling.models.config import ModelConfig, count_parameters
from finetune_scaling.models.ladder import model_config
from finetune_scaling.models.language_model import LanguageModel, Params
from finetune_scaling.models.model_sharding import ModelSharding, check_fits
from finetune_scaling.runs.checkpoints import read_metadata, read_trainable
from finetune_scaling.runs.run_config import BaseConfig, RunConfig, read_run_config
from finetune_scaling.runs.run_data import check_same_encoding
from finetune_scaling.runs.run_directory import RunDirectory
from finetune_scaling.runs.run_paths import checkpoint_path, resolve_base, resolve_tokenizer
from finetune_scaling.sharding.mesh import ShardingConfig, make_mesh
from finetune_scaling.trees import Tree, flatten, parameter_count, with_shardings
from finetune_scaling.tuning.attach import attach, cast_frozen, frozen_dtype, parameter_shapes
from finetune_scaling.tuning.context import check_context
from finetune_scaling.tuning.method import TuningMethod

UNTUNED = TuningMethod(name="untuned", trainable="(?!)")  # a rule that matches no parameter: nothing is trainable
CHANGEABLE_MODEL_FIELDS = (
    "compute_dtype",
    "matmul_precision",
    "remat",
    "attention",
    "max_length",
)  # they change no parameter's shape


class BaseModel(NamedTuple):
    """A pretrained model. metadata: its checkpoint's (step, tokens, digests of arrays and tokenizer)."""

    config: ModelConfig
    params: Params
    metadata: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class TunedModel:
    """A model with its tuning method, trainable and frozen parameters, and tokenizer.

    base_metadata: the metadata of the base model's checkpoint, empty without a base model.
    """

    config: ModelConfig
    tuning: TuningMethod
    trainable: Tree
    frozen: Tree
    tokenizer: Tokenizer
    base_metadata: Mapping[str, Any]
    sharding: ModelSharding


@dataclasses.dataclass(frozen=True)
class UnloadedModel:
    """The model of a run whose parameters have not been read yet."""

    run_config: RunConfig
    config: ModelConfig
    tokenizer: Tokenizer
    base_metadata: Mapping[str, Any]
    sharding: ModelSharding

    @property
    def tuning(self) -> TuningMethod:
        """The tuning method."""
        return self.run_config.tuning

    @functools.cached_property
    def trainable_shapes(self) -> Tree:
        """Shapes, dtypes and shardings of the trainable parameters."""
        trainable, _ = parameter_shapes(self.config, self.tuning)
        return with_shardings(trainable, self.sharding.parameters(trainable))

    def initialize(self) -> TunedModel:
        """Return the model before its first step. Its trainable parameters belong to no other model."""
        trainable, frozen = self._attach()
        return self._model(trainable, frozen)

    def with_trainable(self, trainable: Tree) -> TunedModel:
        """Return the model with trained parameters; the base is read only if it is frozen."""
        if self.tuning.trains_all:
            return self._model(trainable, jax.tree.map(lambda _: None, trainable))
        return self._model(trainable, self._attach()[1])

    def _model(self, trainable: Tree, frozen: Tree) -> TunedModel:
        return TunedModel(
            self.config, self.tuning, trainable, frozen, self.tokenizer, self.base_metadata, self.sharding
        )

    def _attach(self) -> tuple[Tree, Tree]:
        tokens = initial_tokens(self.tuning, self.tokenizer)
        rng = jax.random.key(self.run_config.seeds.parameters)
        trainable, frozen = attach(self.config, self.tuning, rng, self._base_params(), tokens, self.sharding)
        if not self.tuning.trains_all:  # they may be leaves of the base that stays in memory
            trainable = jax.tree.map(jnp.copy, trainable)
        return trainable, frozen

    def _base_params(self) -> Params | None:
        """Return the base's parameters, in float32 if any matrix of the base trains."""
        base, sharding = self.run_config.base, self.run_config.sharding
        if base is None:
            return None
        if self.tuning.trains_all:  # training takes them over, and needs the memory of a base that was kept
            _kept_base.cache_clear()
            return load_base(base.run, base.step, sharding, "float32").params
        dtype = "float32" if _trains_matrices(self.config, self.tuning) else self.config.compute_dtype
        return _load_kept_base(base, sharding, dtype).params


@dataclasses.dataclass(frozen=True)
class RunCheckpoint:
    """One checkpoint of a run, at `path`, and the run's config with the current paths of base and tokenizer."""

    directory: Location
    run_config: RunConfig
    path: Location

    @functools.cached_property
    def metadata(self) -> Mapping[str, Any]:
        """The checkpoint's metadata; no array is read."""
        return read_metadata(self.path)


def initialize_model(run_config: RunConfig) -> TunedModel:
    """Return the model of a run before its first step. Raises as `unloaded_model` does."""
    return unloaded_model(run_config).initialize()


def unloaded_model(run_config: RunConfig) -> UnloadedModel:
    """Return the model of a run without reading parameters.

    Raises:
        CheckpointError: base model, tokenizer and config do not match.
        ConfigError: soft prompt and sequence are longer than the model's context, or devices do not divide the model.
    """
    tokenizer = load_tokenizer(run_config.tokenizer)
    config = configured_model(run_config, tokenizer)
    check_length(config, run_config.tuning, run_config.sequence.length)
    base = run_config.base
    metadata = {} if base is None else read_metadata(_base_checkpoint(base.run, base.step))
    return UnloadedModel(run_config, config, tokenizer, metadata, make_model_sharding(config, run_config.sharding))


def configured_model(run_config: RunConfig, tokenizer: Tokenizer) -> ModelConfig:
    """Return the model of a run, without reading parameters.

    Raises CheckpointError if the base's checkpoint is missing, or base, tokenizer and config do not match.
    """
    if run_config.base is None:
        return model_config(run_config.model, tokenizer.vocab_size)
    path = _base_checkpoint(run_config.base.run, run_config.base.step)
    metadata = read_metadata(path)
    config = _stored_model(path, metadata)
    _check_tokenizer(config, metadata, tokenizer, run_config.base.run, run_config.tokenizer)
    return with_model_changes(config, run_config.model)


def with_base_tokenizer(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's config with the tokenizer of its base if it names none.

    Raises CheckpointError if the base is not a run directory.
    """
    fields = configuration.plain(config)
    base = (fields.get("base") or {}).get("run")
    if base and not fields.get("tokenizer"):
        with _base_errors(base):
            fields["tokenizer"] = _read_config(location(base)).tokenizer
    return fields


def load_run_checkpoint(found: RunCheckpoint) -> TunedModel:
    """Return the model of a run with the parameters of a checkpoint.

    Raises CheckpointError if the checkpoint is damaged or belongs to another base model or tokenizer.
    """
    model = unloaded_model(found.run_config)
    check_matches_model(found.directory, found.metadata, model)
    check_same_encoding(found.directory, found.metadata, found.run_config, model.tokenizer)
    trained, _ = read_trainable(found.path, model.sharding.checkpoint)
    return model.with_trainable(_with_structure_of(model.trainable_shapes, trained, found.directory))


def load_untuned(
    base: BaseConfig, tokenizer: Tokenizer, sharding: ShardingConfig, model_changes: Mapping[str, Any]
) -> TunedModel:
    """Return a base model without tuning. Raises CheckpointError if it is missing or has another tokenizer."""
    path = _base_checkpoint(base.run, base.step)
    metadata = read_metadata(path)
    stored = _stored_model(path, metadata)
    _check_tokenizer(stored, metadata, tokenizer, base.run, "the given one")
    config = with_model_changes(stored, model_changes)
    params = _load_kept_base(base, sharding, config.compute_dtype).params
    return untuned_model(config, params, tokenizer, metadata, make_model_sharding(config, sharding))


def untuned_model(
    config: ModelConfig, params: Params, tokenizer: Tokenizer, metadata: Mapping[str, Any], sharding: ModelSharding
) -> TunedModel:
    """Return a model with all parameters frozen."""
    no_trainable = jax.tree.map(lambda _: None, params)
    return TunedModel(
        config, UNTUNED, no_trainable, cast_frozen(params, config.compute_dtype), tokenizer, metadata, sharding
    )


def make_model_sharding(config: ModelConfig, sharding: ShardingConfig) -> ModelSharding:
    """Return the sharding of a model on the available devices. Raises ConfigError if they do not divide it."""
    model_sharding = ModelSharding(config, make_mesh(sharding), sharding.axes)
    check_fits(config, sharding, model_sharding.mesh)
    return model_sharding


def load_base(
    directory: str | Path,
    step: int | None = None,
    sharding: ShardingConfig | None = None,
    compute_dtype: str | None = None,
) -> BaseModel:
    """Return a pretrained model at `step` (None: the newest).

    compute_dtype: read parameters in the dtypes of frozen ones, see tuning.attach.frozen_dtype; None keeps the stored.

    Raises CheckpointError if the checkpoint is missing, damaged, or holds only what a PET method trained.
    """
    return _read_base(_base_checkpoint(directory, step), sharding or ShardingConfig(), compute_dtype)


def _load_kept_base(base: BaseConfig, sharding: ShardingConfig, compute_dtype: str) -> BaseModel:
    """Return a base whose parameters stay frozen, the last of which is kept in memory for the next run."""
    path = _base_checkpoint(base.run, base.step)
    return _kept_base(path, read_metadata(path)["arrays_digest"], sharding, compute_dtype)


@functools.lru_cache(maxsize=1)
def _kept_base(path: Location, arrays_digest: str, sharding: ShardingConfig, compute_dtype: str) -> BaseModel:
    return _read_base(path, sharding, compute_dtype)


def _base_checkpoint(directory: str | Path, step: int | None) -> Location:
    with _base_errors(str(directory)):
        return checkpoint_path(location(directory), step, prefer_best=False)


def base_model_fields(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model of a base from its checkpoint's metadata: all fields but attention, which suits its device."""
    return {**metadata["model"], "attention": "auto"}


def _stored_model(path: Location, metadata: Mapping[str, Any]) -> ModelConfig:
    return configuration.build(ModelConfig, base_model_fields(metadata), f"{path}: model")


def _read_base(path: Location, sharding: ShardingConfig, compute_dtype: str | None) -> BaseModel:
    config = _stored_model(path, read_metadata(path))
    where = ModelSharding(config, make_mesh(sharding), sharding.axes).checkpoint
    params, metadata = read_trainable(path, where, compute_dtype)
    if parameter_count(params) != count_parameters(config).total:  # missing ones would be initialized at random
        raise CheckpointError(
            f"{path}: holds only the parameters that {metadata['method'].get('name')} trained, not a complete model. "
            "Fix: name a pretrained or fully finetuned run as base.run"
        )
    return BaseModel(config, params, metadata)


def find_run(
    directory: str | Path | Location,
    step: int | None = None,
    sharding: ShardingConfig | None = None,
    model_changes: Mapping[str, Any] | None = None,
) -> RunCheckpoint:
    """Return a run's checkpoint at `step`: by default the best one so far, of a pretraining run the newest.

    Args:
        directory: the run directory.
        step: the checkpoint's step.
        sharding: replaces the sharding of the run's config.
        model_changes: model fields to change; see with_model_changes.

    Raises:
        WorkdirError: `directory` is not a run directory.
        CheckpointError: the checkpoint is missing.
    """
    directory = location(directory)
    run_config = _read_config(directory)
    if sharding is not None:
        run_config = dataclasses.replace(run_config, sharding=sharding)
    run_config = dataclasses.replace(run_config, model={**run_config.model, **(model_changes or {})})
    return RunCheckpoint(directory, run_config, checkpoint_path(directory, step, prefer_best=not run_config.is_base))


def find_base(base: BaseConfig) -> RunCheckpoint:
    """Return the checkpoint of a base model. Raises CheckpointError if the run or the checkpoint is missing."""
    directory = location(base.run)
    with _base_errors(base.run):
        return RunCheckpoint(
            directory, _read_config(directory), checkpoint_path(directory, base.step, prefer_best=False)
        )


def _read_config(directory: Location) -> RunConfig:
    run_config = read_run_config(RunDirectory(directory).config)
    base = None if run_config.base is None else resolve_base(run_config.base, directory)
    return dataclasses.replace(run_config, base=base, tokenizer=resolve_tokenizer(run_config, directory))


def with_model_changes(base: ModelConfig, changes: Mapping[str, Any]) -> ModelConfig:
    """Return the base's model config with changed fields, which may be CHANGEABLE_MODEL_FIELDS only.

    Raises CheckpointError that names the field if another one would change.
    """
    if not changes:
        return base
    fields = configuration.plain(base)
    config = model_config({**fields, **changes})
    for name in configuration.differing_fields(fields, config):
        if name not in CHANGEABLE_MODEL_FIELDS:
            raise CheckpointError(
                f"model.{name} differs from the base's, whose checkpoint has other shapes. Fix: remove model, or name "
                "another base"
            )
    return config


def check_length(config: ModelConfig, tuning: TuningMethod, length: int) -> None:
    """Raise ConfigError if soft prompt and sequence together are longer than the model's context."""
    fix = "shorten the sequence" + (" or the soft prompt" if tuning.prompt_length else "")
    check_context(f"sequence.length = {length}", length, config, tuning, fix)


def _trains_matrices(config: ModelConfig, tuning: TuningMethod) -> bool:
    """Return whether a method trains matrices of the base, whose stored precision it then needs."""
    shapes = flatten(jax.eval_shape(LanguageModel(config).init, jax.random.key(0)))
    return any(
        re.fullmatch(tuning.trainable, name) and frozen_dtype(name, leaf.ndim, config.compute_dtype) != jnp.float32
        for name, leaf in shapes.items()
    )


def check_matches_model(directory: Location, metadata: Mapping[str, Any], model: TunedModel | UnloadedModel) -> None:
    """Raise CheckpointError if a checkpoint with this metadata was trained on another base model or tokenizer."""
    current = {"tokenizer": model.tokenizer.digest, "base": model.base_metadata.get("arrays_digest")}
    for kind, field in (("tokenizer", "tokenizer_sha256"), ("base", "base_digest")):
        if metadata.get(field) != current[kind]:
            raise CheckpointError(
                f"{directory}: was trained on another {kind} (digest {str(metadata.get(field))[:12]}...) than the "
                f"current one ({str(current[kind])[:12]}...). Fix: restore the right {kind}"
            )


def _check_tokenizer(
    model: ModelConfig, metadata: Mapping[str, Any], tokenizer: Tokenizer, base_name: str, tokenizer_name: str
) -> None:
    """Raise CheckpointError if the tokenizer is not that of a base with this model and checkpoint metadata."""
    digest = metadata["tokenizer_sha256"]
    if digest is None:  # a public model that was converted without a tokenizer
        if tokenizer.vocab_size > model.vocab_size:
            raise CheckpointError(
                f"the base {base_name} has embeddings of {model.vocab_size} ids and {tokenizer_name} has "
                f"{tokenizer.vocab_size}. Fix: give the base's own tokenizer"
            )
    elif digest != tokenizer.digest:
        raise CheckpointError(
            f"the base {base_name} was pretrained with another tokenizer than {tokenizer_name}. Fix: give the base's "
            f"own (digest {digest[:12]}...), or '', as configs/finetune/FILE.py:METHOD does for any --config.base.run"
        )


def initial_tokens(tuning: TuningMethod, tokenizer: Tokenizer) -> list[int]:
    """Return the token ids that a method starts from; none where it reads none."""
    if tuning.initial_text is not None:
        return tokenizer.encode(tuning.initial_text)
    return _frequent_tokens(tokenizer, tuning.frequent_tokens) if tuning.frequent_tokens else []


def _frequent_tokens(tokenizer: Tokenizer, count: int) -> list[int]:
    """Return the first `count` ids of ordinary text pieces; SentencePiece and BPE ids are ordered by frequency."""
    own = tokenizer.special_tokens
    special = {tokenizer.pad_id, own.eos_id, own.bos_id, own.unk_id, *own.mode_ids.values(), *own.sentinel_ids}
    candidates = (i for i in range(tokenizer.vocab_size) if i not in special)
    ordinary = (i for i in candidates if tokenizer.decode([i]).strip("\ufffd"))  # others are parts of a character
    return list(itertools.islice(ordinary, count)) or [own.eos_id if own.unk_id is None else own.unk_id]


def _with_structure_of(target: Tree, params: Params, directory: Location) -> Tree:
    """Return `params`, which has no None leaves, in the structure of `target`, whose frozen leaves are None."""
    expected, found = flatten(target), flatten(params)
    for name, leaf in expected.items():
        if name not in found or found[name].shape != leaf.shape:
            raise CheckpointError(
                f"{directory}: its checkpoint has other shapes than its config implies ({name}). Fix: restore the "
                "config.json that the run was trained with"
            )
    return jax.tree.unflatten(jax.tree.structure(target), [found[name] for name in expected])


@contextlib.contextmanager
def _base_errors(name: str) -> Iterator[None]:
    """Raise errors about a base model's directory as CheckpointError."""
    try:
        yield
    except (WorkdirError, CheckpointError) as error:
        exists = "://" in name or Path(name).exists()
        command = "python -m finetune_scaling.convert --from-hf=OWNER/NAME --out=DIR"
        fix = "" if exists else f"; a model on the hub becomes one with `{command}`"
        raise CheckpointError(f"the base {name} cannot be used: {error}{fix}") from error
