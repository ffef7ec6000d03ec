"""Losses of a chunk of tokens and their gradients, from all logits at once or in chunks of the vocabulary.

With chunks of the vocabulary, sums of exponentials, and of the rows of the table that these weight, are rescaled to the
running maximum (online softmax; Milakov and Gimelshein, 2018), so that no logits are computed twice.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from finetune_scaling.training.head_shard import HeadShard, product

Array = jax.Array

_LOWEST = -1e30  # below every logit, and finite, so that differences of two are


def softmax(head: HeadShard, rows: Array, hidden: Array, targets: Array, weights: Array | None = None) -> Any:
    """Return losses [T] and, given weights, gradients of their weighted sum: of hidden states and logits [T, v].

    rows: all rows of the shard.
    """
    logits = head.logits(hidden, rows)
    is_target = head.positions(targets, 0)[:, None] == jnp.arange(head.size)
    largest = head.sharding.max_over_vocabulary(logits.max(-1))
    sums = jnp.exp(logits - largest[:, None]).sum(-1), jnp.where(is_target, logits, 0).sum(-1)
    total, chosen = head.sharding.sum_over_vocabulary(sums)
    normalizers = largest + jnp.log(total)
    if weights is None:
        return normalizers - chosen, None, None
    of_logits = logit_gradient(head, logits, is_target, normalizers, weights)
    gradient = head.sharding.sum_over_vocabulary(product("tr,rd->td", of_logits, rows))
    return normalizers - chosen, gradient.astype(head.dtype), of_logits


def logit_gradient(head: HeadShard, logits: Array, is_target: Array, normalizers: Array, weights: Array) -> Array:
    """Return the gradient of the weighted losses with respect to logits [T, R] before the soft cap."""
    difference = jnp.exp(logits - normalizers[:, None]) - is_target
    return (difference * weights[:, None] * head.slope(logits)).astype(head.dtype)


class _WeightedRows(NamedTuple):
    """Rows weighted by the exponentials of their logits, float32 [T, D], and the target's row [T, D]."""

    total: Array
    target: Array


class _Running(NamedTuple):
    """Running values of the rows of the table up to now.

    largest logit and sum of exponentials relative to it [T]; logit of the target, if it was among them [T]; rows: what
    the gradient needs, if it is computed.
    """

    largest: Array
    total: Array
    chosen: Array
    rows: _WeightedRows | None


def running_softmax(head: HeadShard, hidden: Array, targets: Array, weights: Array | None = None) -> Any:
    """Return losses [T], the gradient of their weighted sum with respect to hidden states, and log-sum-exps [T].

    The gradient is None without weights.
    """
    zeros = jnp.zeros(targets.shape, jnp.float32)
    rows = None if weights is None else _WeightedRows(jnp.zeros(hidden.shape, jnp.float32), jnp.zeros_like(hidden))
    starts = jnp.arange(0, head.size, head.rows)
    step = lambda running, first: (_add_rows(head, hidden, targets, running, first), None)  # noqa: E731
    running = jax.lax.scan(step, _Running(zeros + _LOWEST, zeros, zeros, rows), starts)[0]
    largest = head.sharding.max_over_vocabulary(running.largest)
    scale = jnp.exp(running.largest - largest)
    total, chosen = head.sharding.sum_over_vocabulary((running.total * scale, running.chosen))
    normalizers = largest + jnp.log(total)
    if weights is None or running.rows is None:
        return normalizers - chosen, None, normalizers
    expected = running.rows.total * (scale / total)[:, None]
    observed = running.rows.target * jnp.broadcast_to(head.slope(chosen), chosen.shape)[:, None]
    gradient = head.sharding.sum_over_vocabulary((expected - observed) * weights[:, None])
    return normalizers - chosen, gradient.astype(head.dtype), normalizers


def _add_rows(head: HeadShard, hidden: Array, targets: Array, running: _Running, first: Array) -> _Running:
    """Return the running values with the chunk of the table that begins at row `first`.

    The last chunk ends at the last row. It begins with rows of the chunk before it, which are not added again.
    """
    start = jnp.minimum(first, head.size - head.rows)
    rows = head.read(start, head.rows)
    logits = head.logits(hidden, rows)
    new = logits
    if head.size % head.rows:
        new = jnp.where(jnp.arange(head.rows) < first - start, _LOWEST, logits)
    largest = jnp.maximum(running.largest, new.max(-1))
    exponentials, rescale = jnp.exp(new - largest[:, None]), jnp.exp(running.largest - largest)
    positions = head.positions(targets, start)
    is_here = (positions >= 0) & (positions < head.rows)
    chosen = jnp.where(positions[:, None] == jnp.arange(head.rows), logits, 0).sum(-1)
    weighted = None
    if running.rows is not None:
        slopes = (exponentials * head.slope(logits)).astype(head.dtype)
        target = jnp.take(rows, positions, axis=0, mode="clip")
        weighted = _WeightedRows(
            running.rows.total * rescale[:, None] + product("tr,rd->td", slopes, rows),
            jnp.where(is_here[:, None], target, running.rows.target),
        )
    total = running.total * rescale + exponentials.sum(-1)
    return _Running(largest, total, jnp.where(is_here, chosen, running.chosen), weighted)
