"""Parsing of a text table's columns into choices, numbers, flags and losses; errors name row, column and fix."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from finetune_scaling.configuration import suggestion
from finetune_scaling.laws.points.columns import BITS, LOSS_UNIT, NATS, PERPLEXITY
from finetune_scaling.laws.points.text import TextTable

FLAGS = {"true": "1", "false": "0", "1.0": "1", "0.0": "0"}  # as other programs write them
# Guessing uniformly among 70 billion tokens costs this much: no vocabulary is so large.
MAX_LOSS = 25.0


def parse_choices(table: TextTable, column: str, known: Sequence[str], optional: bool = False) -> pd.Series:
    """Return a column whose values are all in `known` (or empty, where optional). Raises DataError at any other."""
    cells = table.cells[column]
    return _check_known(table, column, cells, [*known, ""] if optional else known)


def parse_filled(table: TextTable, column: str) -> pd.Series:
    """Return a column of text. Raises DataError at an empty cell."""
    table.reject(table.cells[column] == "", column, "fill it in or remove the row")
    return table.cells[column]


def parse_flags(table: TextTable, column: str) -> pd.Series:
    """Return a column of 0 and 1 (or true and false) as booleans. Raises DataError at any other value."""
    cells = table.cells[column].map(lambda value: FLAGS.get(value.lower(), value))
    return _check_known(table, column, cells, ("0", "1")) == "1"


def parse_numbers(table: TextTable, column: str, *, positive: bool = False, optional: bool = False) -> pd.Series:
    """Return the column as floats, NaN where empty and optional. Raises DataError at the first other value."""
    cells = table.cells[column]
    numbers = cells.map(_number).astype(float)
    given = (cells != "") | (not optional)
    table.reject(~np.isfinite(numbers) & given, column, "give a finite number or remove the row")
    if positive:
        problem = "laws take logarithms, so it must be above zero; correct it or remove the row"
        table.reject(numbers <= 0, column, problem)
    return numbers


def check_range(table: TextTable, numbers: pd.Series, column: str, low: float, high: float, fix: str) -> None:
    """Raise DataError, with the fix, at the first number below low or above high."""
    table.reject(numbers < low, column, f"below {low:g}; {fix}")
    table.reject(numbers > high, column, f"above {high:g}; {fix}")


def parse_losses(table: TextTable) -> pd.Series:
    """Return the column loss in nats per token, converted from its loss_unit, which check_units has checked.

    Raises DataError at impossible losses.
    """
    loss = parse_numbers(table, "loss", positive=True)
    if LOSS_UNIT in table.cells:
        unit = table.cells[LOSS_UNIT]
        table.reject(
            (unit == PERPLEXITY) & (loss <= 1), "loss", "a perplexity is above 1; correct it or remove the row"
        )
        loss = loss.where(unit != BITS, loss * np.log(2)).where(unit != PERPLEXITY, np.log(loss))
    problem = (
        f"above {MAX_LOSS:g} nats per token, more than a uniform guess over any vocabulary costs; give the mean over "
        f"tokens, or add a column {LOSS_UNIT} ({NATS}, {BITS} or {PERPLEXITY})"
    )
    table.reject(loss > MAX_LOSS, "loss", problem)
    return loss


def _check_known(table: TextTable, column: str, cells: pd.Series, known: Sequence[str]) -> pd.Series:
    """Return the cells. Raises DataError at the first one that is not known, with the most similar known value."""
    unknown = ~cells.isin(known)
    table.reject(unknown, column, f"unknown{suggestion(cells[unknown.idxmax()], known)}")
    return cells


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan
