"""Decoding of one text per row: greedy decoding and sampling."""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from finetune_scaling.decoding.search import Outputs, RowInputs, Termination, keep_ended
from finetune_scaling.decoding.selection import argmax, threshold
from finetune_scaling.decoding.stopping import START

Array = jax.Array


class SingleState(NamedTuple):
    """Last token [B, 1], output [B, 1, T], its length [B, 1], stop-string states [B, 1], ended rows [B]."""

    token: Array
    output: Array
    length: Array
    stop_states: Array
    ended: Array
    row: RowInputs


@dataclasses.dataclass(frozen=True)
class SingleSequence:
    """One text per row without a score.

    choice: (logits [B, V], row, written) -> one token per row, int32 [B]. Hashable.
    """

    choice: Callable[[Array, RowInputs, Array], Array]
    pad_id: int

    @property
    def width(self) -> int:
        return 1

    def begin(self, row: RowInputs, ended: Array, longest: int) -> SingleState:
        rows = row.limit.shape[0]
        return SingleState(
            token=jnp.full((rows, 1), self.pad_id, jnp.int32),
            output=jnp.full((rows, 1, longest), self.pad_id, jnp.int32),
            length=jnp.zeros((rows, 1), jnp.int32),
            stop_states=jnp.full((rows, 1), START, jnp.int32),
            ended=ended,
            row=row,
        )

    def advance(
        self, state: SingleState, logits: Array, termination: Termination, written: Array
    ) -> tuple[SingleState, None]:
        token = self.choice(logits[:, 0], state.row, written)[:, None]
        stop_states, is_last = termination.follow(state.stop_states, token, state.row, written)
        new = state._replace(
            token=token,
            output=jax.lax.dynamic_update_slice_in_dim(state.output, token[..., None], written, axis=2),
            length=state.length + 1,
            stop_states=stop_states,
            ended=is_last[:, 0],
        )
        return keep_ended(state.ended, state, new), None

    def outputs(self, state: SingleState) -> Outputs:
        return Outputs(state.output, state.length, None, state.ended)


def greedy(logits: Array, row: RowInputs, written: Array) -> Array:
    """Return the most likely token of each row; the lowest id among equals."""
    return argmax(logits)


@dataclasses.dataclass(frozen=True)
class Sampling:
    """A sampled token, after temperature, top_k, top_p and min_p.

    The sample depends only on the seed, the example's index and the token's position.
    """

    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    seed: int

    def __call__(self, logits: Array, row: RowInputs, written: Array) -> Array:
        key = jax.random.key(self.seed)

        def sample(example: Array, warped: Array) -> Array:
            return jax.random.categorical(jax.random.fold_in(jax.random.fold_in(key, example), written), warped)

        return jax.vmap(sample)(row.example, self.warp(logits)).astype(jnp.int32)

    def warp(self, logits: Array) -> Array:
        """Return the logits [B, V] of the distribution that is sampled from; -inf is never sampled."""
        logits = logits / self.temperature
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            logits = _top_k(logits, self.top_k)
        if self.top_p is not None and self.top_p < 1:
            logits = _top_p(logits, self.top_p)
        if self.min_p is not None and self.min_p > 0:
            logits = _mask_below(logits, logits.max(axis=-1) + math.log(self.min_p))
        return logits


def _top_k(logits: Array, count: int) -> Array:
    return _mask_below(logits, threshold(logits, lambda kept: kept.sum(axis=-1) >= count))


def _top_p(logits: Array, mass: float) -> Array:
    """Keep the smallest set of most likely tokens with at least this probability."""
    probabilities = jax.nn.softmax(logits, axis=-1)
    minimum = threshold(probabilities, lambda kept: jnp.where(kept, probabilities, 0).sum(axis=-1) >= mass)
    return jnp.where(probabilities >= minimum[:, None], logits, -jnp.inf)


def _mask_below(logits: Array, minimum: Array) -> Array:
    """Mask logits [B, V] below `minimum` [B]."""
    return jnp.where(logits >= minimum[:, None], logits, -jnp.inf)
