"""Multi-query, grouped-query and multi-head attention, with and without a KV cache.

`ModelConfig.attention` selects one of four implementations of the same function, which differ in memory; "auto" is
resolved before (attention_choice.py).
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from finetune_scaling.models.adapters import LayerAdapter
from finetune_scaling.models.attention_masks import AttentionMask, local_flags
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.models.flash import flash_attention
from finetune_scaling.models.layers import Dense, Norm
from finetune_scaling.models.rope import rotate
from finetune_scaling.models.soft_cap import soft_cap
from finetune_scaling.models.token_layout import TokenLayout, attention_mask
from finetune_scaling.sharding.axes import DEFAULT_RULES, AxisRules, constrain

Array = jax.Array

_MASKED = -1e30  # finite, so that fully masked rows of padding stay finite
_QUERY_BLOCK = 128  # queries per block of blockwise attention


class LayerCache(NamedTuple):
    """Keys and values [B, kv_heads, S, head_dim] of one layer, or [layers, B, kv_heads, S, head_dim] of all layers.

    With this order of axes both products of attention read contiguous memory and new tokens are written in place.
    """

    keys: Array
    values: Array


class CacheSlot(NamedTuple):
    """Where new tokens are written: the first free slot (0 in an empty cache) and, in a stacked cache, the layer."""

    end: Array | int
    layer: Array | None = None

    def write(self, cache: LayerCache, keys: Array, values: Array) -> LayerCache:
        """Return the cache with keys and values [B, L, kv_heads, head_dim] of L new tokens."""
        return LayerCache(*(self._write(*pair) for pair in zip(cache, (keys, values), strict=True)))

    def read(self, cache: LayerCache) -> LayerCache:
        """Return this layer's cache."""
        if self.layer is None:
            return cache
        return LayerCache(*(jax.lax.dynamic_index_in_dim(part, self.layer, keepdims=False) for part in cache))

    def _write(self, part: Array, new: Array) -> Array:
        new = new.swapaxes(1, 2)
        if self.layer is None:
            return jax.lax.dynamic_update_slice_in_dim(part, new, self.end, axis=2)
        return jax.lax.dynamic_update_slice(part, new[None], (self.layer, 0, 0, self.end, 0))


@dataclasses.dataclass(frozen=True)
class Scoring:
    """Attention scores: c tanh(q'k / (c sqrt(scalar))). scalar: None is head_dim. softcap, c: None omits the tanh."""

    scalar: float | None = None
    softcap: float | None = None

    def scale(self, head_dim: int) -> float:
        """Return the factor of q'k."""
        return (self.scalar or head_dim) ** -0.5

    def masked(self, products: Array, mask: Array, head_dim: int) -> Array:
        """Return float32 scores of products [B, ..., L, S] under a mask [B, L, S]."""
        return jnp.where(mask[:, None, None], soft_cap(products * self.scale(head_dim), self.softcap), _MASKED)


