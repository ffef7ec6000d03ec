"""Optimizers and learning-rate schedules.

The learning rate is an argument of the compiled step, so that runs with different schedules share one program.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import optax

from finetune_scaling import configuration
from finetune_scaling.errors import ConfigError
from finetune_scaling.trees import Tree, path_name

MODEL_WEIGHTS = r"embedding|head|layers/.*/kernel"  # names of the model's own matrices


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Adafactor (Shazeer & Stern, 2018) as in arXiv 2402.17193, or AdamW (Loshchilov & Hutter, 2019).

    parameter_scale (of Adafactor; AdamW ignores it): multiply each update by the root mean square of its parameter, at
    least 1e-3; a scanned stack of layers counts as one parameter. factored_parameters (Adafactor): regular expression;
    second moments are factored for matching names with two dimensions of at least min_factored_size. Adapters and
    prompts are not factored by default: the factor of a law, such as rank, must not change the optimizer.
    clip_norm: limit of the gradient's global norm. weight_decay: decoupled, of parameters that decayed_parameters
    matches; by default not of norms, biases, prompts and LoRA's B.
    learning_rate_multipliers: (regular expression, factor) pairs; the first expression that matches a parameter's whole
    name multiplies its learning rate, before those of the method.
    """

    name: Literal["adafactor", "adamw"] = "adafactor"
    parameter_scale: bool = True
    factored_parameters: str = MODEL_WEIGHTS
    min_factored_size: int = 128
    clip_norm: float | None = 1.0
    weight_decay: float = 0.0
    decayed_parameters: str = rf"{MODEL_WEIGHTS}|.*/(lora_a|adapter_(down|up))"
    b1: float = 0.9
    b2: float = 0.999
    learning_rate_multipliers: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        if self.name == "adafactor" and (self.b1, self.b2) != (0.9, 0.999):
            raise ConfigError(
                f"optimizer.b1 = {self.b1} and b2 = {self.b2} need AdamW. Fix: set optimizer.name = adamw, or "
                "b1 = 0.9 and b2 = 0.999, which Adafactor does not read"
            )
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ConfigError(f"optimizer.clip_norm = {self.clip_norm} must be above 0; None disables clipping")
        if not 0 <= self.weight_decay < math.inf:
            raise ConfigError(f"optimizer.weight_decay = {self.weight_decay} must be at least 0")
        for name in ("b1", "b2"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"optimizer.{name} = {getattr(self, name)} must be at least 0 and below 1")
        for pattern, factor in self.learning_rate_multipliers:
            if not 0 <= factor < math.inf:
                raise ConfigError(
                    f"optimizer.learning_rate_multipliers: the factor {factor} of {pattern!r} must be at least 0"
                )
            _check_pattern("learning_rate_multipliers", pattern)
        if self.min_factored_size < 1:
            raise ConfigError(f"optimizer.min_factored_size = {self.min_factored_size} must be at least 1")
        for name in ("factored_parameters", "decayed_parameters"):
            _check_pattern(name, getattr(self, name))


