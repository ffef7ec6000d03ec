"""Checks that rows of a table are comparable and consistent; errors name file, row, column and the fix."""

import pandas as pd

from finetune_scaling.errors import DataError
from finetune_scaling.laws.points.columns import LOSS_UNIT, SETTING, SIZE, TOKENIZER
from finetune_scaling.laws.points.text import TextTable

_FIXES = {
    LOSS_UNIT: "write all of a task's losses in one unit",
    TOKENIZER: "losses per token of different tokenizers cannot be compared: give them different tasks, or compare "
    "losses per byte and remove the column",
    SIZE: "give x of all of a task's sizes with embeddings (total), or of all without (non_embedding)",
}


def check_units(table: TextTable, group: str = "task") -> None:
    """Raise DataError where rows of one group (a task, or a family of base models) differ in what they count."""
    for column in (LOSS_UNIT, TOKENIZER):
        if column in table.cells:
            _check_uniform(table, table.cells, column, group)
    if {SIZE, "factor"} <= set(table.cells):
        _check_uniform(table, table.cells[table.cells["factor"] == "model"], SIZE, group)


def factor_values(text: TextTable, runs: pd.DataFrame, size: str) -> pd.Series:
    """Return x of every run, with model sizes counted as `size` says (total or non_embedding).

    For non_embedding, sizes come from the column parameters_non_embedding, except in rows whose column `size` says
    that x counts so already. Raises DataError where the table lacks such counts.
    """
    rows = runs["factor"] == "model"
    counted = runs[SIZE] == "non_embedding" if SIZE in runs else pd.Series(False, index=runs.index)
    if size == "total":
        fix = "x counts parameters without embeddings; fit with --size=non_embedding, or give total parameters"
        text.reject(rows & counted, SIZE, fix)
        return runs["x"]
    rows &= ~counted
    if not rows.any():
        return runs["x"]
    column = "parameters_non_embedding"
    if column not in runs:
        raise DataError(f"{text.header}: --size=non_embedding needs the column {column!r}; add it or use --size=total")
    text.reject(rows & ~(runs[column] > 0), column, "--size=non_embedding takes x from it; give a number above zero")
    return runs["x"].where(~rows, runs[column])


def check_consistent(text: TextTable, runs: pd.DataFrame) -> None:
    """Raise DataError where repeats of a run differ in loss, or rows of one setting differ in held_out."""
    key = [*SETTING, "seed"]
    for column in ("loss", "held_out"):
        contrary = runs.index[runs[column] != runs.groupby(key)[column].transform("first")]
        if len(contrary):
            row = contrary[0]
            same = (runs[key] == runs.loc[row, key]).all(axis=1)
            raise DataError(
                f"{text.at(row, column)}: the same setting and seed as {text.rows([same.idxmax()])} with another "
                f"{column}; keep one of them, or give them different seeds"
            )
    mixed = runs["held_out"] != runs.groupby(SETTING)["held_out"].transform("first")
    text.reject(mixed, "held_out", "other seeds of this setting have another value; mark all alike")


def _check_uniform(table: TextTable, cells: pd.DataFrame, column: str, group: str) -> None:
    """Raise DataError where rows of one group have different values in the column."""
    for key, rows in cells.groupby(group, sort=False):
        others = rows.index[rows[column] != rows[column].iloc[0]]
        if len(others):
            first, other = (rows[column][row] or "nothing" for row in (rows.index[0], others[0]))
            raise DataError(
                f"{table.at(others[0], column)}: {group} {key!r} has {first} in {table.rows([rows.index[0]])} and "
                f"{other} in {table.rows(list(others))}; {_FIXES[column]}"
            )
