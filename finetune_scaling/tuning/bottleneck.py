"""Bottleneck adapters (Houlsby et al., 2019): y + act(y D + c) U + e behind attention and feed-forward layer.

U and both biases are zero at the start, so that the adapter is the identity.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from finetune_scaling.errors import ConfigError
from finetune_scaling.models.adapters import DenseLayer, LayerAdapter
from finetune_scaling.tuning.lora import check_targets
from finetune_scaling.tuning.method import Defaults, MethodSpec, ShortRuns, TuningMethod

Array = jax.Array
Activation = Literal["gelu", "relu", "silu"]

_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"gelu": jax.nn.gelu, "relu": jax.nn.relu, "silu": jax.nn.silu}
_down_init = jax.nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
_zeros = jax.nn.initializers.zeros


@dataclasses.dataclass(frozen=True)
class BottleneckOptions:
    """width: hidden units of each adapter. targets: dense layers whose output goes through an adapter."""

    width: int = 64
    activation: Activation = "gelu"
    targets: tuple[str, ...] = ("attention_out", "down")

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ConfigError(f"method.width = {self.width} must be at least 1")
        check_targets(self.targets)


@dataclasses.dataclass(frozen=True)
class BottleneckAdapter(LayerAdapter):
    """Float32 adapter_down [F, width], adapter_up [width, F] and their biases of each target."""

    width: int
    activation: Activation
    targets: tuple[str, ...]

    def dense(self, layer: DenseLayer, x: Array) -> Array:
        """Return y + act(y D + c) U + e for y = x W + b, [N, D] -> [N, F]."""
        y = layer(x)
        if layer.name not in self.targets:
            return y
        parameter = lambda *given: layer.parameter(*given, jnp.float32).astype(y.dtype)  # noqa: E731
        outputs = y.shape[-1]
        hidden = y @ parameter("adapter_down", _down_init, (outputs, self.width))
        hidden = _ACTIVATIONS[self.activation](hidden + parameter("adapter_down_bias", _zeros, (self.width,)))
        update = hidden @ parameter("adapter_up", _zeros, (self.width, outputs))
        return y + update + parameter("adapter_up_bias", _zeros, (outputs,))


def build(options: BottleneckOptions) -> TuningMethod:
    """Return bottleneck adapters with these options."""
    return TuningMethod(
        name="bottleneck",
        trainable=r".*/adapter_(down|up)(_bias)?",
        size=options.width,
        adapter=BottleneckAdapter(options.width, options.activation, options.targets),
    )


SPEC = MethodSpec(
    "bottleneck",
    BottleneckOptions,
    build,
    Defaults(learning_rate=1e-2, batch_size=16),
    size_field="width",
    display_name="bottleneck adapters",
    short_runs=ShortRuns(parameter_scale=False),
)
