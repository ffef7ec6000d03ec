"""A base with a method on it, ready to train or to be scored: from a config, or from a finished run."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from finetune_scaling import configuration
from finetune_scaling.data.tokenizers.interface import Tokenizer
from finetune_scaling.data.tokenizers.loading import load_tokenizer
from finetune_scaling.errors import CheckpointError, ConfigError, WorkdirError
from finetune_scaling.files import Location, absolute, location, modification_time
from finetune_scaling.models.config import ModelConfig, count_parameters
from finetune_scaling.models.ladder import model_config
from finetune_scaling.models.language_model import Params
from finetune_scaling.models.model_sharding import ModelSharding, check_fits
from finetune_scaling.runs.checkpoints import (
    CHECKPOINTS,
    DamagedCheckpointError,
    checkpoint_steps,
    read_metadata,
    read_trainable,
)
from finetune_scaling.runs.run_config import BaseConfig, RunConfig, read_run_config
from finetune_scaling.runs.run_directory import RunDirectory
from finetune_scaling.sharding.mesh import ShardingConfig, make_mesh
from finetune_scaling.trees import Tree, parameter_count
from finetune_scaling.tuning.attach import attach, cast
from finetune_scaling.tuning.method import TuningMethod, configure
from finetune_scaling.tuning.registry import METHODS

TOKENIZER = "tokenizer"  # in the directory of a converted model
UNTUNED = TuningMethod(name="untuned", trainable="(?!)")  # the rule of a model of which nothing trains


class Base(NamedTuple):
    """A pretrained model. metadata: those of its checkpoint (step, tokens, digests of weights and tokenizer)."""

    config: ModelConfig
    params: Params
    metadata: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class TunedModel:
    """Model, method and parameters, trainable and frozen apart, with the tokenizer that they were made for.

    base_metadata: of the base's checkpoint, empty without a base. sharding: of its arrays over the mesh.
    """

    config: ModelConfig
    tuning: TuningMethod
    trainable: Tree
    frozen: Tree
    tokenizer: Tokenizer
    base_metadata: Mapping[str, Any]
    sharding: ModelSharding


def initialize_model(run_config: RunConfig) -> TunedModel:
    """The model of a run config before its first step.

    Raises CheckpointError where base, tokenizer and config do not belong together, ConfigError where soft prompt and
    sequence are longer than the model's context.
    """
    tokenizer = load_tokenizer(run_config.tokenizer)
    tuning = configure(METHODS, run_config.method)
    sharding = run_config.sharding
    base = None if run_config.base is None else load_base(run_config.base.run, run_config.base.step, sharding)
    config = (
        model_config(run_config.model, tokenizer.vocab_size)
        if base is None
        else with_model_changes(base.config, run_config.model)
    )
    if base is not None:
        _check_tokenizer(base, tokenizer, run_config.base.run if run_config.base else "", run_config.tokenizer)
    check_length(config, tuning, run_config.sequence.length)
    model_sharding = ModelSharding(config, make_mesh(sharding), sharding.axes)
    check_fits(config, sharding, model_sharding.mesh)
    rng = jax.random.key(run_config.seeds.parameters)
    common = common_tokens(tokenizer)
    trainable, frozen = attach(config, tuning, rng, None if base is None else base.params, common, model_sharding)
    return TunedModel(
        config, tuning, trainable, frozen, tokenizer, {} if base is None else base.metadata, model_sharding
    )


@dataclasses.dataclass(frozen=True)
class RunCheckpoint:
    """A run's run config, with base and tokenizer where they are now, and the checkpoint `path` that is to be read."""

    directory: Location
    run_config: RunConfig
    path: Location

    @functools.cached_property
    def metadata(self) -> Mapping[str, Any]:
        """The metadata of the checkpoint, its arrays unread."""
        with _mend("train the run"):
            return read_metadata(self.path)


def find_run(
    directory: str | Path | Location,
    step: int | None = None,
    sharding: ShardingConfig | None = None,
    model_changes: Mapping[str, Any] | None = None,
) -> RunCheckpoint:
    """A run and its checkpoint at `step`: by default the best one so far, of a pretraining run the newest.

    sharding: another than the run was trained with; model_changes: fields of the model that change no number.
    Raises WorkdirError where this is no run, CheckpointError where the checkpoint is missing.
    """
    directory = location(directory)
    run_config = resolve_paths(read_run_config(RunDirectory(directory).config), directory)
    if sharding is not None:
        run_config = dataclasses.replace(run_config, sharding=sharding)
    run_config = dataclasses.replace(run_config, model={**run_config.model, **(model_changes or {})})
    return RunCheckpoint(directory, run_config, _checkpoint(directory, step, best=not run_config.is_base))


def load_run(
    directory: str | Path,
    step: int | None = None,
    sharding: ShardingConfig | None = None,
    model_changes: Mapping[str, Any] | None = None,
) -> tuple[TunedModel, RunConfig]:
    """The model of a run, found as by `find_run`, and the run's run config.

    Raises CheckpointError where the checkpoint is missing or damaged, or belongs to another base or tokenizer.
    """
    found = find_run(directory, step, sharding, model_changes)
    return load_run_checkpoint(found), found.run_config


