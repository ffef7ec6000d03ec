"""Cross-entropy over a large vocabulary, a part of it at a time: no [B, L, V] array beyond 64 MiB ever exists.

The head's table is divided over the mesh like every parameter: by columns over the devices that share a batch (ZeRO-3),
by rows over those that share a vocabulary. Each part of it is gathered when its turn comes, forward and backward, and
its gradient is complete within that turn and goes back to its owners: neither the whole table nor its whole gradient
ever exists on one device. Logits are computed again in the backward pass, from log-sum-exps that the forward pass kept.
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

_LOGITS_AT_ONCE = 2**24  # float32 logits on one device: 64 MiB
_ROWS = 128  # a part of the vocabulary is a multiple of this: a TPU's matrix unit is as wide
_NEVER = -1e30  # logit of a row that fills up the last part


def cross_entropy(hidden: Array, table: Array, targets: Array, axes: AxisRules, cap: float | None = None) -> Array:
    """Negative log-likelihood of targets [B, L] in nats, float32 [B, L], under softmax(hidden @ table.T).

    hidden [B, L, D]; table [V, D], whose gradient is computed only where it is asked for. In the mesh in context both
    lie as `axes` say. cap: soft cap of the logits.
    """
    mesh = jax.sharding.get_abstract_mesh()
    small = targets.size * table.shape[0] <= _LOGITS_AT_ONCE
    if small and (mesh.empty or mesh.size == 1):
        logits = jnp.einsum("bld,vd->blv", hidden, table.astype(hidden.dtype), preferred_element_type=jnp.float32)
        logits = soft_cap(logits, cap)
        chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        return jax.nn.logsumexp(logits, axis=-1) - chosen
    return _in_parts(hidden, table, targets, axes, cap)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _in_parts(hidden: Array, table: Array, targets: Array, axes: AxisRules, cap: float | None) -> Array:
    losses, _ = _forward(hidden, table, targets, axes, cap)
    return losses


def _forward_rule(hidden, table, targets, axes, cap):  # primals that know whether they are differentiated
    losses, normalizers = _forward(hidden.value, table.value, targets.value, axes, cap)
    wanted = () if table.perturbed else None  # its structure, not a value: known when the backward pass is traced
    return losses, (hidden.value, table.value, targets.value, normalizers, wanted)


def _backward_rule(axes, cap, kept, cotangent):
    hidden, table, targets, normalizers, wanted = kept
    if isinstance(cotangent, jax.custom_derivatives.SymbolicZero):
        return jnp.zeros_like(hidden), jnp.zeros_like(table), None
    ways = _Ways(axes, hidden.shape, table.shape, cap)
    if wanted is None:
        run = ways.divided(functools.partial(_hidden_gradient, ways), "htrrr", "h")
        return run(hidden, table, targets, normalizers, cotangent), None, None
    run = ways.divided(functools.partial(_gradients, ways), "htrrr", "ht")
    return *run(hidden, table, targets, normalizers, cotangent), None


_in_parts.defvjp(_forward_rule, _backward_rule, symbolic_zeros=True)


def _forward(hidden: Array, table: Array, targets: Array, axes: AxisRules, cap: float | None) -> tuple[Array, Array]:
    """Losses and log-sum-exps, [B, L] each."""
    ways = _Ways(axes, hidden.shape, table.shape, cap)
    return ways.divided(functools.partial(_losses, ways), "htr", "rr")(hidden, table, targets)


class _Ways:
    """How the arrays are divided, and which mesh axes each sum over devices goes along. cap: of the logits."""

    def __init__(self, axes: AxisRules, hidden: tuple[int, ...], table: tuple[int, ...], cap: float | None):
        self.cap = cap
        self.mesh = jax.sharding.get_abstract_mesh()
        alone = self.mesh.empty
        self.rows = PartitionSpec() if alone else partition_spec(self.mesh, axes, ("batch", "length"), hidden[:2])
        self.table = PartitionSpec() if alone else partition_spec(self.mesh, axes, ("vocab", "embed"), table)
        self.vocab, self.columns = (_names(entry) for entry in (*self.table, None, None)[:2])
        self.tokens = tuple(name for entry in self.rows for name in _names(entry))

    def divided(self, function: Callable, inputs: str, outputs: str) -> Callable:
        """`function` on each device's part; h: hidden states [B, L, D], t: the table, r: rows [B, L]."""
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
        """The vocabulary item of the first of this device's `rows` rows of the table."""
        return (jax.lax.axis_index(self.vocab) if self.vocab else jnp.int32(0)) * rows

    def gather(self, part: Array) -> Array:
        """All columns of a part of the table."""
        return jax.lax.all_gather(part, self.columns, axis=1, tiled=True) if self.columns else part

    def give_back(self, gradient: Array) -> Array:
        """The gradient of a part of the table, summed over all tokens, this device's columns of it."""
        if self.columns:
            gradient = jax.lax.psum_scatter(gradient, self.columns, scatter_dimension=1, tiled=True)
        others = tuple(name for name in self.tokens if name not in self.columns)
        return jax.lax.psum(gradient, others) if others else gradient

    def over_vocabulary(self, values: Array) -> Array:
        """Values summed over the devices that share the vocabulary."""
        return jax.lax.psum(values, self.vocab) if self.vocab else values


