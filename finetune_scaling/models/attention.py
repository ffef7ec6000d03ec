"""Multi-query, grouped-query and multi-head attention over one visibility rule, with and without a cache.

Four forms of the same numbers, chosen by `ModelConfig.attention`; they differ in what they keep in memory.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from finetune_scaling.errors import ConfigError
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.models.flash import flash_attention
from finetune_scaling.models.layers import Dense, DenseAdapter, rotate
from finetune_scaling.models.layout import Layout, visible
from finetune_scaling.sharding.axes import PLAIN_RULES, AxisRules, constrain

Array = jax.Array

_MASKED = -1e30  # finite, so that the rows of padding stay finite too
_QUERIES_AT_ONCE = 128  # of blockwise attention
_PLATFORMS = {"flash": "tpu", "cudnn": "gpu"}


class LayerCache(NamedTuple):
    """Keys and values [B, S, kv_heads, head_dim] of one layer."""

    keys: Array
    values: Array


def attend(query: Array, keys: Array, values: Array, mask: Array) -> Array:
    """Softmax attention, scores and softmax in float32.

    query [B, L, heads, H], keys and values [B, S, kv_heads, H], mask [B, L, S] -> [B, L, heads, H].
    """
    batch, length, heads, head_dim = query.shape
    grouped = query.reshape(batch, length, keys.shape[2], heads // keys.shape[2], head_dim)
    scores = jnp.einsum("blkgh,bskh->bkgls", grouped, keys, preferred_element_type=jnp.float32)
    scores = jnp.where(mask[:, None, None], scores * head_dim**-0.5, _MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(values.dtype)
    return jnp.einsum("bkgls,bskh->blkgh", weights, values).reshape(batch, length, heads, head_dim)


def attend_blockwise(query: Array, keys: Array, values: Array, layout: Layout) -> Array:
    """`attend` for a block of queries after the other: scores [B, heads, block, L], forward and backward.

    query [B, L, heads, H], keys and values [B, L, kv_heads, H], layout [B, L] -> [B, L, heads, H].
    """
    length = query.shape[1]
    blocks = -(-length // _QUERIES_AT_ONCE)
    size = -(-length // blocks)

    def divide(array: Array) -> Array:  # [B, L, ...] -> [blocks, B, size, ...]
        padded = jnp.pad(array, ((0, 0), (0, blocks * size - length)) + ((0, 0),) * (array.ndim - 2))
        return jnp.moveaxis(padded.reshape(array.shape[0], blocks, size, *array.shape[2:]), 1, 0)

    @jax.checkpoint
    def attend_block(block: tuple[Array, Layout]) -> Array:
        return attend(block[0], keys, values, visible(block[1], layout))

    mixed = jax.lax.map(attend_block, (divide(query), Layout(*map(divide, layout))))
    return jnp.moveaxis(mixed, 0, 1).reshape(query.shape[0], blocks * size, *query.shape[2:])[:, :length]


def attend_cudnn(query: Array, keys: Array, values: Array, mask: Array) -> Array:
    """`attend` by cuDNN's kernel, whose scores stay on the chip; the mask becomes a bias [B, 1, L, S]."""
    return jax.nn.dot_product_attention(query, keys, values, mask=mask[:, None], implementation="cudnn")


def sight(config: ModelConfig, layout: Layout, plain: bool) -> Array | Layout:
    """What attention without a cache needs to know of who sees whom, the same for all layers.

    The mask [B, L, L], or the layout [B, L] for the forms that compute masks block by block.
    """
    return layout if config.attention in ("blockwise", "flash") and not plain else visible(layout, layout)


def check_platform(config: ModelConfig) -> None:
    """Raises ConfigError where attention's form is not for the platform of the mesh in context, or of this process."""
    mesh = jax.sharding.get_abstract_mesh()
    # A mesh may be of another platform: programs are compiled for TPUs on machines that have none.
    platform = jax.default_backend() if mesh.abstract_device is None else mesh.abstract_device.platform
    check_attention(config, platform)


def check_attention(config: ModelConfig, platform: str) -> None:
    """Raises ConfigError where attention's form is not for the platform: tpu, gpu or cpu."""
    needed = _PLATFORMS.get(config.attention, platform)
    if platform != needed:
        raise ConfigError(
            f"model.attention = {config.attention!r} needs a {needed.upper()}, not {platform}; use 'blockwise'"
        )
    if config.attention == "cudnn" and config.compute_dtype != "bfloat16":
        raise ConfigError("model.attention = 'cudnn' needs model.compute_dtype = 'bfloat16'; or use 'blockwise'")


class Attention(nn.Module):
    """Self-attention of one layer; with a cache, keys and values are written at slot `end` and all slots attended."""

    config: ModelConfig
    adapter: DenseAdapter | None = None
    axes: AxisRules = PLAIN_RULES

    @nn.compact
    def __call__(
        self,
        x: Array,
        angles: tuple[Array, Array] | None,
        seen: Array | Layout,
        cache: LayerCache | None,
        end: Array | int,
    ) -> tuple[Array, LayerCache | None]:  # [B, L, D] -> [B, L, D]
        config = self.config
        query = self._heads("query", config.heads, x)
        keys, values = self._heads("key", config.kv_heads, x), self._heads("value", config.kv_heads, x)
        if angles is not None:
            query, keys = rotate(query, angles), rotate(keys, angles)
        if cache is not None:
            cache = LayerCache(
                jax.lax.dynamic_update_slice_in_dim(cache.keys, keys, end, axis=1),
                jax.lax.dynamic_update_slice_in_dim(cache.values, values, end, axis=1),
            )
            keys, values = cache
        plain = cache is not None or self.is_initializing()
        mixed = attend(query, keys, values, seen) if plain else self._mix(query, keys, values, seen)  # type: ignore[arg-type]
        mixed = mixed.reshape(*x.shape[:2], config.heads * config.head_dim)
        return Dense(config.model_dim, x.dtype, self.adapter, name="attention_out")(mixed), cache

    def _mix(self, query: Array, keys: Array, values: Array, seen: Array | Layout) -> Array:
        if isinstance(seen, Layout):
            if self.config.attention == "flash":
                return flash_attention(query, keys, values, seen, self.axes)
            return attend_blockwise(query, keys, values, seen)
        if self.config.attention == "cudnn":
            return attend_cudnn(query, keys, values, seen)
        return attend(query, keys, values, seen)

    def _heads(self, name: str, heads: int, x: Array) -> Array:
        flat = Dense(heads * self.config.head_dim, x.dtype, self.adapter, name=name)(x)
        split = flat.reshape(*x.shape[:2], heads, self.config.head_dim)
        return constrain(split, self.axes, "batch", "length", "heads" if name == "query" else "kv_heads", None)
