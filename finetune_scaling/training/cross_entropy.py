"""Chunked cross-entropy over a large vocabulary: no [B, L, V] array above 64 MiB ever exists.

The head's table is sharded over the mesh like every parameter: by columns over the devices that share a batch (ZeRO-3),
by rows over those that share a vocabulary. Each chunk of it is all-gathered when it is used, forward and backward, and
its gradient is reduce-scattered at once: neither the unsharded table nor its gradient exists on one device. The
backward pass recomputes logits from the log-sum-exps of the forward pass.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from finetune_scaling.models.optimization_barriers import delay_read
from finetune_scaling.models.soft_cap import soft_cap, soft_cap_slope
from finetune_scaling.sharding.axes import AxisRules, partition_spec

Array = jax.Array

_MAX_LOGITS = 2**24  # float32 logits per device: 64 MiB
_ROWS = 128  # a chunk of the vocabulary is a multiple of this, the width of a TPU's matrix unit
_PADDING = -1e30  # logit of the rows that pad the last chunk


def cross_entropy(hidden: Array, table: Array, targets: Array, axes: AxisRules, cap: float | None = None) -> Array:
    """Return the negative log-likelihood of targets [B, L] in nats, float32 [B, L], under softmax(hidden @ table.T).

    hidden [B, L, D]; table [V, D], whose gradient is computed only if needed. Both are sharded by `axes` over the mesh
    in context. cap: soft cap of the logits.
    """
    mesh = jax.sharding.get_abstract_mesh()
    small = targets.size * table.shape[0] <= _MAX_LOGITS
    if small and (mesh.empty or mesh.size == 1):
        logits = jnp.einsum("bld,vd->blv", hidden, table.astype(hidden.dtype), preferred_element_type=jnp.float32)
        logits = soft_cap(logits, cap)
        chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        return jax.nn.logsumexp(logits, axis=-1) - chosen
    return _chunked(hidden, table, targets, axes, cap)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _chunked(hidden: Array, table: Array, targets: Array, axes: AxisRules, cap: float | None) -> Array:
    losses, _ = _forward(hidden, table, targets, axes, cap)
    return losses


def _forward_rule(hidden, table, targets, axes, cap):  # symbolic_zeros: primals say whether they are differentiated
    losses, normalizers = _forward(hidden.value, table.value, targets.value, axes, cap)
    needs_gradient = () if table.perturbed else None  # a structure instead of a value: static in the backward pass
    return losses, (hidden.value, table.value, targets.value, normalizers, needs_gradient)


def _backward_rule(axes, cap, residuals, cotangent):
    hidden, table, targets, normalizers, needs_gradient = residuals
    if isinstance(cotangent, jax.custom_derivatives.SymbolicZero):
        return jnp.zeros_like(hidden), jnp.zeros_like(table), None
    sharding = _TableSharding(axes, hidden.shape, table.shape, cap)
    if needs_gradient is None:
        run = sharding.shard(functools.partial(_hidden_gradient, sharding), "htrrr", "h")
        return run(hidden, table, targets, normalizers, cotangent), None, None
    run = sharding.shard(functools.partial(_gradients, sharding), "htrrr", "ht")
    return *run(hidden, table, targets, normalizers, cotangent), None


_chunked.defvjp(_forward_rule, _backward_rule, symbolic_zeros=True)


def _forward(hidden: Array, table: Array, targets: Array, axes: AxisRules, cap: float | None) -> tuple[Array, Array]:
    """Return losses and log-sum-exps, [B, L] each."""
    sharding = _TableSharding(axes, hidden.shape, table.shape, cap)
    return sharding.shard(functools.partial(_losses, sharding), "htr", "rr")(hidden, table, targets)


class _TableSharding:
    """Shardings of hidden states and table, and the collectives over their mesh axes. cap: of the logits."""

    def __init__(self, axes: AxisRules, hidden: tuple[int, ...], table: tuple[int, ...], cap: float | None):
        self.cap = cap
        self.mesh = jax.sharding.get_abstract_mesh()
        unsharded = self.mesh.empty
        self.rows = PartitionSpec() if unsharded else partition_spec(self.mesh, axes, ("batch", "length"), hidden[:2])
        self.table = PartitionSpec() if unsharded else partition_spec(self.mesh, axes, ("vocab", "embed"), table)
        self.vocab, self.columns = (_names(entry) for entry in (*self.table, None, None)[:2])
        self.tokens = tuple(name for entry in self.rows for name in _names(entry))

    def shard(self, function: Callable, inputs: str, outputs: str) -> Callable:
        """Return `function` per shard; h: hidden states [B, L, D], t: the table, r: rows [B, L]."""
        if self.mesh.empty:
            return function
        kinds = {"h": self.rows, "t": self.table, "r": self.rows}
        where = tuple(kinds[kind] for kind in outputs)
        return jax.shard_map(
            function,
            in_specs=tuple(kinds[kind] for kind in inputs),
            out_specs=where if len(where) > 1 else where[0],
            check_vma=False,
        )

    def first_row(self, rows: int) -> Array:
        """Return the token id of the first of this device's `rows` rows of the table."""
        return (jax.lax.axis_index(self.vocab) if self.vocab else jnp.int32(0)) * rows

    def all_gather(self, chunk: Array) -> Array:
        """Return all columns of a chunk of the table."""
        return jax.lax.all_gather(chunk, self.columns, axis=1, tiled=True) if self.columns else chunk

    def reduce_scatter(self, gradient: Array) -> Array:
        """Return this device's columns of the gradient of a chunk, summed over all tokens."""
        if self.columns:
            gradient = jax.lax.psum_scatter(gradient, self.columns, scatter_dimension=1, tiled=True)
        others = tuple(name for name in self.tokens if name not in self.columns)
        return jax.lax.psum(gradient, others) if others else gradient

    def sum_over_vocabulary(self, values: Array) -> Array:
        """Return values summed over the devices that share the vocabulary."""
        return jax.lax.psum(values, self.vocab) if self.vocab else values


