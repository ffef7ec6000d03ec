"""The KV cache of all layers, and the loop over layers that uses it.

On CPUs, where memory traffic dominates, layers are unstacked: each has its own weights and cache, and a loop over
tokens updates every buffer in place. Elsewhere layers stay stacked and are scanned, without a second copy of the
weights.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from finetune_scaling.models.attention import CacheSlot, LayerCache
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.sharding.axes import AxisRules, constrain, platform_in_context

Array = jax.Array
Cache = LayerCache | tuple[LayerCache, ...]  # stacked, or one per layer
Weights = Any  # one layer's parameters
# (weights, x, cache, slot, whether the layer is local: None if all layers are of one kind) -> x, cache
Layer = Callable[[Weights, Array, LayerCache, CacheSlot, Array | bool | None], tuple[Array, LayerCache]]


def unstacks_layers() -> bool:
    """Return whether layers are unstacked on the platform of the mesh in context, or of this process."""
    return platform_in_context() == "cpu"


def unstack_layers(params: Any, layers: int) -> Any:
    """Return parameters whose stacked `layers` are a tuple with one tree per layer."""
    if "layers" not in params:
        return params
    each = tuple(jax.tree.map(lambda leaf, i=i: leaf[i], params["layers"]) for i in range(layers))
    return {**params, "layers": each}


def empty_cache(config: ModelConfig, axes: AxisRules, batch: int, slots: int, unstacked: bool) -> Cache:
    """Return a cache for `slots` tokens per row, in the compute dtype."""
    if unstacked:
        return tuple(_zeros(config, axes, (batch,), slots) for _ in range(config.layers))
    return _zeros(config, axes, (config.layers, batch), slots)


def _zeros(config: ModelConfig, axes: AxisRules, leading: tuple[int, ...], slots: int) -> LayerCache:
    zeros = jnp.zeros((*leading, config.kv_heads, slots, config.head_dim), config.compute_dtype)
    names = ("layers", "batch")[-len(leading) :]
    return LayerCache(*(constrain(zeros, axes, *names, "kv_heads", None, None) for _ in range(2)))


def grow_cache(cache: Cache, slots: int) -> Cache:
    """Return the cache padded to `slots` slots per row."""

    def grow(part: Array) -> Array:
        room = [(0, 0)] * part.ndim
        room[-2] = (0, slots - part.shape[-2])
        return jnp.pad(part, room)

    return jax.tree.map(grow, cache)


def slot_count(cache: Cache) -> int:
    """Return the number of slots per row."""
    return jax.tree.leaves(cache)[0].shape[-2]


def select_rows(cache: Cache, rows: Array) -> Cache:
    """Return the cache of some rows, int32 [R]."""
    stacked = isinstance(cache, LayerCache)
    return jax.tree.map(lambda part: jnp.take(part, rows, axis=1 if stacked else 0), cache)


def apply_layers(
    layer: Layer, weights: Any, x: Array, cache: Cache, end: Array | int, local: tuple[bool, ...] | None = None
) -> tuple[Array, Cache]:
    """Apply all layers to x [B, L, D]; weights and cache are both stacked or both unstacked.

    local: for each layer whether it is local; None if all are of one kind.
    """
    if not isinstance(cache, LayerCache):
        parts = []
        for own, part, is_local in zip(weights, cache, local or [None] * len(cache), strict=True):
            x, part = layer(own, x, part, CacheSlot(end), is_local)
            parts.append(part)
        return x, tuple(parts)

    def step(carry: tuple[Array, LayerCache], own: tuple[Array, Weights, Any]) -> tuple[tuple[Array, LayerCache], None]:
        index, layers_weights, is_local = own
        return layer(layers_weights, *carry, CacheSlot(end, index), is_local), None

    indices = jnp.arange(cache.keys.shape[0], dtype=jnp.int32)
    return jax.lax.scan(step, (x, cache), (indices, weights, None if local is None else jnp.array(local)))[0]
