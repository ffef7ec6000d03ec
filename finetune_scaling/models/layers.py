"""The decoder's parts: dense layers, norms, feed-forward layer."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from finetune_scaling.models.adapters import DenseLayer, LayerAdapter
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.models.optimization_barriers import delay_gradient, delay_read
from finetune_scaling.sharding.axes import DEFAULT_RULES, AxisRules, constrain

Array = jax.Array

_kernel_init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")


class Dense(nn.Module):
    """y = x W + b, as changed by an adapter; `config` says whether the layer has a bias."""

    config: ModelConfig
    dtype: Any
    adapter: LayerAdapter | None = None
    cast_late: bool = False  # cast a trained kernel only where it is used (models/optimization_barriers.py)

    @nn.compact
    def __call__(self, x: Array) -> Array:  # [..., D] -> [..., F]
        assert self.name is not None
        features = self.config.dense_features(self.name)
        kernel = self.param("kernel", _kernel_init, (x.shape[-1], features), jnp.float32)
        # One matrix of rows: if the gradient contracts two axes, XLA on CPUs first transposes x in memory, which takes
        # a third of a training step.
        rows = x.reshape(-1, x.shape[-1])
        if kernel.dtype != self.dtype:  # trained: frozen kernels are stored in the compute dtype
            kernel = (delay_read(kernel) if self.cast_late else kernel).astype(self.dtype)
        biased = self.name in self.config.biased
        bias = self.param("bias", nn.initializers.zeros, (features,), jnp.float32) if biased else None
        rng = self.make_rng("dropout") if self.has_rng("dropout") else None
        layer = DenseLayer(self.name, self.param, kernel, bias, rng)
        y = layer(rows) if self.adapter is None else self.adapter.dense(layer, rows)
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
    adapter: LayerAdapter | None = None
    axes: AxisRules = DEFAULT_RULES

    @nn.compact
    def __call__(self, x: Array) -> Array:  # [B, L, D] -> [B, L, D]
        config, activation = self.config, _ACTIVATIONS[self.config.activation]
        # One matrix of rows, as in Dense: between two shapes XLA would keep a buffer that it could overwrite.
        rows = lambda y: y.reshape(-1, y.shape[-1])  # noqa: E731
        up = rows(Dense(config, x.dtype, self.adapter, cast_late=True, name="up")(x))
        if config.gated:
            gate = rows(Dense(config, x.dtype, self.adapter, cast_late=True, name="gate")(x))
            hidden = activation(gate) * up
        else:
            hidden = activation(up)
        hidden = constrain(hidden.reshape(*x.shape[:-1], config.ffn_dim), self.axes, "batch", "length", "ffn")
        y = Dense(config, x.dtype, self.adapter, cast_late=True, name="down")(hidden)
        if config.remat == "none" or self.adapter is None:  # the products are stored, or nothing waits for them
            return y
        # With adapters XLA would compute the gradient of `hidden` early and keep it until the products are recomputed.
        return delay_gradient(y, (up, gate) if config.gated else up)
