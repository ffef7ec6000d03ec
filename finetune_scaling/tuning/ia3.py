"""(IA)^3 (Liu et al., 2022): learned vectors that scale keys, values and the input of the down projection."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from finetune_scaling.models.adapters import DenseLayer, LayerAdapter, Leaves
from finetune_scaling.tuning.lora import check_targets
from finetune_scaling.tuning.method import Defaults, MethodSpec, TuningMethod

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Ia3Options:
    """outputs, inputs: dense layers whose output (bias included), or whose input, is scaled."""

    outputs: tuple[str, ...] = ("key", "value")
    inputs: tuple[str, ...] = ("down",)

    def __post_init__(self) -> None:
        check_targets(self.outputs + self.inputs, "outputs + inputs")


@dataclasses.dataclass(frozen=True)
class Ia3Adapter(LayerAdapter):
    """A float32 vector ia3 of each target, [F] of an output or [D] of an input; 1 at the start."""

    outputs: tuple[str, ...]
    inputs: tuple[str, ...]

    def dense(self, layer: DenseLayer, x: Array) -> Array:
        """Return l (x W + b), or (l x) W + b, [N, D] -> [N, F]."""
        if layer.name in self.inputs:
            x = x * self._scale(layer, x)
        y = layer(x)
        return y * self._scale(layer, y) if layer.name in self.outputs else y

    @staticmethod
    def _scale(layer: DenseLayer, x: Array) -> Array:
        return layer.parameter("ia3", jax.nn.initializers.ones, x.shape[-1:], jnp.float32).astype(x.dtype)

    @property
    def mergeable(self) -> bool:
        return True

    def merge(self, name: str, leaves: Leaves) -> dict[str, Any]:
        """Return the leaves with the vector multiplied into kernel and bias."""
        rest = {leaf: value for leaf, value in leaves.items() if leaf != "ia3"}
        if len(rest) == len(leaves):
            return rest
        scaled = ("kernel",) if name in self.inputs else ("kernel", "bias")
        scales = {"kernel": leaves["ia3"][..., :, None] if name in self.inputs else leaves["ia3"][..., None, :]}
        scales["bias"] = leaves["ia3"]
        product = lambda leaf, value: (value.astype(jnp.float32) * scales[leaf]).astype(value.dtype)  # noqa: E731
        return {leaf: product(leaf, value) if leaf in scaled else value for leaf, value in rest.items()}


def build(options: Ia3Options) -> TuningMethod:
    """Return (IA)^3 with these options."""
    return TuningMethod(name="ia3", trainable=r".*/ia3", adapter=Ia3Adapter(options.outputs, options.inputs))


SPEC = MethodSpec("ia3", Ia3Options, build, Defaults(learning_rate=1e-2, batch_size=16), display_name="IA3")