def _check_pattern(field: str, pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ConfigError(
            f"optimizer.{field}: {pattern!r} is not a regular expression: {error}. "
            "Fix: correct it, and escape special characters with a backslash"
        ) from error


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Return a transformation of gradients to updates for a learning rate of 1, which the step scales."""
    clip = optax.identity() if config.clip_norm is None else optax.clip_by_global_norm(config.clip_norm)
    rules = _adafactor(config) if config.name == "adafactor" else [optax.scale_by_adam(b1=config.b1, b2=config.b2)]
    decay = optax.add_decayed_weights(-config.weight_decay, functools.partial(_matching, config.decayed_parameters))
    # Checkpoints name the optimizer's arrays by their place in this chain.
    return optax.chain(clip, optax.chain(*rules, optax.scale(-1.0)), decay)


def _adafactor(config: OptimizerConfig) -> list[optax.GradientTransformation]:
    """Return the parts of optax.adafactor, with second moments factored only as the config says."""
    scale = [optax.scale_by_param_block_rms()] if config.parameter_scale else []
    return [_scale_by_second_moments(config), optax.clip_by_block_rms(1.0), *scale]


def _scale_by_second_moments(config: OptimizerConfig) -> optax.GradientTransformation:
    factored = optax.scale_by_factored_rms(min_dim_size_to_factor=config.min_factored_size)
    unfactored = optax.scale_by_factored_rms(factored=False)

    def transformation(tree: Tree) -> optax.GradientTransformation:
        """Return one transformation for a tree of one kind, whose state is that of optax.adafactor, or a partition."""
        labels = jax.tree.map(
            lambda leaf, matches: "factored" if matches or not _factorable(leaf, config) else "unfactored",
            tree,
            _matching(config.factored_parameters, tree),
        )
        kinds = {"factored": factored, "unfactored": unfactored}
        found = set(jax.tree.leaves(labels))
        return kinds[found.pop()] if len(found) == 1 else optax.partition(kinds, labels)

    return optax.GradientTransformation(
        lambda params: transformation(params).init(params),
        lambda updates, state, params: transformation(updates).update(updates, state, params),
    )


def _factorable(leaf: jax.Array, config: OptimizerConfig) -> bool:
    return leaf.ndim >= 2 and sorted(leaf.shape)[-2] >= config.min_factored_size


def _matching(pattern: str, params: Tree) -> Tree:
    """Return for each leaf whether the regular expression matches its whole name."""
    return jax.tree_util.tree_map_with_path(lambda path, _: bool(re.fullmatch(pattern, path_name(path))), params)


def learning_rate_factors(multipliers: Sequence[tuple[str, float]], params: Tree) -> Tree:
    """Return the factor of each leaf's learning rate: the first pair whose expression matches the whole name, or 1.

    Raises ConfigError if an expression matches no leaf.
    """
    names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for pattern, _ in multipliers:
        if not any(re.fullmatch(pattern, name) for name in names):
            raise ConfigError(
                f"learning-rate multiplier {pattern!r} matches no trainable parameter; there are: {', '.join(names)}"
            )
    factor = lambda name: next((value for pattern, value in multipliers if re.fullmatch(pattern, name)), 1.0)  # noqa: E731
    return jax.tree_util.tree_map_with_path(lambda path, _: factor(path_name(path)), params)


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """Learning-rate schedule: linear warm-up to learning_rate, then a decay `name` to final_fraction of it.

    wsd (warm-up, stable, decay) is constant and decays linearly over the last decay_fraction of the steps.
    """

    learning_rate: float
    name: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    warmup_steps: int = 0
    final_fraction: float = 0.0
    decay_fraction: float = 0.2

    def __post_init__(self) -> None:
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise ConfigError(f"schedule.learning_rate = {self.learning_rate} must be positive")
        if self.warmup_steps < 0:
            raise ConfigError(f"schedule.warmup_steps = {self.warmup_steps} must be at least 0")
        for name in ("final_fraction", "decay_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"schedule.{name} = {getattr(self, name)} must be between 0 and 1")


def _cosine(progress: float, config: ScheduleConfig) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))


def _linear(progress: float, config: ScheduleConfig) -> float:
    return 1 - progress


def _constant(progress: float, config: ScheduleConfig) -> float:
    return 1.0


def _wsd(progress: float, config: ScheduleConfig) -> float:
    return min(1.0, (1 - progress) / config.decay_fraction) if config.decay_fraction else 1.0


_SHAPES: dict[str, Callable[[float, ScheduleConfig], float]] = {
    "cosine": _cosine,
    "linear": _linear,
    "constant": _constant,
    "wsd": _wsd,
}


def learning_rate(config: ScheduleConfig, step: int, total_steps: int) -> float:
    """Return the learning rate of step `step` (counted from 0) of `total_steps`."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps)
    shape = configuration.choose(_SHAPES, config.name, "schedule.name")(min(progress, 1.0), config)
    return config.learning_rate * (config.final_fraction + (1 - config.final_fraction) * shape)
