"""Checks that rows of a table are comparable and consistent; errors name file, row, column and the fix."""

from collections.abc import Sequence

import pandas as pd

from finetune_scaling.errors import DataError
from finetune_scaling.laws.points.cells import parse_choices
from finetune_scaling.laws.points.columns import BITS, LOSS_UNIT, NATS, PERPLEXITY, SETTING, SIZE, SIZES, TOKENIZER
from finetune_scaling.laws.points.text import TextTable, printable

_CHOICES = {LOSS_UNIT: (NATS, BITS, PERPLEXITY), SIZE: SIZES}  # a tokenizer may have any name
# Column -> what to do where rows of one group differ in it.
_FIXES = {
    LOSS_UNIT: "write all of a task's losses in one unit",
    TOKENIZER: "losses per token of different tokenizers cannot be compared: give them different tasks, or put losses "
    "per byte (a study's column loss_per_byte) into the column loss and remove the column tokenizer",
    SIZE: "give x of all of a task's sizes with embeddings (total), or of all without (non_embedding)",
}


def check_units(text: TextTable, group: str = "task") -> None:
    """Raise DataError at an unknown unit, or where rows of one group (a task, a family) differ in what they count."""
    cells = text.cells
    for column, fix in _FIXES.items():
        if column in cells and (column != SIZE or "factor" in cells):
            if column in _CHOICES:
                parse_choices(text, column, _CHOICES[column], optional=True)
            rows = cells[cells["factor"] == "model"] if column == SIZE else cells
            _check_uniform(text, rows, [group], column, fix)


def check_consistent(text: TextTable, runs: pd.DataFrame) -> None:
    """Raise DataError where repeats of a run differ in loss, or rows of one setting differ in held_out."""
    for column in ("loss", "held_out"):
        fix = "both have the same setting and seed; keep one of them, or give them different seeds"
        _check_uniform(text, runs, [*SETTING, "seed"], column, fix)
    _check_uniform(text, runs, SETTING, "held_out", "both are seeds of one setting; mark all alike")


def _check_uniform(text: TextTable, rows: pd.DataFrame, by: Sequence[str], column: str, fix: str) -> None:
    """Raise DataError, with the fix, where rows that agree in the columns `by` have different values in `column`."""
    first = rows.index.to_series().groupby([rows[name] for name in by]).transform("first")
    wrong = rows[column] != rows[column].loc[first].to_numpy()
    if wrong.any():
        values = [printable(text.cells.at[row, column]) or "empty" for row in (wrong.idxmax(), first[wrong.idxmax()])]
        location, other = text.at(wrong.idxmax(), column), text.rows([first[wrong.idxmax()]])
        raise DataError(f"{location} is {values[0]}, but {values[1]} in {other}: {fix}")
