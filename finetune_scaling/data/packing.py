"""Packing: which sequences share a row, planned from their lengths, and the packed batches.

A row holds segments 1, 2, ...; positions restart in each segment, and segment 0 is padding. With attention limited to
segments, a packed sequence is computed exactly as an unpacked one.
"""

import array
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from finetune_scaling.data.data_cache import Entry, cached, is_large
from finetune_scaling.data.objectives import TokenSequence

Batch = dict[str, np.ndarray]

_FIELDS = {
    "tokens": np.int32, "targets": np.int32, "weights": np.float32,
    "positions": np.int32, "segments": np.int32, "prefix": np.bool_,
}  # fmt: skip


class PackingPlan(NamedTuple):
    """Which items each row holds: row r has items[offsets[r]:offsets[r + 1]], in that order.

    items: int64[N], a permutation of 0..N-1; offsets: int64[rows + 1].
    """

    items: np.ndarray
    offsets: np.ndarray

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.offsets) - 1

    def row(self, index: int) -> np.ndarray:
        """Return the items of one row."""
        return self.items[self.offsets[index] : self.offsets[index + 1]]


def stored_plan(lengths: np.ndarray, capacity: int) -> PackingPlan:
    """Return `plan_packing`; that of many items is stored in the data cache."""
    if not is_large(len(lengths)):
        return plan_packing(lengths, capacity)
    digest = hashlib.sha256(np.asarray(lengths, np.int64).tobytes()).hexdigest()
    key = {"lengths": digest, "capacity": capacity}
    return PackingPlan(**cached("packing", key, lambda: Entry(None, plan_packing(lengths, capacity)._asdict())).arrays)


def plan_packing(lengths: np.ndarray, capacity: int, *, window: int = 32) -> PackingPlan:
    """Plan rows by first fit in the given order over at most `window` open rows; the fullest is closed to open another.

    lengths: int[N], number of tokens of each item, 1 to `capacity`. Rows are in the order in which they were closed.
    Raises ValueError if an item is longer than a row.
    """
    lengths = np.asarray(lengths)
    if len(lengths) and not 1 <= lengths.min() <= lengths.max() <= capacity:
        raise ValueError(f"lengths from {lengths.min()} to {lengths.max()} do not fit rows of {capacity} tokens")
    closed, ends = array.array("q"), array.array("q", [0])  # compact: there may be hundreds of millions of items
    rows: list[list[int]] = []
    room: list[int] = []

    def close(slot: int) -> None:
        closed.extend(rows.pop(slot))
        ends.append(len(closed))
        room.pop(slot)

    smallest = int(lengths.min()) if len(lengths) else 1
    for item, length in enumerate(map(int, lengths)):
        slot = next((i for i, left in enumerate(room) if left >= length), len(room))
        if slot == len(room):
            if slot == window:
                close(room.index(min(room)))
                slot = window - 1
            rows.append([])
            room.append(capacity)
        rows[slot].append(item)
        room[slot] -= length
        if room[slot] < smallest:  # no item fits
            close(slot)
    while rows:
        close(0)
    return PackingPlan(np.asarray(closed), np.asarray(ends))


def assign_items(item_sizes: np.ndarray, slot_sizes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Assign every item to a random slot of its size; return the item of each slot, int64[N].

    slot_sizes: a permutation of item_sizes. One plan over slots is thus used in every epoch, with items of equal size,
    and so neighbours in a row, exchanged.
    """
    items = np.empty(len(item_sizes), np.int64)
    items[np.argsort(slot_sizes, kind="stable")] = np.lexsort((rng.random(len(item_sizes)), item_sizes))
    return items


def fill_rate(plan: PackingPlan, lengths: np.ndarray, capacity: int) -> float:
    """Return the share of the rows' tokens that are not padding."""
    return float(np.sum(lengths)) / (max(plan.rows, 1) * capacity)


def pack_batch(rows: Sequence[Sequence[TokenSequence]], length: int, *, bidirectional: bool = True) -> Batch:
    """Return the Batch [B, length] whose row b holds the sequences rows[b]. Raises ValueError if they do not fit.

    bidirectional: whether sequences may have bidirectional inputs (prefix LM). False omits the field `prefix`, so that
    a compiled step knows that its rows are causal; then a sequence with such an input is a ValueError.
    """
    fields = {name: dtype for name, dtype in _FIELDS.items() if bidirectional or name != "prefix"}
    batch: Batch = {name: np.zeros((len(rows), length), dtype) for name, dtype in fields.items()}
    if not bidirectional and any(sequence.prefix.any() for sequences in rows for sequence in sequences):
        raise ValueError("a sequence has a bidirectional input")
    for b, sequences in enumerate(rows):
        start = 0
        for segment, sequence in enumerate(sequences, 1):
            size = len(sequence.tokens)
            span = (b, slice(start, start + size))
            for name, values in sequence._asdict().items():
                if name in batch:
                    batch[name][span] = values
            batch["segments"][span] = segment
            batch["positions"][span] = np.arange(size, dtype=np.int32)
            start += size
    return batch
