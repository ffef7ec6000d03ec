"""What a method of search is: a state over a batch's rows, and how it goes on from the next tokens' logits."""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from finetune_scaling.decoding.stopping import FOUND, START, follow

Array = jax.Array


class RowInputs(NamedTuple):
    """What is given of each row: its most new tokens, int32 [B]; its example's number, int32 [B], for seeds."""

    limit: Any  # arrays of JAX or NumPy, or their shapes
    example: Any


class Termination(NamedTuple):
    """Where texts end: the eos token, and the table of the stop strings, where there are any."""

    eos_id: int
    table: Array | None

    def follow(self, found: Array, tokens: Array, row: RowInputs, written: Array) -> tuple[Array, Array]:
        """The stop strings' states after `tokens`, both int32 [B, N], and whether these are the last ones of a text.

        written: int32 scalar, tokens that were written before.
        """
        found = follow(self.table, found, tokens)
        is_last = (written + 1 >= row.limit)[:, None]
        return found, (tokens == self.eos_id) | (found == FOUND) | is_last


class Outputs(NamedTuple):
    """What is written so far: tokens int32 [B, N, T], their numbers int32 [B, N], scores [B, N], rows that ended [B].

    A row's texts come best first. Scores are None where the method has none.
    """

    tokens: Array
    lengths: Array
    scores: Array | None
    ended: Array


class Search(Protocol):
    """A method of search. Hashable: it keys caches of compiled functions."""

    @property
    def width(self) -> int:
        """Number of texts per row that the search keeps, K."""

    def begin(self, row: RowInputs, ended: Array, longest: int) -> Any:
        """The state before the first token; ended: bool [B], rows that nothing is written for."""

    def advance(self, state: Any, logits: Array, termination: Termination, written: Array) -> tuple[Any, Array | None]:
        """The state after one more token: logits [B, K, V], and which text each one goes on from, int32 [B, K].

        None where each goes on from itself. `state.token`, int32 [B, K], are the tokens to read next; rows that have
        ended stay as they are.
        """

    def outputs(self, state: Any) -> Outputs:
        """What is written."""


def keep_ended(ended: Array, old: Any, new: Any) -> Any:
    """`new`, but `old` in rows that had ended; leaves [B, ...]."""
    return jax.tree.map(lambda a, b: jnp.where(ended.reshape(-1, *[1] * (b.ndim - 1)), a, b), old, new)


def initial_stop_states(row: RowInputs, width: int) -> Array:
    """States of the stop strings before the first token, int32 [B, K]."""
    return jnp.full((row.limit.shape[0], width), START, jnp.int32)
