"""The decoder's parts: dense layers that an adapter may extend, norms, rotary positions, feed-forward."""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import linen as nn

from finetune_scaling.models.config import ModelConfig
from finetune_scaling.models.order import gradient_after, read_here
from finetune_scaling.sharding.axes import PLAIN_RULES, AxisRules, constrain

Array = jax.Array
MakeParameter = Callable[..., Array]  # (name, initializer, shape, dtype) -> Array, born in the layer's own scope


class DenseAdapter(Protocol):
    """Something that changes a dense layer's output with parameters of its own (LoRA, for one). Must be hashable."""

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the dense layers it extends, among DENSE_LAYERS."""

    def __call__(self, parameter: MakeParameter, x: Array, y: Array) -> Array:
        """Returns the new output [..., F] of a layer with input x [..., D] and plain output y [..., F]."""


DENSE_LAYERS = ("query", "key", "value", "attention_out", "gate", "up", "down")

_kernel_init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")


class Dense(nn.Module):
    """y = x W without a bias; an adapter that names this layer adds to y."""

    features: int
    dtype: Any
    adapter: DenseAdapter | None = None
    cast_late: bool = False  # a trained kernel, where it is used and no earlier (models/order.py)

    @nn.compact
    def __call__(self, x: Array) -> Array:  # [..., D] -> [..., F]
        kernel = self.param("kernel", _kernel_init, (x.shape[-1], self.features), jnp.float32)
        # One matrix of rows: where the gradient contracts two axes, XLA on CPUs transposes x in memory before, which is
        # a third of a training step.
        rows = x.reshape(-1, x.shape[-1])
        if kernel.dtype != self.dtype:  # trained: frozen ones are kept in the compute dtype
            kernel = (read_here(kernel) if self.cast_late else kernel).astype(self.dtype)
        y = rows @ kernel
        if self.adapter is not None and self.name in self.adapter.targets:
            y = self.adapter(self.param, rows, y)
        return y.reshape(*x.shape[:-1], self.features)


class Norm(nn.Module):
    """RMSNorm (Zhang & Sennrich, 2019) or LayerNorm over the last axis, computed in float32."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        y = x.astype(jnp.float32)
        if self.config.norm == "layernorm":
            y = y - y.mean(-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.config.norm_epsilon) * scale
        if self.config.norm == "layernorm":
            y = y + self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        return y.astype(x.dtype)


def rotary_angles(positions: Array, config: ModelConfig) -> tuple[Array, Array]:
    """Cosines and sines [B, L, 1, head_dim / 2] of RoPE (Su et al., 2021) for positions [B, L]."""
    half = config.head_dim // 2
    frequencies = config.rope_theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles = positions[..., None, None].astype(jnp.float32) * frequencies
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: Array, angles: tuple[Array, Array]) -> Array:
    """Turns the pairs (x_i, x_{i + head_dim/2}) of x [B, L, heads, head_dim], the layout of Llama's weights."""
    cosine, sine = angles
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)
    return turned.astype(x.dtype)


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
    axes: AxisRules = PLAIN_RULES

    @nn.compact
    def __call__(self, x: Array) -> Array:  # [B, L, D] -> [B, L, D]
        config, activation = self.config, _ACTIVATIONS[self.config.activation]
        # One matrix of rows, as Dense computes it: between two shapes XLA would keep what it could overwrite.
        rows = lambda y: y.reshape(-1, y.shape[-1])  # noqa: E731
        up = rows(Dense(config.ffn_dim, x.dtype, self.adapter, cast_late=True, name="up")(x))
        if config.gated:
            gate = rows(Dense(config.ffn_dim, x.dtype, self.adapter, cast_late=True, name="gate")(x))
            hidden = activation(gate) * up
        else:
            hidden = activation(up)
        hidden = constrain(hidden.reshape(*x.shape[:-1], config.ffn_dim), self.axes, "batch", "length", "ffn")
        y = Dense(config.model_dim, x.dtype, self.adapter, cast_late=True, name="down")(hidden)
        if config.remat == "none" or self.adapter is None:  # the products are there anyway, or nothing waits for them
            return y
        # Beside adapters the gradient of `hidden` would be formed early, and wait for the products to come again.
        return gradient_after(y, (up, gate) if config.gated else up)
