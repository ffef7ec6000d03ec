"""Low-rank adaptation (Hu et al., 2021): W x + (alpha / rank) B A x, with B = 0 at the start."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from finetune_scaling.errors import ConfigError
from finetune_scaling.models.config import DENSE_LAYERS
from finetune_scaling.models.language_model import Params
from finetune_scaling.models.layers import MakeParameter
from finetune_scaling.models.optimization_barriers import delay_use
from finetune_scaling.tuning.method import Defaults, MethodSpec, TuningMethod

Array = jax.Array

_a_init = jax.nn.initializers.variance_scaling(1.0, "fan_in", "normal")


@dataclasses.dataclass(frozen=True)
class LoraOptions:
    """rank and alpha of every adapter, and the dense layers that get one (attention and feed-forward by default)."""

    rank: int = 4
    alpha: float | None = None  # None: alpha = rank, so that the adapter's output is not scaled
    targets: tuple[str, ...] = DENSE_LAYERS

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"method.rank = {self.rank} must be at least 1")
        if self.alpha is not None and not 0 < self.alpha < math.inf:
            raise ConfigError(f"method.alpha = {self.alpha} must be above 0; None takes the rank")
        unknown = [name for name in self.targets if name not in DENSE_LAYERS]
        if unknown or not self.targets:
            raise ConfigError(f"method.targets = {list(self.targets)} must name some of {', '.join(DENSE_LAYERS)}")


@dataclasses.dataclass(frozen=True)
class LoraAdapter:
    """The adapter of a dense layer: float32 factors lora_a [D, rank] and lora_b [rank, F]; scale is never a leaf."""

    rank: int
    scale: float
    targets: tuple[str, ...]

    def __call__(self, parameter: MakeParameter, x: Array, y: Array) -> Array:
        a = parameter("lora_a", _a_init, (x.shape[-1], self.rank), jnp.float32)
        b = parameter("lora_b", jax.nn.initializers.zeros, (self.rank, y.shape[-1]), jnp.float32)
        # XLA would form the second product early, another [rows, F] beside the parts of y that are summed up while the
        # kernel is gathered. When y is there, it is added in place.
        narrow = delay_use(x @ a.astype(x.dtype), y)
        return y + (narrow @ b.astype(x.dtype)) * self.scale


def build(options: LoraOptions) -> TuningMethod:
    alpha = options.rank if options.alpha is None else options.alpha
    return TuningMethod(
        name="lora",
        trainable=r".*/lora_[ab]",
        size=options.rank,
        adapter=LoraAdapter(options.rank, alpha / options.rank, options.targets),
    )


def merge(params: Params, adapter: LoraAdapter) -> Params:
    """The plain parameters of the tuned model: every kernel becomes W + scale * A B, and the factors are gone."""
    if "lora_a" in params:
        delta = jnp.einsum("...dr,...rf->...df", params["lora_a"], params["lora_b"]) * adapter.scale
        kernel = params["kernel"]
        rest = {name: leaf for name, leaf in params.items() if name not in ("lora_a", "lora_b")}
        return {**rest, "kernel": (kernel.astype(jnp.float32) + delta).astype(kernel.dtype)}
    return {name: merge(value, adapter) if isinstance(value, dict) else value for name, value in params.items()}


SPEC = MethodSpec("lora", LoraOptions, build, Defaults(learning_rate=1e-2, batch_size=16), size_field="rank")