def attend(query: Array, keys: Array, values: Array, mask: Array, scoring: Scoring = Scoring()) -> Array:
    """Return softmax attention, computed in float32.

    query [B, L, heads, H], keys and values [B, S, kv_heads, H], mask [B, L, S] -> [B, L, heads, H].
    """
    batch, length, heads, head_dim = query.shape
    grouped = query.reshape(batch, length, keys.shape[2], heads // keys.shape[2], head_dim)
    products = jnp.einsum("blkgh,bskh->bkgls", grouped, keys, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(scoring.masked(products, mask, head_dim), axis=-1).astype(values.dtype)
    return jnp.einsum("bkgls,bskh->blkgh", weights, values).reshape(batch, length, heads, head_dim)


def attend_cached(query: Array, cache: LayerCache, mask: Array, scoring: Scoring = Scoring()) -> Array:
    """Compute `attend` to the cache of one layer: query [B, L, heads, H], mask [B, L, S] -> [B, L, heads, H]."""
    batch, length, heads, head_dim = query.shape
    kv_heads = cache.keys.shape[1]
    grouped = query.reshape(batch, length, kv_heads, heads // kv_heads, head_dim)
    products = jnp.einsum("blkgh,bksh->bkgls", grouped, cache.keys, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(scoring.masked(products, mask, head_dim), axis=-1).astype(cache.values.dtype)
    return jnp.einsum("bkgls,bksh->blkgh", weights, cache.values).reshape(batch, length, heads, head_dim)


def attend_blockwise(
    query: Array,
    keys: Array,
    values: Array,
    layout: TokenLayout,
    window: Array | int | None = None,
    scoring: Scoring = Scoring(),
) -> Array:
    """Compute `attend` one block of queries at a time: scores [B, heads, block, L] in forward and backward pass.

    query [B, L, heads, H], keys and values [B, L, kv_heads, H], layout [B, L] -> [B, L, heads, H].
    """
    length = query.shape[1]
    blocks = -(-length // _QUERY_BLOCK)
    size = -(-length // blocks)

    def divide(array: Array) -> Array:  # [B, L, ...] -> [blocks, B, size, ...]
        padded = jnp.pad(array, ((0, 0), (0, blocks * size - length)) + ((0, 0),) * (array.ndim - 2))
        return jnp.moveaxis(padded.reshape(array.shape[0], blocks, size, *array.shape[2:]), 1, 0)

    @jax.checkpoint
    def attend_block(block: tuple[Array, TokenLayout]) -> Array:
        return attend(block[0], keys, values, attention_mask(block[1], layout, window), scoring)

    mixed = jax.lax.map(attend_block, (divide(query), jax.tree.map(divide, layout)))
    return jnp.moveaxis(mixed, 0, 1).reshape(query.shape[0], blocks * size, *query.shape[2:])[:, :length]


def attend_cudnn(query: Array, keys: Array, values: Array, mask: Array, scoring: Scoring = Scoring()) -> Array:
    """Compute `attend` by cuDNN's fused kernel; the mask becomes a bias [B, 1, L, S].

    The kernel's backward pass needs even lengths, so odd ones are padded by a token that no query attends to.
    """
    length = query.shape[1]
    queries, more_keys = length % 2, keys.shape[1] % 2
    pad = lambda array, *ends: jnp.pad(array, [(0, end) for end in ends]) if any(ends) else array  # noqa: E731
    query, mask = pad(query, 0, queries, 0, 0), pad(mask, 0, queries, more_keys)
    keys, values = (pad(array, 0, more_keys, 0, 0) for array in (keys, values))
    scale = scoring.scale(query.shape[3])
    mixed = jax.nn.dot_product_attention(query, keys, values, mask=mask[:, None], scale=scale, implementation="cudnn")
    return mixed[:, :length]


class Attention(nn.Module):
    """Self-attention of one layer; with a cache, keys and values are written at `slot` and all slots attended to."""

    config: ModelConfig
    adapter: LayerAdapter | None = None
    axes: AxisRules = DEFAULT_RULES

    @nn.compact
    def __call__(
        self,
        x: Array,
        mask: AttentionMask,
        cache: LayerCache | None,
        slot: CacheSlot | None,
    ) -> tuple[Array, LayerCache | None]:  # [B, L, D] -> [B, L, D]
        config = self.config
        query = self._heads("query", config.heads, x)
        keys, values = self._heads("key", config.kv_heads, x), self._heads("value", config.kv_heads, x)
        if mask.angles is not None:
            query, keys = rotate(query, mask.angles), rotate(keys, mask.angles)
        from_start = cache is None or slot is None or _is_empty(slot)
        if from_start and self.adapter is not None:
            keys, values = self.adapter.key_values(self.param, keys, values)
        if cache is not None and slot is not None:
            cache = slot.write(cache, keys, values)
        if cache is None or slot is None or from_start:
            mixed = self._mix(query, keys, values, mask)
        else:
            assert not isinstance(mask.visible, TokenLayout)
            mixed = attend_cached(query, slot.read(cache), mask.visible, self._scoring)
        mixed = mixed.reshape(*x.shape[:2], config.heads * config.head_dim)
        return Dense(config, x.dtype, self.adapter, name="attention_out")(mixed), cache

    def _mix(self, query: Array, keys: Array, values: Array, mask: AttentionMask) -> Array:
        visible, scoring = mask.visible, self._scoring
        if isinstance(visible, TokenLayout):
            if self.config.attention == "flash":
                scale = scoring.scale(self.config.head_dim)
                window = self.config.window if local_flags(self.config) is None else mask.window
                return flash_attention(
                    query, keys, values, visible, self.axes, window=window, scale=scale, softcap=scoring.softcap
                )
            return attend_blockwise(query, keys, values, visible, mask.window, scoring)
        if self.config.attention == "cudnn" and not self.is_initializing():
            return attend_cudnn(query, keys, values, visible, scoring)
        return attend(query, keys, values, visible, scoring)

    @property
    def _scoring(self) -> Scoring:
        return Scoring(self.config.query_scalar, self.config.attention_softcap)

    def _heads(self, name: str, heads: int, x: Array) -> Array:
        flat = Dense(self.config, x.dtype, self.adapter, name=name)(x)
        normed = self.config.qk_norm if name != "value" else "none"
        if normed == "all":
            flat = Norm(self.config, name=f"{name}_norm")(flat)
        split = flat.reshape(*x.shape[:2], heads, self.config.head_dim)
        if normed == "head":
            split = Norm(self.config, name=f"{name}_norm")(split)
        return constrain(split, self.axes, "batch", "length", "heads" if name == "query" else "kv_heads", None)


def _is_empty(slot: CacheSlot) -> bool:
    """Return whether the cache is empty, so that new tokens attend only to each other."""
    return isinstance(slot.end, int) and slot.end == 0
