"""Low-rank adaptation (LoRA; Hu et al., 2021): x W + s dropout(x) A B with s = alpha / rank, and B = 0 at the start.

Options: the scale alpha / sqrt(rank) of rsLoRA (Kalajdzievski, 2023) and the learning rates of LoRA+ (Hayou et al.,
2024), whose B learns b_learning_rate_ratio times faster than A.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from finetune_scaling.errors import ConfigError
from finetune_scaling.models.adapters import DenseLayer, LayerAdapter, Leaves
from finetune_scaling.models.config import DENSE_LAYERS
from finetune_scaling.models.optimization_barriers import delay_use
from finetune_scaling.tuning.method import Defaults, MethodSpec, ShortRuns, TuningMethod

Array = jax.Array

_a_init = jax.nn.initializers.variance_scaling(1.0, "fan_in", "normal")


@dataclasses.dataclass(frozen=True)
class LoraOptions:
    """Options of LoRA.

    alpha: None is the rank, so that the adapter's output is not scaled. rank_stabilized: scale by alpha / sqrt(rank)
    in place of alpha / rank. dropout: of the adapter's input, in training. targets: dense layers with an adapter.
    """

    rank: int = 4
    alpha: float | None = None
    targets: tuple[str, ...] = DENSE_LAYERS
    rank_stabilized: bool = False
    dropout: float = 0.0
    b_learning_rate_ratio: float = 1.0

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"method.rank = {self.rank} must be at least 1")
        if self.alpha is not None and not 0 < self.alpha < math.inf:
            raise ConfigError(f"method.alpha = {self.alpha} must be above 0; None takes the rank")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"method.dropout = {self.dropout} must be at least 0 and below 1")
        if not 0 < self.b_learning_rate_ratio < math.inf:
            raise ConfigError(f"method.b_learning_rate_ratio = {self.b_learning_rate_ratio} must be above 0")
        check_targets(self.targets)

    @property
    def scale(self) -> float:
        """The factor of A B."""
        alpha = self.rank if self.alpha is None else self.alpha
        return alpha / (math.sqrt(self.rank) if self.rank_stabilized else self.rank)

    @property
    def learning_rate_multipliers(self) -> tuple[tuple[str, float], ...]:
        """The learning rates of LoRA+."""
        return () if self.b_learning_rate_ratio == 1 else ((r".*/lora_b", self.b_learning_rate_ratio),)


def check_targets(targets: tuple[str, ...], field: str = "targets") -> None:
    """Raise ConfigError if an option does not name dense layers, or names none."""
    if not targets or any(name not in DENSE_LAYERS for name in targets):
        raise ConfigError(f"method.{field} = {list(targets)} must name some of {', '.join(DENSE_LAYERS)}")


@dataclasses.dataclass(frozen=True)
class LoraAdapter(LayerAdapter):
    """Float32 factors lora_a [D, rank] and lora_b [rank, F] of each target; the scale is not a parameter."""

    rank: int
    scale: float
    targets: tuple[str, ...]
    dropout: float = 0.0

    def dense(self, layer: DenseLayer, x: Array) -> Array:
        """Return x W + b + s dropout(x) A B, [N, D] -> [N, F]."""
        y = layer(x)
        return y + self.low_rank(layer, x, y, *self.factors(layer)) if layer.name in self.targets else y

    def factors(self, layer: DenseLayer) -> tuple[Array, Array]:
        """Return A [D, rank] and B [rank, F]."""
        inputs, outputs = layer.kernel.shape
        a = layer.parameter("lora_a", _a_init, (inputs, self.rank), jnp.float32)
        return a, layer.parameter("lora_b", jax.nn.initializers.zeros, (self.rank, outputs), jnp.float32)

    def low_rank(self, layer: DenseLayer, x: Array, y: Array, a: Array, b: Array) -> Array:
        """Return s dropout(x) A B, [N, D] -> [N, F]; y: the layer's plain output [N, F]."""
        # XLA would compute the second product early and hold another [N, F] next to the partial sums of y while the
        # kernel is all-gathered. Once y is complete, the product is added to it in place.
        narrow = delay_use(layer.dropout(x, self.dropout) @ a.astype(x.dtype), y)
        return (narrow @ b.astype(x.dtype)) * self.scale

    @property
    def uses_dropout(self) -> bool:
        return self.dropout > 0

    @property
    def mergeable(self) -> bool:
        return True

    def merge(self, name: str, leaves: Leaves) -> dict[str, Any]:
        """Return the leaves with the kernel W + s A B."""
        rest = {leaf: value for leaf, value in leaves.items() if leaf not in ("lora_a", "lora_b")}
        if "lora_a" not in leaves or "kernel" not in leaves:
            return rest
        delta = jnp.einsum("...dr,...rf->...df", leaves["lora_a"], leaves["lora_b"]) * self.scale
        kernel = leaves["kernel"]
        return {**rest, "kernel": (kernel.astype(jnp.float32) + delta).astype(kernel.dtype)}


def build(options: LoraOptions) -> TuningMethod:
    """Return LoRA with these options."""
    return TuningMethod(
        name="lora",
        trainable=r".*/lora_[ab]",
        size=options.rank,
        adapter=LoraAdapter(options.rank, options.scale, options.targets, options.dropout),
        learning_rate_multipliers=options.learning_rate_multipliers,
    )


SPEC = MethodSpec(
    "lora",
    LoraOptions,
    build,
    Defaults(learning_rate=1e-2, batch_size=16),
    size_field="rank",
    display_name="LoRA",
    short_runs=ShortRuns(learning_rate=0.01, parameter_scale=False),
)
