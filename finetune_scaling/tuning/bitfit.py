"""BitFit (Ben Zaken et al., 2022): only biases train. Dense layers without a bias get one, zero at the start."""

import dataclasses

import jax
import jax.numpy as jnp

from finetune_scaling.models.adapters import DenseLayer, LayerAdapter
from finetune_scaling.tuning.method import Defaults, MethodSpec, ShortRuns, TuningMethod

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class BitfitOptions:
    """BitFit has no options."""


@dataclasses.dataclass(frozen=True)
class BiasAdapter(LayerAdapter):
    """A float32 bias [F] of every dense layer."""

    def dense(self, layer: DenseLayer, x: Array) -> Array:
        """Return x W + b, [N, D] -> [N, F]."""
        if layer.bias is None:
            bias = layer.parameter("bias", jax.nn.initializers.zeros, layer.kernel.shape[-1:], jnp.float32)
            layer = dataclasses.replace(layer, bias=bias)
        return layer(x)

    @property
    def mergeable(self) -> bool:
        return True  # `merge` keeps the bias; an export adds it to the model's config


def build(options: BitfitOptions) -> TuningMethod:
    """Return BitFit with these options."""
    return TuningMethod(name="bitfit", trainable=r".*/bias", adapter=BiasAdapter())


SPEC = MethodSpec(
    "bitfit",
    BitfitOptions,
    build,
    Defaults(learning_rate=1e-2, batch_size=16),
    display_name="BitFit",
    short_runs=ShortRuns(parameter_scale=False),
)
