"""What the losses and sizes of a table count: optional columns say so, and rows that cannot be compared are refused.

loss_unit: nats, bits or perplexity, per token; losses become nats. tokenizer: any name; a loss per token depends on
what a token is. size: total or non_embedding, what x counts where the factor is model.
"""

import numpy as np
import pandas as pd

from finetune_scaling.errors import DataError
from finetune_scaling.laws.points.checks import check_choices
from finetune_scaling.laws.points.text import TextTable

LOSS_UNIT, TOKENIZER, SIZE = "loss_unit", "tokenizer", "size"
COLUMNS = (LOSS_UNIT, TOKENIZER, SIZE)
NATS, BITS, PERPLEXITY = "nats", "bits", "perplexity"
SIZES = ("total", "non_embedding")
# Above what guessing evenly among 70 billion words costs: no vocabulary has so many.
MOST_NATS = 25.0

_MENDS = {
    LOSS_UNIT: "write all of a task's losses in one unit",
    TOKENIZER: "losses per token of different tokenizers cannot be compared: give them different tasks, or compare "
    "losses per byte and leave the column out",
    SIZE: "give x of all of a task's sizes with embeddings (total), or of all without (non_embedding)",
}


def check_units(table: TextTable, groups: tuple[str, ...] = ("task",)) -> None:
    """Rows of one task (or of another group) agree in what they count; DataError names those that do not."""
    for column, known in ((LOSS_UNIT, (NATS, BITS, PERPLEXITY)), (SIZE, SIZES)):
        if column in table.cells:
            check_choices(table, column, known, optional=True)
    for column in (LOSS_UNIT, TOKENIZER):
        if column in table.cells:
            _refuse_mixed(table, table.cells, column, groups)
    if {SIZE, "factor"} <= set(table.cells):
        _refuse_mixed(table, table.cells[table.cells["factor"] == "model"], SIZE, groups)


def in_nats(table: TextTable, loss: pd.Series) -> pd.Series:
    """Losses as nats per token, whatever their unit; DataError at one that no model has."""
    if LOSS_UNIT in table.cells:
        unit = table.cells[LOSS_UNIT]
        low = loss.index[(unit == PERPLEXITY) & (loss <= 1)]
        if len(low):
            cell = table.cells.at[low[0], "loss"]
            raise DataError(f"{table.at(low[0], 'loss')}: a perplexity of {cell} is not above 1; correct it or drop it")
        loss = loss.where(unit != BITS, loss * np.log(2)).where(unit != PERPLEXITY, np.log(loss))
    high = loss.index[loss > MOST_NATS]
    if len(high):
        raise DataError(
            f"{table.at(high[0], 'loss')} is {loss[high[0]]:.6g} nats per token, more than guessing among all words "
            f"of any vocabulary costs: give the mean over tokens, or say what it is in a column {LOSS_UNIT} ({NATS}, "
            f"{BITS} or {PERPLEXITY})"
        )
    return loss


def check_size(table: TextTable, wanted: str) -> None:
    """The sizes that the column `size` tells of are those that are wanted; DataError where x counts without embeddings.

    Totals may be wanted without embeddings: the column parameters_non_embedding then takes their place.
    """
    if SIZE not in table.cells or wanted != "total":
        return
    without = table.cells.index[(table.cells["factor"] == "model") & (table.cells[SIZE] == "non_embedding")]
    if len(without):
        raise DataError(
            f"{table.at(without[0], SIZE)}: x counts parameters without embeddings; fit with --size=non_embedding, or "
            "give total parameters"
        )


def _refuse_mixed(table: TextTable, cells: pd.DataFrame, column: str, groups: tuple[str, ...]) -> None:
    for key, rows in cells.groupby(list(groups), sort=False):
        others = rows.index[rows[column] != rows[column].iloc[0]]
        if len(others):
            first, other = (rows[column][row] or "nothing" for row in (rows.index[0], others[0]))
            raise DataError(
                f"{table.at(others[0], column)}: {groups[0]} {key[0]!r} has {first} in {table.row(rows.index[0])} and "
                f"{other} in {table.rows(list(others))}; {_MENDS[column]}"
            )