def _names(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)


class _Part(NamedTuple):
    """A part of this device's table: rows [R, D of this device], the item of its first row, and how many are real."""

    rows: Array
    first: Array
    real: Array


def _parts(ways: _Ways, hidden: Array, table: Array) -> _Part:
    """The table in parts on a leading axis, the last one filled up with rows of zeros."""
    tokens, size = hidden.shape[0] * hidden.shape[1], table.shape[0]
    rows = min(size, max(_ROWS, _LOGITS_AT_ONCE // tokens // _ROWS * _ROWS))
    count = -(-size // rows)
    starts = jnp.arange(count, dtype=jnp.int32) * rows
    if count * rows > size:  # cast before it is copied; otherwise each part is cast in its turn
        table = jnp.pad(table.astype(hidden.dtype), ((0, count * rows - size), (0, 0)))
    padded = table.reshape(count, rows, -1)
    return _Part(padded, ways.first_row(size) + starts, jnp.minimum(rows, size - starts))


def _logits(ways: _Ways, hidden: Array, part: _Part) -> tuple[Array, Array]:
    """Float32 logits [B, L, R] of a part of the vocabulary, and the part's rows [R, D] that gave them."""
    rows = ways.gather(_cast(part.rows, hidden.dtype))
    logits = soft_cap(jnp.einsum("bld,rd->blr", hidden, rows, preferred_element_type=jnp.float32), ways.cap)
    return jnp.where(jnp.arange(rows.shape[0]) < part.real, logits, _NEVER), rows


def _cast(rows: Array, dtype: jnp.dtype) -> Array:
    return rows if rows.dtype == dtype else delay_read(rows).astype(dtype)


def _is_target(targets: Array, part: _Part) -> Array:
    """bool [B, L, R]: whether the target is this row of the part."""
    rows = jnp.arange(part.rows.shape[0], dtype=targets.dtype)
    return (targets[..., None] - part.first == rows) & (rows < part.real)


def _losses(ways: _Ways, hidden: Array, table: Array, targets: Array) -> tuple[Array, Array]:
    def add(carry: tuple[Array, Array, Array], part: _Part) -> tuple[tuple[Array, Array, Array], None]:
        largest, total, chosen = carry
        logits, _ = _logits(ways, hidden, part)
        higher = jnp.maximum(largest, logits.max(-1))
        total = total * jnp.exp(largest - higher) + jnp.exp(logits - higher[..., None]).sum(-1)
        return (higher, total, chosen + jnp.where(_is_target(targets, part), logits, 0).sum(-1)), None

    zeros = jnp.zeros(targets.shape, jnp.float32)
    (largest, total, chosen), _ = jax.lax.scan(add, (zeros + _NEVER, zeros, zeros), _parts(ways, hidden, table))
    highest = jax.lax.pmax(largest, ways.vocab) if ways.vocab else largest
    total = ways.over_vocabulary(total * jnp.exp(largest - highest))
    normalizers = highest + jnp.log(total)
    return normalizers - ways.over_vocabulary(chosen), normalizers


def _part_gradient(
    ways: _Ways, hidden: Array, targets: Array, normalizers: Array, cotangent: Array, part: _Part
) -> tuple[Array, Array]:
    """Gradient of the losses with respect to a part's logits, [B, L, R], and the part's rows [R, D]."""
    logits, rows = _logits(ways, hidden, part)
    probabilities = jnp.exp(logits - normalizers[..., None])
    gradient = (probabilities - _is_target(targets, part)) * cotangent[..., None]
    if ways.cap is not None:  # the logits of rows that fill up lie beyond the cap
        gradient = gradient * soft_cap_slope(jnp.maximum(logits, -ways.cap), ways.cap)
    return gradient.astype(hidden.dtype), rows


def _hidden_gradient(ways, hidden, table, targets, normalizers, cotangent):
    def add(total: Array, part: _Part) -> tuple[Array, None]:
        gradient, rows = _part_gradient(ways, hidden, targets, normalizers, cotangent, part)
        return total + jnp.einsum("blr,rd->bld", gradient, rows, preferred_element_type=jnp.float32), None

    total, _ = jax.lax.scan(add, jnp.zeros(hidden.shape, jnp.float32), _parts(ways, hidden, table))
    return ways.over_vocabulary(total).astype(hidden.dtype)


def _gradients(ways, hidden, table, targets, normalizers, cotangent):
    def add(total: Array, part: _Part) -> tuple[Array, Array]:
        gradient, rows = _part_gradient(ways, hidden, targets, normalizers, cotangent, part)
        of_rows = jnp.einsum("blr,bld->rd", gradient, hidden, preferred_element_type=jnp.float32)
        total = total + jnp.einsum("blr,rd->bld", gradient, rows, preferred_element_type=jnp.float32)
        return total, ways.give_back(of_rows).astype(table.dtype)

    total, parts = jax.lax.scan(add, jnp.zeros(hidden.shape, jnp.float32), _parts(ways, hidden, table))
    of_table = parts.reshape(-1, table.shape[1])[: table.shape[0]]
    return ways.over_vocabulary(total).astype(hidden.dtype), of_table
