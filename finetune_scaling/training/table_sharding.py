"""Shardings of hidden states and the head's table, and the collectives over their mesh axes.

The table is sharded like every parameter: by columns over the devices that share a batch (ZeRO-3), by rows over those
that share a vocabulary. Its chunks are all-gathered when they are used, and their gradients reduce-scattered at once.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from finetune_scaling.sharding.axes import AxisRules, partition_spec

Array = jax.Array


class TableSharding:
    """Shardings of hidden states [B, L, D] and a table [V, D] on the mesh in context, and its collectives.

    columns: the mesh axes that shard the table's columns.
    """

    def __init__(self, axes: AxisRules, hidden: tuple[int, ...], table: tuple[int, ...]):
        mesh = jax.sharding.get_abstract_mesh()
        self._unsharded = mesh.empty or mesh.size == 1
        rows, shards = PartitionSpec(), PartitionSpec()
        if not self._unsharded:
            rows = partition_spec(mesh, axes, ("batch", "length"), hidden[:2])
            shards = partition_spec(mesh, axes, ("vocab", "embed"), table)
        self._specs = {"h": rows, "t": shards, "r": rows}
        self._vocab, self.columns = (_names(entry) for entry in (*shards, None, None)[:2])
        self._tokens = tuple(name for entry in rows for name in _names(entry))

    def shard(self, function: Callable, inputs: str, outputs: str) -> Callable:
        """Return `function` per shard; h: hidden states [B, L, D], t: the table, r: an array [B, L].

        The function returns a tuple.
        """
        if self._unsharded:
            return function
        in_specs, out_specs = (tuple(self._specs[kind] for kind in kinds) for kinds in (inputs, outputs))
        return jax.shard_map(function, in_specs=in_specs, out_specs=out_specs, check_vma=False)

    def first_row(self, rows: int) -> Array:
        """Return the token id of the first of this device's `rows` rows of the table."""
        return (jax.lax.axis_index(self._vocab) if self._vocab else jnp.int32(0)) * rows

    def all_gather(self, chunk: Array) -> Array:
        """Return all columns of a chunk of the table."""
        return jax.lax.all_gather(chunk, self.columns, axis=1, tiled=True) if self.columns else chunk

    def reduce_scatter(self, gradient: Array) -> Array:
        """Return this device's columns of the gradient of a chunk, summed over all tokens."""
        if self.columns:
            gradient = jax.lax.psum_scatter(gradient, self.columns, scatter_dimension=1, tiled=True)
        others = tuple(name for name in self._tokens if name not in self.columns)
        return jax.lax.psum(gradient, others) if others else gradient

    def sum_over_vocabulary(self, values: Any) -> Any:
        """Return a tree of arrays summed over the devices that share the vocabulary."""
        return jax.lax.psum(values, self._vocab) if self._vocab else values

    def max_over_vocabulary(self, values: Array) -> Array:
        """Return the maximum over the devices that share the vocabulary."""
        return jax.lax.pmax(values, self._vocab) if self._vocab else values


def _names(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)
