"""Checks of a table's cells; each error names file, row, column and mend."""

import math
from collections.abc import Sequence

import pandas as pd

from finetune_scaling.configuration import suggestion
from finetune_scaling.errors import DataError
from finetune_scaling.laws.points.text import TextTable

FLAGS = {"true": "1", "false": "0", "1.0": "1", "0.0": "0"}  # as other programs write them


def check_choices(table: TextTable, column: str, known: Sequence[str], optional: bool = False) -> None:
    """Every value of the column is one of `known`, or empty where optional; DataError at the first that is not."""
    cells = table.cells[column]
    wrong = cells.index[~cells.isin([*known, ""] if optional else known)]
    if len(wrong):
        value = cells[wrong[0]]
        raise DataError(f"{table.at(wrong[0], column)}: {value!r} is unknown{suggestion(value, known)}")


def check_filled(table: TextTable, column: str) -> None:
    """No cell of the column is empty; DataError at the first that is."""
    cells = table.cells[column]
    empty = cells.index[cells == ""]
    if len(empty):
        raise DataError(f"{table.at(empty[0], column)} is empty; fill it in or drop the row")


def to_flags(table: TextTable, column: str) -> pd.Series:
    """A column of 0 and 1 (or true and false) as booleans; DataError at the first value that is neither."""
    cells = table.cells[column].map(lambda value: FLAGS.get(value.lower(), value))
    wrong = cells.index[~cells.isin(("0", "1"))]
    if len(wrong):
        value = table.cells.at[wrong[0], column]
        raise DataError(f"{table.at(wrong[0], column)}: {value!r} is unknown{suggestion(value, ('0', '1'))}")
    return cells == "1"


def to_numbers(table: TextTable, column: str, positive: bool, optional: bool = False) -> pd.Series:
    """The column as floats (NaN where empty and optional); DataError at the first value that is no such number."""
    cells = table.cells[column]
    numbers = cells.map(_number).astype(float)
    checked = cells != "" if optional else pd.Series(True, index=cells.index)
    wrong = cells.index[~numbers.map(math.isfinite) & checked]
    if len(wrong):
        value = cells[wrong[0]]
        what = "empty" if value == "" else f"{value[:80]!r}, not a finite number"
        raise DataError(f"{table.at(wrong[0], column)} is {what}; give a number or drop the row")
    if positive and (numbers <= 0).any():
        row = numbers.index[numbers <= 0][0]
        raise DataError(
            f"{table.at(row, column)} is {cells[row]}; laws take logarithms, so it must be above zero: correct it or "
            "drop the row"
        )
    return numbers


def check_range(table: TextTable, numbers: pd.Series, column: str, low: float, high: float, mend: str) -> None:
    """Every number lies between low and high; DataError at the first that does not, with the mend."""
    wrong = numbers.index[~numbers.between(low, high)]
    if len(wrong):
        value = table.cells.at[wrong[0], column][:80]
        bound = f"below {low:g}" if numbers[wrong[0]] < low else f"above {high:g}"
        raise DataError(f"{table.at(wrong[0], column)} is {value}, {bound}: {mend}")


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan
