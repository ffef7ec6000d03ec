"""The decoder's parts: dense layers that an adapter may extend, norms, feed-forward."""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import linen as nn

from finetune_scaling.models.config import ModelConfig
from finetune_scaling.models.optimization_barriers import delay_gradient, delay_read
from finetune_scaling.sharding.axes import DEFAULT_RULES, AxisRules, constrain

Array = jax.Array
MakeParameter = Callable[..., Array]  # (name, initializer, shape, dtype) -> Array, born in the layer's own scope


class DenseAdapter(Protocol):
    """Something that changes a dense layer's output with parameters of its own (LoRA, for one). Must be hashable."""

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the dense layers it extends, among DENSE_LAYERS."""

    def __call__(self, parameter: MakeParameter, x: Array, y: Array) -> Array:
        """Returns the new output [..., F] of a layer with input x [..., D] and plain output y [..., F]."""


_kernel_init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")


class Dense(nn.Module):
    """y = x W, plus a bias where `config` gives this layer one; an adapter that names the layer changes y."""

    config: ModelConfig
    dtype: Any
    adapter: DenseAdapter | None = None
    cast_late: bool = False  # a trained kernel, where it is used and no earlier (models/optimization_barriers.py)

    @nn.compact
    def __call__(self, x: Array) -> Array:  # [..., D] -> [..., F]
        assert self.name is not None
        features = self.config.dense_features(self.name)
        kernel = self.param("kernel", _kernel_init, (x.shape[-1], features), jnp.float32)
        # One matrix of rows: where the gradient contracts two axes, XLA on CPUs transposes x in memory before, which is
        # a third of a training step.
        rows = x.reshape(-1, x.shape[-1])
        if kernel.dtype != self.dtype:  # trained: frozen ones are kept in the compute dtype
            kernel = (delay_read(kernel) if self.cast_late else kernel).astype(self.dtype)
        y = rows @ kernel
        if self.name in self.config.biased:
            y = y + self.param("bias", nn.initializers.zeros, (features,), jnp.float32).astype(self.dtype)
        if self.adapter is not None and self.name in self.adapter.targets:
            y = self.adapter(self.param, rows, y)
        return y.reshape(*x.shape[:-1], features)


class Norm(nn.Module):
    """RMSNorm (Zhang & Sennrich, 2019) or LayerNorm over the last axis, computed in float32."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x: Array) -> Array:
        offset = self.config.norm_offset
        scale = self.param("scale", nn.initializers.constant(1.0 - offset), (x.shape[-1],), jnp.float32)
        scale = scale.astype(jnp.float32) + offset if offset else scale
        y = x.astype(jnp.float32)
        if self.config.norm == "layernorm":
            y = y - y.mean(-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.config.norm_epsilon) * scale
        if self.config.norm == "layernorm":
            y = y + self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        return y.astype(x.dtype)


_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "swiglu": nn.silu,
    "geglu": lambda x: nn.gelu(x, approximate=True),
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "relu": nn.relu,
}


class FeedForward(nn.Module):
    """Gated (SwiGLU, GeGLU; Shazeer, 2020) or plain feed-forward layer."""

    config: ModelConfig
    adapter: DenseAdapter | None = None
    axes: AxisRules = DEFAULT_RULES

    @nn.compact
    def __call__(self, x: Array) -> Array:  # [B, L, D] -> [B, L, D]
        config, activation = self.config, _ACTIVATIONS[self.config.activation]
        # One matrix of rows, as Dense computes it: between two shapes XLA would keep what it could overwrite.
        rows = lambda y: y.reshape(-1, y.shape[-1])  # noqa: E731
        up = rows(Dense(config, x.dtype, self.adapter, cast_late=True, name="up")(x))
        if config.gated:
            gate = rows(Dense(config, x.dtype, self.adapter, cast_late=True, name="gate")(x))
            hidden = activation(gate) * up
        else:
            hidden = activation(up)
        hidden = constrain(hidden.reshape(*x.shape[:-1], config.ffn_dim), self.axes, "batch", "length", "ffn")
        y = Dense(config, x.dtype, self.adapter, cast_late=True, name="down")(hidden)
        if config.remat == "none" or self.adapter is None:  # the products are there anyway, or nothing waits for them
            return y
        # Beside adapters the gradient of `hidden` would be formed early, and wait for the products to come again.
        return delay_gradient(y, (up, gate) if config.gated else up)
