"""Which blocks of keys each block of queries may attend to, from bounds of the blocks' tokens.

The bounds are computed from the layout alone, so that no mask of all pairs of tokens exists. They never omit a block
with a visible pair. For causal rows and prefix LMs of one text they are exact; of packed texts, blocks that share a
text's first and last tokens may be kept although they are masked.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from finetune_scaling.models.token_layout import PADDING, SOFT_PROMPT, TokenLayout

Array = jax.Array

NO_WINDOW = 2**31 - 1  # a window that every key is in
_FAR = 2**30 - 1  # beyond every position and segment; differences do not overflow


def block_map(layout: TokenLayout, window: Array, block: int) -> Array:
    """Return whether blocks of `block` queries may attend to blocks of keys, bool [B, L / block, L / block].

    layout: [B, L]. window: int32 scalar, NO_WINDOW for none; see `token_layout.attends`.
    """
    bounds = _bounds(jax.tree.map(lambda field: field.reshape(field.shape[0], -1, block), layout))
    queries = _Bounds(*(field[:, :, None] for field in bounds))
    keys = _Bounds(*(field[:, None, :] for field in bounds))
    same = (queries.first_segment <= keys.last_segment) & (keys.first_segment <= queries.last_segment)
    earlier = keys.first_position <= queries.last_position
    visible = ((same | keys.has_prompt) & earlier) | ((same | queries.prompt_in_input) & keys.has_input)
    ahead, behind = keys.first_position - queries.last_position, queries.first_position - keys.last_position
    return visible & (ahead < window) & (behind < window)


def fetched_blocks(visible: Array) -> Array:
    """Return the block that each step of a loop over the last axis reads, int32; ~block (negative) in masked steps.

    A masked step reads the block of the step before it, or the first visible one, so that nothing is fetched for it.
    visible: bool [..., n].
    """
    steps = jnp.arange(visible.shape[-1], dtype=jnp.int32)
    last = jax.lax.cummax(jnp.where(visible, steps, -1), axis=visible.ndim - 1)
    first = jnp.argmax(visible, axis=-1, keepdims=True).astype(jnp.int32)
    fetched = jnp.where(last < 0, first, last)
    return jnp.where(visible, fetched, ~fetched)


class _Bounds(NamedTuple):
    """Bounds of the tokens of each block that are not padding, [B, blocks] each. Blocks of padding have empty ranges.

    has_prompt: a token of a soft prompt. prompt_in_input: one that belongs to the input of a prefix LM. has_input: any
    token that does.
    """

    first_position: Array
    last_position: Array
    first_segment: Array
    last_segment: Array
    has_prompt: Array
    prompt_in_input: Array
    has_input: Array


def _bounds(layout: TokenLayout) -> _Bounds:
    """Return the bounds of a layout [B, blocks, tokens]."""
    real = layout.segments != PADDING
    assert layout.prefix is not None
    prompt, in_input = layout.segments == SOFT_PROMPT, layout.prefix.astype(bool) & real
    least = lambda field: jnp.where(real, field, _FAR).min(axis=2)  # noqa: E731
    most = lambda field: jnp.where(real, field, -_FAR).max(axis=2)  # noqa: E731
    return _Bounds(
        least(layout.positions),
        most(layout.positions),
        least(layout.segments),
        most(layout.segments),
        prompt.any(axis=2),
        (prompt & in_input).any(axis=2),
        in_input.any(axis=2),
    )
