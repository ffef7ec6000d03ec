"""A device's shard of the head's table, whose rows are read and whose logits are computed in chunks.

A chunk has at most 64 MiB of logits: those of some tokens and some, or all, rows of the shard.
"""

import jax
import jax.numpy as jnp

from finetune_scaling.models.optimization_barriers import delay_read
from finetune_scaling.models.soft_cap import soft_cap, soft_cap_slope
from finetune_scaling.training.table_sharding import TableSharding

Array = jax.Array

_MAX_LOGITS = 2**24  # float32 logits per device: 64 MiB
_ROWS = 128  # a chunk of the table is a multiple of this, the width of a TPU's matrix unit
_TOKENS = 1024  # that use a chunk of the table each time it is read: with a few hundred, accelerators wait for memory


def product(equation: str, left: Array, right: Array) -> Array:
    """Return an einsum that is accumulated in float32, and float32."""
    return jnp.einsum(equation, left, right, preferred_element_type=jnp.float32)


def _even_chunk(size: int, most: int) -> int:
    """Return the size of the fewest chunks of at most `most`, as equal as possible."""
    return -(-size // -(-size // most))


class HeadShard:
    """A device's shard of the table, and the sizes of chunks: `tokens` tokens and `rows` rows of the table.

    hidden [b, l, D] and table [v, d] are this device's; cap: soft cap of the logits.
    """

    def __init__(self, sharding: TableSharding, cap: float | None, hidden: Array, table: Array):
        self.sharding, self.cap, self.table, self.dtype = sharding, cap, table, hidden.dtype
        self.size = table.shape[0]
        self._first = sharding.first_row(self.size)
        every = hidden.shape[0] * hidden.shape[1]
        # Where the columns are sharded, a chunk is all-gathered each time that it is read: once, by all tokens.
        most = every if sharding.columns else max(_TOKENS, _MAX_LOGITS // self.size)
        self.tokens = _even_chunk(every, min(most, _MAX_LOGITS // _ROWS))
        self.rows = self.rows_per_chunk(self.tokens)

    def rows_per_chunk(self, tokens: int) -> int:
        """Return how many rows of the table have logits of `tokens` tokens within the limit."""
        if tokens * self.size <= _MAX_LOGITS:
            return self.size
        most = max(1, _MAX_LOGITS // tokens // _ROWS)
        return min(self.size, _even_chunk(-(-self.size // _ROWS), most) * _ROWS)

    def read(self, start: Array | int, count: int) -> Array:
        """Return rows of the table with all columns in the hidden states' dtype, [count, D]."""
        rows = self.table if count == self.size else jax.lax.dynamic_slice_in_dim(self.table, start, count)
        return self.sharding.all_gather(rows if rows.dtype == self.dtype else delay_read(rows).astype(self.dtype))

    def logits(self, hidden: Array, rows: Array) -> Array:
        """Return float32 logits, [T, D], [R, D] -> [T, R]."""
        return soft_cap(product("td,rd->tr", hidden, rows), self.cap)

    def slope(self, logits: Array) -> Array | float:
        """Return the derivative of logits with respect to those before the soft cap."""
        return soft_cap_slope(logits, self.cap)

    def positions(self, targets: Array, start: Array | int) -> Array:
        """Return positions of targets counted from row `start` of this shard, [T]; negative if before it."""
        return targets - self._first - start
