"""Multi-query, grouped-query and multi-head attention over one visibility rule, with and without a cache."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from finetune_scaling.models.config import ModelConfig
from finetune_scaling.models.layers import Dense, DenseAdapter, rotate
from finetune_scaling.sharding.axes import PLAIN_RULES, AxisRules, constrain

Array = jax.Array

PADDING = 0  # segment of positions that nobody sees
SOFT_PROMPT = -1  # segment of a soft prompt, which every segment of its row sees
_MASKED = -1e30  # finite, so that the rows of padding stay finite too


class Layout(NamedTuple):
    """Where each token stands: all that attention and rotary positions need to know. Each field is [B, L].

    positions: int32, counted within the token's own segment (after the soft prompt, where there is one)
    segments:  int32, PADDING, SOFT_PROMPT, or 1, 2, ... for the texts packed into the row
    prefix:    bool, True where later tokens of the segment's input part may be seen (prefix LM)
    """

    positions: Array
    segments: Array
    prefix: Array


class LayerCache(NamedTuple):
    """Keys and values [B, S, kv_heads, head_dim] of one layer."""

    keys: Array
    values: Array


def visible(queries: Layout, keys: Layout) -> Array:
    """Which keys each query sees: bool [B, L, S].

    A key is seen from its own segment (a soft prompt's from every segment), if it is not later than the query or
    belongs to the input part of a prefix LM. A soft prompt sees only itself, causally: so a packed row computes what
    its texts alone would, and the prompt's keys can be shared between rows.
    """
    same = queries.segments[:, :, None] == keys.segments[:, None, :]
    soft = keys.segments[:, None, :] == SOFT_PROMPT
    real = keys.segments[:, None, :] != PADDING
    earlier = keys.positions[:, None, :] <= queries.positions[:, :, None]
    return (same | soft) & real & (earlier | (same & keys.prefix[:, None, :]))


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


class Attention(nn.Module):
    """Self-attention of one layer; with a cache, keys and values are written at slot `end` and all slots attended."""

    config: ModelConfig
    adapter: DenseAdapter | None = None
    axes: AxisRules = PLAIN_RULES

    @nn.compact
    def __call__(
        self, x: Array, angles: tuple[Array, Array] | None, mask: Array, cache: LayerCache | None, end: Array | int
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
        mixed = attend(query, keys, values, mask)
        mixed = mixed.reshape(*x.shape[:2], config.heads * config.head_dim)
        return Dense(config.model_dim, x.dtype, self.adapter, name="attention_out")(mixed), cache

    def _heads(self, name: str, heads: int, x: Array) -> Array:
        flat = Dense(heads * self.config.head_dim, x.dtype, self.adapter, name=name)(x)
        split = flat.reshape(*x.shape[:2], heads, self.config.head_dim)
        return constrain(split, self.axes, "batch", "length", "heads" if name == "query" else "kv_heads", None)
