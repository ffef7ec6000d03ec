"""The interface of decoding methods: a state per batch that advances with the logits of the next tokens."""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from finetune_scaling.decoding.stopping import FOUND

Array = jax.Array


class RowInputs(NamedTuple):
    """Inputs of each row: its maximal number of new tokens and its example's index (for seeds), int32 [B] each."""

    limit: Any  # arrays of JAX or NumPy, or their shapes
    example: Any


class Termination(NamedTuple):
    """Termination of texts: the ids that end a text and the transition table of the stop strings, if any."""

    end_ids: tuple[int, ...]
    table: Array | None

    def follow(self, stop_states: Array, tokens: Array, row: RowInputs, written: Array) -> tuple[Array, Array]:
        """Return the stop-string states after `tokens`, both int32 [B, N], and whether each token ends its text.

        written: int32 scalar, number of tokens before these.
        """
        if self.table is not None:
            stop_states = self.table[stop_states, tokens]
        is_last = (written + 1 >= row.limit)[:, None]
        return stop_states, jnp.isin(tokens, jnp.array(self.end_ids)) | (stop_states == FOUND) | is_last


class Outputs(NamedTuple):
    """Texts so far, best first: tokens int32 [B, N, T], lengths int32 [B, N], scores [B, N] or None, ended rows [B]."""

    tokens: Array
    lengths: Array
    scores: Array | None
    ended: Array


class Search(Protocol):
    """A decoding method. Hashable: it keys caches of compiled functions."""

    @property
    def width(self) -> int:
        """Number of texts per row that the search keeps, K."""

    def begin(self, row: RowInputs, ended: Array, longest: int) -> Any:
        """Return the state before the first token; ended: bool [B], rows that need no text."""

    def advance(self, state: Any, logits: Array, termination: Termination, written: Array) -> tuple[Any, Array | None]:
        """Return the state after one more token, from logits [B, K, V], and the parent of each text, int32 [B, K].

        The parents are None if every text continues itself. `state.token`, int32 [B, K], holds the next input tokens;
        rows that have ended do not change.
        """

    def outputs(self, state: Any) -> Outputs:
        """Return the texts so far."""


def keep_ended(ended: Array, old: Any, new: Any) -> Any:
    """Return `new`, but `old` in rows that had ended; leaves [B, ...]."""
    return jax.tree.map(lambda a, b: jnp.where(ended.reshape(-1, *[1] * (b.ndim - 1)), a, b), old, new)