def load_run_checkpoint(found: RunCheckpoint) -> TunedModel:
    """The model of a run that was found; raises as `load_run` does."""
    model = initialize_model(found.run_config)
    with _mend("train the run"):
        trained, metadata = read_trainable(found.path, model.sharding.checkpoint)
    check_matches_model(found.directory, metadata, model)
    return dataclasses.replace(model, trainable=_like(trained, model.trainable, found.directory))


def find_base(base: BaseConfig) -> RunCheckpoint:
    """The pretraining run that is a base, and the checkpoint of it. Raises as `find_run` does."""
    directory = location(base.run)
    with _of_base(base):
        run_config = resolve_paths(read_run_config(RunDirectory(directory).config), directory)
        return RunCheckpoint(directory, run_config, _checkpoint(directory, base.step, best=False))


def load_untuned(
    base: BaseConfig, tokenizer: Tokenizer, sharding: ShardingConfig, model_changes: Mapping[str, Any]
) -> TunedModel:
    """A base as it is: nothing of it trains. Raises CheckpointError where it is missing or has another tokenizer."""
    loaded = load_base(base.run, base.step, sharding)
    _check_tokenizer(loaded, tokenizer, base.run, "the one given")
    config = with_model_changes(loaded.config, model_changes)
    model_sharding = make_placement(config, sharding)
    return untuned_model(config, loaded.params, tokenizer, loaded.metadata, model_sharding)


def make_placement(config: ModelConfig, sharding: ShardingConfig) -> ModelSharding:
    """Where a model lives on this program's devices. Raises ConfigError where they do not divide it."""
    model_sharding = ModelSharding(config, make_mesh(sharding), sharding.axes)
    check_fits(config, sharding, model_sharding.mesh)
    return model_sharding


def untuned_model(
    config: ModelConfig,
    params: Params,
    tokenizer: Tokenizer,
    metadata: Mapping[str, Any],
    model_sharding: ModelSharding,
) -> TunedModel:
    """A whole model of which nothing trains, in the dtype that it computes in."""
    nothing = jax.tree.map(lambda _: None, params)
    return TunedModel(config, UNTUNED, nothing, cast(params, config.compute_dtype), tokenizer, metadata, model_sharding)


@contextlib.contextmanager
def _of_base(base: BaseConfig) -> Iterator[None]:
    try:
        yield
    except (WorkdirError, CheckpointError) as error:
        raise CheckpointError(f"the base {base.run} cannot be used: {error}") from error


def resolve_paths(run_config: RunConfig, directory: Location) -> RunConfig:
    """The run config with its base and tokenizer where they are now, if the whole study was moved or copied.

    A public model that was converted has its tokenizer in its own directory.

    They are looked for above the run, under the last names that their recorded paths have: a copy has its own, and
    what is written beside them belongs there, though the original may still be where the record says. Digests tell
    later whether they are the right ones.
    """

    def found(recorded: str, names: int) -> str:
        if not recorded:  # a public model that came in without a tokenizer
            return recorded
        parts = Path(recorded).parts
        studys = [place for place, part in enumerate(parts) if part in ("bases", "tokenizers")]  # a study's folders
        tail = Path(*parts[min([*studys[-1:], len(parts) - names]) :])
        return next(
            (str(parent / tail) for parent in absolute(directory).parents if (parent / tail).exists()), recorded
        )

    base = run_config.base
    its_own = run_config.public is not None and run_config.tokenizer
    return dataclasses.replace(
        run_config,
        tokenizer=str(directory / TOKENIZER) if its_own else found(run_config.tokenizer, 2),  # tokenizers/FAMILY
        base=None if base is None else dataclasses.replace(base, run=found(base.run, 3)),  # bases/FAMILY/SIZE
    )


def check_matches_model(directory: Location, metadata: Mapping[str, Any], model: TunedModel) -> None:
    """Raises CheckpointError where a checkpoint with these metadata was trained on another base or tokenizer."""
    for name, now in (
        ("tokenizer_sha256", model.tokenizer.digest),
        ("base_digest", model.base_metadata.get("arrays_digest")),
    ):
        if metadata.get(name) != now:
            kind = name.partition("_")[0]
            raise CheckpointError(
                f"{directory}: was trained on another {kind} (digest {str(metadata.get(name))[:12]}...) than the "
                f"one there is now ({str(now)[:12]}...); put the right {kind} back"
            )


def load_base(directory: str | Path, step: int | None = None, sharding: ShardingConfig | None = None) -> Base:
    """A pretrained run's model at `step`, its last one by default. The two newest bases are kept in memory.

    Raises CheckpointError where the checkpoint is missing or damaged, or does not hold a whole model.
    """
    with _of_base(BaseConfig(str(directory), step)):
        where = _checkpoint(location(directory), step, best=False)
    return _read_base(where, modification_time(where / "facts" / "metadata"), sharding or ShardingConfig())


