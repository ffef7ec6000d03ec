"""Few shapes for many lengths, so that few programs are compiled."""

from collections.abc import Sequence
from typing import NamedTuple

_SMALLEST = 16


def bucket(length: int) -> int:
    """The least of 16, 24, 32, 48, 64, 96, ... that is not below `length`."""
    size = _SMALLEST
    while size < length:
        size *= 2
    return size * 3 // 4 if size > _SMALLEST and size * 3 // 4 >= length else size


class Group(NamedTuple):
    """Prompts that are decoded together: their numbers, the rows of the batch, and the width they are padded to."""

    members: list[int]
    rows: int
    width: int


def groups(lengths: Sequence[int], batch_size: int, multiple: int) -> list[Group]:
    """Prompts of similar lengths in batches of at most batch_size, the longest first, so that memory runs out at once.

    A batch has batch_size rows, or where that is enough, the half of it or less: a multiple of `multiple`.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    chunks = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return [Group(chunk, rows_for(len(chunk), batch_size, multiple), bucket(lengths[chunk[0]])) for chunk in chunks]


def rows_for(needed: int, rows: int, multiple: int) -> int:
    """`rows`, halved as often as `needed` rows still fit and a multiple of `multiple` is left."""
    while rows % (2 * multiple) == 0 and needed <= rows // 2:
        rows //= 2
    return rows