def _names(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)


class _Chunk(NamedTuple):
    """A chunk of this device's table: rows [R, D of this device], the first row's token id, rows without padding."""

    rows: Array
    first: Array
    real: Array


def _chunks(sharding: _TableSharding, hidden: Array, table: Array) -> _Chunk:
    """Return the table in chunks on a leading axis, the last one padded with zeros."""
    tokens, size = hidden.shape[0] * hidden.shape[1], table.shape[0]
    rows = min(size, max(_ROWS, _MAX_LOGITS // tokens // _ROWS * _ROWS))
    count = -(-size // rows)
    starts = jnp.arange(count, dtype=jnp.int32) * rows
    if count * rows > size:  # cast before the copy; otherwise each chunk is cast when it is used
        table = jnp.pad(table.astype(hidden.dtype), ((0, count * rows - size), (0, 0)))
    padded = table.reshape(count, rows, -1)
    return _Chunk(padded, sharding.first_row(size) + starts, jnp.minimum(rows, size - starts))


def _logits(sharding: _TableSharding, hidden: Array, chunk: _Chunk) -> tuple[Array, Array]:
    """Return float32 logits [B, L, R] of a chunk of the vocabulary, and the chunk's rows [R, D]."""
    rows = sharding.all_gather(_cast(chunk.rows, hidden.dtype))
    logits = soft_cap(jnp.einsum("bld,rd->blr", hidden, rows, preferred_element_type=jnp.float32), sharding.cap)
    return jnp.where(jnp.arange(rows.shape[0]) < chunk.real, logits, _PADDING), rows


def _cast(rows: Array, dtype: jnp.dtype) -> Array:
    return rows if rows.dtype == dtype else delay_read(rows).astype(dtype)


def _is_target(targets: Array, chunk: _Chunk) -> Array:
    """Return whether the target is this row of the chunk, bool [B, L, R]."""
    rows = jnp.arange(chunk.rows.shape[0], dtype=targets.dtype)
    return (targets[..., None] - chunk.first == rows) & (rows < chunk.real)


def _losses(sharding: _TableSharding, hidden: Array, table: Array, targets: Array) -> tuple[Array, Array]:
    def add(carry: tuple[Array, Array, Array], chunk: _Chunk) -> tuple[tuple[Array, Array, Array], None]:
        largest, total, chosen = carry
        logits, _ = _logits(sharding, hidden, chunk)
        higher = jnp.maximum(largest, logits.max(-1))
        total = total * jnp.exp(largest - higher) + jnp.exp(logits - higher[..., None]).sum(-1)
        return (higher, total, chosen + jnp.where(_is_target(targets, chunk), logits, 0).sum(-1)), None

    zeros = jnp.zeros(targets.shape, jnp.float32)
    (largest, total, chosen), _ = jax.lax.scan(add, (zeros + _PADDING, zeros, zeros), _chunks(sharding, hidden, table))
    highest = jax.lax.pmax(largest, sharding.vocab) if sharding.vocab else largest
    total = sharding.sum_over_vocabulary(total * jnp.exp(largest - highest))
    normalizers = highest + jnp.log(total)
    return normalizers - sharding.sum_over_vocabulary(chosen), normalizers


def _chunk_gradient(
    sharding: _TableSharding, hidden: Array, targets: Array, normalizers: Array, cotangent: Array, chunk: _Chunk
) -> tuple[Array, Array]:
    """Return the gradient with respect to a chunk's logits, [B, L, R], and the chunk's rows [R, D]."""
    logits, rows = _logits(sharding, hidden, chunk)
    probabilities = jnp.exp(logits - normalizers[..., None])
    gradient = (probabilities - _is_target(targets, chunk)) * cotangent[..., None]
    if sharding.cap is not None:  # padding has logits beyond the cap
        gradient = gradient * soft_cap_slope(jnp.maximum(logits, -sharding.cap), sharding.cap)
    return gradient.astype(hidden.dtype), rows


def _hidden_gradient(sharding, hidden, table, targets, normalizers, cotangent):
    def add(total: Array, chunk: _Chunk) -> tuple[Array, None]:
        gradient, rows = _chunk_gradient(sharding, hidden, targets, normalizers, cotangent, chunk)
        return total + jnp.einsum("blr,rd->bld", gradient, rows, preferred_element_type=jnp.float32), None

    total, _ = jax.lax.scan(add, jnp.zeros(hidden.shape, jnp.float32), _chunks(sharding, hidden, table))
    return sharding.sum_over_vocabulary(total).astype(hidden.dtype)


def _gradients(sharding, hidden, table, targets, normalizers, cotangent):
    def add(total: Array, chunk: _Chunk) -> tuple[Array, Array]:
        gradient, rows = _chunk_gradient(sharding, hidden, targets, normalizers, cotangent, chunk)
        row_gradient = jnp.einsum("blr,bld->rd", gradient, hidden, preferred_element_type=jnp.float32)
        total = total + jnp.einsum("blr,rd->bld", gradient, rows, preferred_element_type=jnp.float32)
        return total, sharding.reduce_scatter(row_gradient).astype(table.dtype)

    total, gradients = jax.lax.scan(add, jnp.zeros(hidden.shape, jnp.float32), _chunks(sharding, hidden, table))
    table_gradient = gradients.reshape(-1, table.shape[1])[: table.shape[0]]
    return sharding.sum_over_vocabulary(total).astype(hidden.dtype), table_gradient
