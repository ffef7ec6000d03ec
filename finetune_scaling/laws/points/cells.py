"""Parsing of a text table's columns into names, choices, numbers, flags and losses; errors name row, column and fix.

Every column is typed here once, for CSV, JSONL and frames alike, so that keys compare as what they mean: the seeds 0,
00 and 0.0 are one.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from finetune_scaling.configuration import suggestion
from finetune_scaling.laws.points.columns import BITS, LOSS_UNIT, NATS, PERPLEXITY
from finetune_scaling.laws.points.number_syntax import (
    AN_INTEGER,
    DECIMAL,
    GROUPED,
    UNGROUPED,
    is_exact,
    read_integer,
    read_number,
)
from finetune_scaling.laws.points.text import NotText, TextTable, has_control_characters

FLAGS = {"true": True, "false": False}
# Guessing uniformly among 70 billion tokens costs this much: no vocabulary is so large.
MAX_LOSS = 25.0
ABOVE_ZERO = "laws take logarithms, so it must be above zero; correct it or remove the row"


def parse_choices(table: TextTable, column: str, known: Sequence[str], optional: bool = False) -> pd.Series:
    """Return a column whose values are all in `known` (or empty, where optional).

    Raises DataError at the first other value, with the most similar known one.
    """
    cells = table.cells[column]
    known = [*known, ""] if optional else known
    unknown = ~cells.isin(known)
    if unknown.any():
        table.reject(unknown, column, f"unknown{suggestion(cells[unknown.idxmax()], known)}")
    return cells


def parse_names(table: TextTable, column: str) -> pd.Series:
    """Return a column of names. Raises DataError at a cell that is empty, is not text, or has control characters."""
    cells = table.cells[column]
    table.reject(cells == "", column, "fill it in or remove the row")
    table.reject(cells.map(lambda cell: isinstance(cell, NotText)), column, "give a name as text")
    table.reject(cells.map(has_control_characters), column, "names have no control characters; remove them")
    return cells


def parse_groups(table: TextTable, column: str) -> pd.Series:
    """Return a column whose values name groups of rows: as numbers if all are numbers, as names otherwise."""
    names = parse_names(table, column)
    return parse_numbers(table, column) if names.map(lambda cell: bool(DECIMAL.fullmatch(cell))).all() else names


def parse_flags(table: TextTable, column: str) -> pd.Series:
    """Return a column of 0 and 1 (or true and false) as booleans. Raises DataError at any other value."""

    def read(cell: str) -> bool:
        try:
            value = FLAGS[cell.lower()] if cell.lower() in FLAGS else read_number(cell)
        except ValueError:
            value = -1
        if value not in (0, 1):
            raise ValueError("give 0 or 1")
        return bool(value)

    return _read(table, column, read).astype(bool)


def parse_integers(table: TextTable, column: str) -> pd.Series:
    """Return the column as integers. Raises DataError at any other value, and beyond 64 bits."""
    cells = table.cells[column]
    table.reject(cells == "", column, "fill it in or remove the row")
    numbers = _read(table, column, read_integer)
    table.reject(numbers.map(lambda number: not -(2**63) <= number < 2**63), column, AN_INTEGER)
    return numbers.astype("int64")


def parse_numbers(
    table: TextTable, column: str, *, positive: bool = False, optional: bool = False, exact: bool = False
) -> pd.Series:
    """Return the column as floats, NaN where empty and optional. Raises DataError at the first other value.

    exact: whether to refuse integers that no float holds, so that different cells stay different.
    """
    cells = table.cells[column]
    fix = ", or leave it empty" if optional else ", or remove the row"
    if not optional:
        table.reject(cells == "", column, "fill it in or remove the row")
    numbers = _read(table, column, lambda cell: read_number(cell) if cell else np.nan, fix).astype(float)
    if positive:
        table.reject(numbers <= 0, column, ABOVE_ZERO)
    if exact:
        table.reject(~cells.map(is_exact), column, "no float holds this integer exactly; round it")
    return numbers


def check_range(table: TextTable, numbers: pd.Series, column: str, low: float, high: float, fix: str) -> None:
    """Raise DataError, with the fix, at the first number below low or above high."""
    table.reject(numbers < low, column, f"below {low:g}; {fix}")
    table.reject(numbers > high, column, f"above {high:g}; {fix}")


def check_counts(table: TextTable, numbers: pd.Series, column: str) -> None:
    """Raise DataError at the first number (NaN: none) that is not an integer, or could be read as another one."""
    table.reject(
        table.cells.loc[numbers.index, column].map(lambda cell: bool(GROUPED.fullmatch(cell))), column, UNGROUPED
    )
    table.reject(numbers.notna() & (numbers % 1 != 0), column, "it is a count; give an integer")


def parse_losses(table: TextTable) -> pd.Series:
    """Return the column loss in nats per token, converted from its loss_unit, which check_units has checked.

    Losses of which no law can be fitted, zero and above MAX_LOSS, are NaN where their unit is stated: that run diverged
    or predicts its targets with certainty. Raises DataError at them elsewhere, and at other impossible losses.
    """
    loss = parse_numbers(table, "loss")
    unit = table.cells[LOSS_UNIT] if LOSS_UNIT in table.cells else pd.Series("", index=loss.index)
    stated = unit != ""
    table.reject((loss < 0) | ((loss == 0) & ~stated), "loss", ABOVE_ZERO)
    if stated.any():
        table.reject(
            (unit == PERPLEXITY) & (loss < 1), "loss", "a perplexity is at least 1; correct it or remove the row"
        )
        loss = loss.where(unit != BITS, loss * np.log(2)).where(
            unit != PERPLEXITY, np.log(loss.where(unit == PERPLEXITY, 1))
        )
    problem = (
        f"above {MAX_LOSS:g} nats per token, more than a uniform guess over any vocabulary costs; give the mean over "
        f"tokens, or add a column {LOSS_UNIT} ({NATS}, {BITS} or {PERPLEXITY})"
    )
    table.reject((loss > MAX_LOSS) & ~stated, "loss", problem)
    return loss.where(loss.between(0, MAX_LOSS, inclusive="right"))


def _read(table: TextTable, column: str, read: Callable[[str], object], or_else: str = "") -> pd.Series:
    """Return read(cell) of every cell. Raises DataError at the first ValueError, whose message says what to write."""
    values = []
    for row, cell in table.cells[column].items():
        try:
            values.append(read(cell))
        except ValueError as error:
            raise table.error(row, column, f"{error}{or_else}") from None
    return pd.Series(values, index=table.cells.index, dtype=object)
