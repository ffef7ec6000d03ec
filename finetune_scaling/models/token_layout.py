"""Positions and segments of tokens in their rows, and the rule that says which keys a query attends to."""

from typing import NamedTuple

import jax

Array = jax.Array

PADDING = 0  # segment of padding, which no query attends to
SOFT_PROMPT = -1  # segment of a soft prompt, which every segment of its row attends to


class TokenLayout(NamedTuple):
    """Where each token is: all that attention and rotary positions need. Each field is [B, L].

    positions: int32, counted within the token's own segment (after the soft prompt, if any)
    segments:  int32, PADDING, SOFT_PROMPT, or 1, 2, ... for the texts packed into the row
    prefix:    bool, True for the input part of a prefix LM, which its whole segment attends to; of a soft prompt, True
               if it belongs to the input of its row. None if no row has such an input or a soft prompt: every token
               then attends to earlier ones of its own segment only
    """

    positions: Array
    segments: Array
    prefix: Array | None = None


def attention_mask(queries: TokenLayout, keys: TokenLayout, window: Array | int | None = None) -> Array:
    """Return the keys that each query attends to, bool [B, L, S]. See `attends`."""
    expanded = jax.tree.map(lambda field: field[:, :, None], queries)
    return attends(expanded, jax.tree.map(lambda field: field[:, None, :], keys), window)


def attends(queries: TokenLayout, keys: TokenLayout, window: Array | int | None = None) -> Array:
    """Return whether queries attend to keys, for layouts whose fields broadcast against each other.

    A query attends to the keys of its own segment and of the soft prompt that are not later than itself or belong to
    the input part of a prefix LM. A soft prompt attends to itself, causally, so that a packed row computes the same as
    each of its texts alone; one that belongs to the input attends to all of it, as in T5's encoder.

    window: number of tokens that a query looks back on, itself included, or ahead within the input of a prefix LM;
    None or an int32 scalar. The window counts a soft prompt like any text before the query, as Hugging Face's models
    count virtual tokens.
    """
    same = queries.segments == keys.segments
    soft = keys.segments == SOFT_PROMPT
    real = keys.segments != PADDING
    earlier = keys.positions <= queries.positions
    visible = real & (same | soft) & earlier
    if queries.prefix is not None and keys.prefix is not None:
        joined = same | ((queries.segments == SOFT_PROMPT) & queries.prefix)
        visible |= real & joined & keys.prefix
    return visible if window is None else visible & in_window(queries.positions, keys.positions, window)


def in_window(queries: Array, keys: Array, window: Array | int) -> Array:
    """Return whether keys are in the window of queries, for positions that broadcast against each other."""
    return abs(queries - keys) < window