@functools.lru_cache(maxsize=2)
def _read_base(where: Location, changed: int, sharding: ShardingConfig) -> Base:
    with _mend("pretrain it"):
        config = configuration.build(ModelConfig, read_metadata(where)["model"], f"{where}: model")
        params, metadata = read_trainable(where, ModelSharding(config, make_mesh(sharding), sharding.axes).checkpoint)
    if parameter_count(params) != count_parameters(config).total:  # what is missing would be drawn at random
        raise CheckpointError(
            f"{where}: holds what {metadata['method'].get('name')} trained and no whole model; name a pretrained or "
            "fully tuned run as base.run"
        )
    return Base(config, params, metadata)


@contextlib.contextmanager
def _mend(again: str) -> Iterator[None]:
    """Says what to do about a damaged checkpoint that nothing can stand in for."""
    try:
        yield
    except DamagedCheckpointError as error:
        raise CheckpointError(f"{error}; put a good copy back, or {again} anew in an empty directory") from error


def common_tokens(tokenizer: Tokenizer) -> list[int]:
    """Ids of ordinary text pieces, the commonest first: SentencePiece numbers its pieces by score, BPE as it merges."""
    own = tokenizer.special_tokens
    special = {tokenizer.pad_id, own.eos_id, own.bos_id, own.unk_id, *own.mode_ids.values(), *own.sentinel_ids}
    ordinary = [i for i in range(tokenizer.vocab_size) if i not in special and tokenizer.decode([i]).strip("\ufffd")]
    return ordinary or [own.eos_id if own.unk_id is None else own.unk_id]


def _checkpoint(run: Location, step: int | None, *, best: bool) -> Location:
    """The folder of a run's checkpoint at `step`; without one, of the best or the newest."""
    steps = list(checkpoint_steps(run))
    if step is None and best:
        step = _best_step(run, steps)
    if step is None and steps:
        step = steps[0]
    if step not in steps:
        there = f"there are {sorted(steps)}" if steps else "there is none; train the run first"
        raise CheckpointError(f"{run}: no checkpoint{'' if step is None else f' of step {step}'}; {there}")
    return run / CHECKPOINTS / str(step)


def _best_step(run: Location, steps: list[int]) -> int | None:
    """The best step of a run, finished or not; None before its first evaluation."""
    record = RunDirectory(run).result
    if record is None and not steps:
        return None
    metadata = record or read_metadata(run / CHECKPOINTS / str(steps[0]))
    return metadata["best_step"]


def with_model_changes(base: ModelConfig, changes: Mapping[str, Any]) -> ModelConfig:
    """The base's model with what may change while finetuning: how it is computed, and its context length.

    Raises CheckpointError that names the field where another one would change.
    """
    if not changes:
        return base
    fields = configuration.plain(base)
    config = model_config({**fields, **changes})
    free = ("compute_dtype", "remat", "attention", "max_length")
    differing = [name for name in configuration.differing_fields(fields, config) if name not in free]
    if differing:
        raise CheckpointError(
            f"model.{differing[0]} differs from the base's, whose checkpoint has another shape; leave model out, or "
            "name another base"
        )
    return config


def _check_tokenizer(base: Base, tokenizer: Tokenizer, base_name: str, tokenizer_name: str) -> None:
    if base.metadata["tokenizer_sha256"] is None:  # a public model that was converted without one
        if tokenizer.vocab_size > base.config.vocab_size:
            raise CheckpointError(
                f"the base {base_name} has embeddings of {base.config.vocab_size} ids and {tokenizer_name} has "
                f"{tokenizer.vocab_size}; give the base's own tokenizer"
            )
    elif base.metadata["tokenizer_sha256"] != tokenizer.digest:
        raise CheckpointError(
            f"the base {base_name} was pretrained with another tokenizer than "
            f"{tokenizer_name}; give the base's own (digest {base.metadata['tokenizer_sha256'][:12]}...)"
        )


def check_length(config: ModelConfig, tuning: TuningMethod, length: int) -> None:
    """Raises ConfigError where soft prompt and sequence together are longer than the model's context."""
    total = length + tuning.prefix_length
    if total > config.max_length:
        raise ConfigError(
            f"sequence.length = {length} and a soft prompt of {tuning.prefix_length} make {total} tokens, more than "
            f"the model's context, max_length = {config.max_length}; shorten one of them"
        )


def _like(trained: Params, trainable: Tree, directory: Location) -> Tree:
    """`trained`, which holds no None, in the structure of `trainable`."""

    def pick(target: Any, tree: Any) -> Any:
        if isinstance(target, dict):
            return {name: pick(value, (tree or {}).get(name)) for name, value in target.items()}
        if target is None:
            return None
        if tree is None or tree.shape != target.shape:
            raise CheckpointError(f"{directory}: its checkpoint has another shape than its config says")
        return tree

    return pick(trainable, trained)
