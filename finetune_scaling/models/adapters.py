"""Hooks through which a tuning method changes the computation inside the decoder's layers."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array
MakeParameter = Callable[..., Array]  # (name, initializer, shape, dtype) -> Array, created in the layer's own scope
Leaves = Mapping[str, Any]  # parameters of one dense layer by name; stacked layers have a leading axis


@dataclasses.dataclass(frozen=True)
class DenseLayer:
    """A dense layer as an adapter sees it: y = x W + b with W [D, F] in the compute dtype.

    parameter: creates or reads a parameter in the layer's scope. rng: of dropout; None in evaluation and decoding.
    """

    name: str
    parameter: MakeParameter
    kernel: Array
    bias: Array | None
    rng: Array | None

    def matmul(self, x: Array) -> Array:
        """Return x W, [N, D] -> [N, F]."""
        return x @ self.kernel

    def __call__(self, x: Array) -> Array:
        """Return x W + b, [N, D] -> [N, F]."""
        return self.add_bias(self.matmul(x))

    def add_bias(self, y: Array) -> Array:
        """Return y + b, or y if the layer has no bias."""
        return y if self.bias is None else y + self.bias.astype(y.dtype)

    def dropout(self, x: Array, rate: float) -> Array:
        """Return x with a share `rate` of its elements zeroed and the rest scaled up, while training."""
        if self.rng is None or rate == 0:
            return x
        return jnp.where(jax.random.bernoulli(self.rng, 1 - rate, x.shape), x / (1 - rate), 0)


@dataclasses.dataclass(frozen=True)
class LayerAdapter:
    """What a tuning method computes inside the decoder's layers. The defaults change nothing.

    A subclass is a frozen dataclass: adapters are hashable and key caches of compiled functions.
    """

    def dense(self, layer: DenseLayer, x: Array) -> Array:
        """Return the output [N, F] of a dense layer (of DENSE_LAYERS) for the input x [N, D]."""
        return layer(x)

    def key_values(self, parameter: MakeParameter, keys: Array, values: Array) -> tuple[Array, Array]:
        """Return the keys and values [B, L, kv_heads, head_dim] of a sequence from its first position on.

        The keys have their rotary positions. Not called for tokens that extend a KV cache. `parameter` creates or reads
        a parameter in the scope of the layer's attention.
        """
        return keys, values

    @property
    def uses_dropout(self) -> bool:
        """Whether training needs a dropout key."""
        return False

    @property
    def mergeable(self) -> bool:
        """Whether a plain model computes the same with the parameters that `merge` returns."""
        return False

    def merge(self, name: str, leaves: Leaves) -> dict[str, Any]:
        """Return kernel and bias of a plain dense layer that computes the same as this one with its adapter.

        leaves: the layer's parameters; one of kernel and bias may be absent, and is absent from the result then.
        """
        return dict(leaves)
