"""Length buckets, so that few programs are compiled."""

from collections.abc import Sequence
from typing import NamedTuple

_SMALLEST = 16


def bucket(length: int) -> int:
    """Return the smallest of 16, 24, 32, 48, 64, 96, ... that is at least `length`."""
    size = _SMALLEST
    while size < length:
        size *= 2
    return size * 3 // 4 if size > _SMALLEST and size * 3 // 4 >= length else size


class Group(NamedTuple):
    """Prompts that are decoded together: their indices, the rows of the batch and the padded width."""

    members: list[int]
    rows: int
    width: int


def groups(lengths: Sequence[int], batch_size: int, multiple: int) -> list[Group]:
    """Group prompts of similar lengths, the longest first, so that a lack of memory shows at once.

    A batch has batch_size rows, or half of them or less if these suffice, and a multiple of `multiple`.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    chunks = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return [Group(chunk, rows_for(len(chunk), batch_size, multiple), bucket(lengths[chunk[0]])) for chunk in chunks]


def rows_for(needed: int, rows: int, multiple: int) -> int:
    """Halve `rows` while `needed` rows still fit and the result is a multiple of `multiple`."""
    while rows % (2 * multiple) == 0 and needed <= rows // 2:
        rows //= 2
    return rows
