"""Parsing of a text table's columns into numbers, flags and losses; errors name file, row, column and the fix."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from finetune_scaling.configuration import suggestion
from finetune_scaling.errors import DataError
from finetune_scaling.laws.points.columns import BITS, LOSS_UNIT, NATS, PERPLEXITY
from finetune_scaling.laws.points.text import TextTable

FLAGS = {"true": "1", "false": "0", "1.0": "1", "0.0": "0"}  # as other programs write them
# Guessing uniformly among 70 billion tokens costs this much: no vocabulary is so large.
MOST_NATS = 25.0


def check_choices(table: TextTable, column: str, known: Sequence[str], optional: bool = False) -> None:
    """Raise DataError at the first value of the column that is not in `known` (or empty, where optional)."""
    cells = table.cells[column]
    _check_known(table, column, ~cells.isin([*known, ""] if optional else known), known)


def check_filled(table: TextTable, column: str) -> None:
    """Raise DataError at the first empty cell of the column."""
    cells = table.cells[column]
    empty = cells.index[cells == ""]
    if len(empty):
        raise DataError(f"{table.at(empty[0], column)} is empty; fill it in or remove the row")


def parse_flags(table: TextTable, column: str) -> pd.Series:
    """Return a column of 0 and 1 (or true and false) as booleans. Raises DataError at any other value."""
    cells = table.cells[column].map(lambda value: FLAGS.get(value.lower(), value))
    _check_known(table, column, ~cells.isin(("0", "1")), ("0", "1"))
    return cells == "1"


def parse_numbers(table: TextTable, column: str, *, positive: bool = False, optional: bool = False) -> pd.Series:
    """Return the column as floats, NaN where empty and optional. Raises DataError at the first other value."""
    cells = table.cells[column]
    numbers = cells.map(_number).astype(float)
    wrong = numbers.index[~numbers.map(math.isfinite) & ((cells != "") | (not optional))]
    if len(wrong):
        value = cells[wrong[0]]
        what = "empty" if value == "" else f"{value[:80]!r}, not a finite number"
        raise DataError(f"{table.at(wrong[0], column)} is {what}; give a number or remove the row")
    if positive and (numbers <= 0).any():
        row = numbers.index[numbers <= 0][0]
        raise DataError(
            f"{table.at(row, column)} is {cells[row]}; laws take logarithms, so it must be above zero: correct it or "
            "remove the row"
        )
    return numbers


def check_range(table: TextTable, numbers: pd.Series, column: str, low: float, high: float, fix: str) -> None:
    """Raise DataError, with the fix, at the first number below low or above high."""
    wrong = numbers.index[~numbers.between(low, high)]
    if len(wrong):
        value = table.cells.at[wrong[0], column][:80]
        bound = f"below {low:g}" if numbers[wrong[0]] < low else f"above {high:g}"
        raise DataError(f"{table.at(wrong[0], column)} is {value}, {bound}: {fix}")


def parse_losses(table: TextTable) -> pd.Series:
    """Return the column loss in nats per token, converted from its loss_unit. Raises DataError at impossible losses."""
    loss = parse_numbers(table, "loss", positive=True)
    if LOSS_UNIT in table.cells:
        unit = table.cells[LOSS_UNIT]
        low = loss.index[(unit == PERPLEXITY) & (loss <= 1)]
        if len(low):
            cell = table.cells.at[low[0], "loss"]
            raise DataError(
                f"{table.at(low[0], 'loss')}: a perplexity of {cell} is not above 1; correct it or remove it"
            )
        loss = loss.where(unit != BITS, loss * np.log(2)).where(unit != PERPLEXITY, np.log(loss))
    high = loss.index[loss > MOST_NATS]
    if len(high):
        raise DataError(
            f"{table.at(high[0], 'loss')} is {loss[high[0]]:.6g} nats per token, more than a uniform guess over any "
            f"vocabulary costs: give the mean over tokens, or add a column {LOSS_UNIT} ({NATS}, {BITS} or {PERPLEXITY})"
        )
    return loss


def _check_known(table: TextTable, column: str, wrong: pd.Series, known: Sequence[str]) -> None:
    """Raise DataError at the first value that is marked as wrong, with the most similar known value."""
    rows = wrong.index[wrong]
    if len(rows):
        value = table.cells.at[rows[0], column]
        raise DataError(f"{table.at(rows[0], column)}: {value!r} is unknown{suggestion(value, known)}")


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan
