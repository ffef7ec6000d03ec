"""Beam search with the scores and termination of Hugging Face's `generate` (transformers 5).

Each step takes the 2 K best continuations of a row's K texts. The best K that do not end continue; those among the
first K that end compete for the row's K finished texts by log-probability over the length penalty.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from finetune_scaling.decoding.search import Outputs, RowInputs, Termination, keep_ended
from finetune_scaling.decoding.selection import top_k
from finetune_scaling.decoding.settings import PenaltyForm
from finetune_scaling.decoding.stopping import START

Array = jax.Array

_NEVER = -1e9  # score of a text that must not be chosen; finite, so that differences are


class Finished(NamedTuple):
    """A row's finished texts, best first: tokens [B, K, T], lengths [B, K], scores [B, K], valid entries [B, K]."""

    tokens: Array
    lengths: Array
    scores: Array
    exists: Array


class BeamState(NamedTuple):
    """The state of beam search: running texts, best first, finished texts, and rows that have ended.

    token: [B, K], last token. running: [B, K, T], tokens. scores: [B, K], log-probabilities. stop_states: [B, K].
    ended: [B].
    """

    token: Array
    running: Array
    scores: Array
    stop_states: Array
    finished: Finished
    ended: Array
    row: RowInputs


class Continuations(NamedTuple):
    """The best one-token continuations of a row, best first, [B, candidates] each: log-probability, parent, token."""

    scores: Array
    parent: Array
    token: Array


@dataclasses.dataclass(frozen=True)
class Beam:
    """Beam search of K = width texts per row; length penalty and early_stopping as in DecodingConfig."""

    width: int
    length_penalty: float
    form: PenaltyForm
    early_stopping: bool | Literal["never"]
    pad_id: int

    def begin(self, row: RowInputs, ended: Array, longest: int) -> BeamState:
        shape = (row.limit.shape[0], self.width)
        nothing = jnp.full((*shape, longest), self.pad_id, jnp.int32)
        scores = jnp.full(shape, _NEVER, jnp.float32)
        return BeamState(
            token=jnp.full(shape, self.pad_id, jnp.int32),
            running=nothing,
            scores=scores.at[:, 0].set(0.0),  # all K texts are empty: only the first counts
            stop_states=jnp.full(shape, START, jnp.int32),
            finished=Finished(nothing, jnp.zeros(shape, jnp.int32), scores, jnp.zeros(shape, bool)),
            ended=ended,
            row=row,
        )

    def advance(
        self, state: BeamState, logits: Array, termination: Termination, written: Array
    ) -> tuple[BeamState, Array]:
        best = continuations(logits, state.scores, candidate_count(self.width, termination.end_ids))
        stop_states, is_last = termination.follow(
            _gather(state.stop_states, best.parent), best.token, state.row, written
        )
        tokens = _gather(state.running, best.parent)
        tokens = jax.lax.dynamic_update_slice_in_dim(tokens, best.token[..., None], written, axis=2)
        scores, chosen = jax.lax.top_k(jnp.where(is_last, best.scores + _NEVER, best.scores), self.width)
        finished = self._merge(state.finished, best.scores, tokens, is_last, written + 1)
        ended = self._is_over(scores[:, 0], finished, state.row.limit, written + 1) | is_last.all(axis=1)
        new = BeamState(
            token=_gather(best.token, chosen),
            running=_gather(tokens, chosen),
            scores=scores,
            stop_states=_gather(stop_states, chosen),
            finished=finished,
            ended=ended,
            row=state.row,
        )
        return keep_ended(state.ended, state, new), _gather(best.parent, chosen)

    def outputs(self, state: BeamState) -> Outputs:
        finished = state.finished
        return Outputs(finished.tokens, finished.lengths, finished.scores, state.ended)

    def _merge(self, finished: Finished, scores: Array, tokens: Array, is_last: Array, length: Array) -> Finished:
        """Return the K best of the finished texts and of the continuations of this `length` that end."""
        ends = is_last & (jnp.arange(is_last.shape[1]) < self.width)
        new = Finished(
            tokens=tokens,
            lengths=jnp.broadcast_to(length, ends.shape),
            scores=jnp.where(ends, scores / self.penalty(length), _NEVER),
            exists=ends,
        )
        both = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=1), finished, new)
        _, chosen = jax.lax.top_k(both.scores, self.width)
        return jax.tree.map(lambda leaf: _gather(leaf, chosen), both)

    def _is_over(self, best: Array, finished: Finished, limit: Array, length: Array) -> Array:
        """Return whether each row has ended, bool [B]. best: [B], the running texts' best score at this length."""
        is_full = finished.exists.all(axis=1)
        if self.early_stopping is True:
            return is_full
        longest = limit if self.early_stopping == "never" and self.length_penalty > 0 else length
        return is_full & (best / self.penalty(longest) <= finished.scores.min(axis=1))

    def penalty(self, length: Array) -> Array:
        """Return the divisor of the log-probability of a text of this length."""
        base = length.astype(jnp.float32)
        return (base if self.form == "hf" else (5 + base) / 6) ** self.length_penalty


def candidate_count(width: int, end_ids: Sequence[int]) -> int:
    """Return how many continuations K = width texts need, so that K of them do not end; as in transformers."""
    return max(2, 1 + len(end_ids)) * width


def continuations(logits: Array, scores: Array, candidates: int) -> Continuations:
    """Return the best continuations, from logits [B, K, V] and the texts' log-probabilities `scores` [B, K]."""
    rows, _, vocabulary = logits.shape
    count = min(candidates, vocabulary)
    values, tokens = top_k(logits, count)  # per text: normalization does not change their order
    totals = values - jax.nn.logsumexp(logits, axis=-1, keepdims=True) + scores[..., None]
    best, indices = jax.lax.top_k(totals.reshape(rows, -1), candidates)
    return Continuations(best, indices // count, _gather(tokens.reshape(rows, -1), indices))


def _gather(values: Array, index: Array) -> Array:
    """Return values [B, N, ...] at index [B, M]: [B, M, ...]."""
    return jnp.take_along_axis(values, index.reshape(*index.shape, *[1] * (values.ndim - 2)), axis=1)
