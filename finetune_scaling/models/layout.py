"""Where tokens stand in their rows, and the one rule of which keys a query sees."""

from typing import NamedTuple

import jax

Array = jax.Array

PADDING = 0  # segment of positions that nobody sees
SOFT_PROMPT = -1  # segment of a soft prompt, which every segment of its row sees


class Layout(NamedTuple):
    """Where each token stands: all that attention and rotary positions need to know. Each field is [B, L].

    positions: int32, counted within the token's own segment (after the soft prompt, where there is one)
    segments:  int32, PADDING, SOFT_PROMPT, or 1, 2, ... for the texts packed into the row
    prefix:    bool, True where later tokens of the segment's input part may be seen (prefix LM)
    """

    positions: Array
    segments: Array
    prefix: Array


def visible(queries: Layout, keys: Layout, window: Array | int | None = None) -> Array:
    """Which keys each query sees: bool [B, L, S]. See `sees`."""
    of_queries = Layout(*(field[:, :, None] for field in queries))
    return sees(of_queries, Layout(*(field[:, None, :] for field in keys)), window)


def sees(queries: Layout, keys: Layout, window: Array | int | None = None) -> Array:
    """Whether queries see keys, of layouts whose fields broadcast against each other.

    A key is seen from its own segment (a soft prompt's from every segment), if it is not later than the query or
    belongs to the input part of a prefix LM. A soft prompt sees only itself, causally: so a packed row computes what
    its texts alone would, and the prompt's keys can be shared between rows.

    window: how many tokens a query looks back on, itself among them, or forward within the input of a prefix LM; None
    or an int32 scalar. A soft prompt is counted as any text before the query is: far behind it, it is out of sight, as
    virtual tokens are for Hugging Face's models.
    """
    same = queries.segments == keys.segments
    soft = keys.segments == SOFT_PROMPT
    real = keys.segments != PADDING
    earlier = keys.positions <= queries.positions
    seen = (same | soft) & real & (earlier | (same & keys.prefix))
    return seen if window is None else seen & near(queries.positions, keys.positions, window)


def near(queries: Array, keys: Array, window: Array | int) -> Array:
    """Whether keys lie in the window of queries, of positions that broadcast against each other."""
    return abs(queries - keys) < window
