"""The table of points: one row a finetuning run, with every mistake named by file, row, column and mend."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from finetune_scaling.errors import DataError
from finetune_scaling.files import Location
from finetune_scaling.laws.points.checks import check_choices, check_filled, check_range, to_flags, to_numbers
from finetune_scaling.laws.points.columns import (
    ALL_FACTORS,
    CONDITION,
    FACTORS,
    METHODS,
    METRIC,
    MOST_SCORE,
    RECORD,
    REQUIRED,
    SENSITIVITY_FACTOR,
    SETTING,
    SWEPT_SIZE,
    Column,
    evaluator_column,
)
from finetune_scaling.laws.points.text import Source, TextTable, read_text
from finetune_scaling.laws.points.units import COLUMNS, SIZE, check_size, check_units, in_nats
from finetune_scaling.laws.points.warnings import point_warnings

__all__ = ["ALL_FACTORS", "FACTORS", "METHODS", "REQUIRED", "SENSITIVITY_FACTOR", "PointsTable", "read_points"]

STOPPED_BY_BUDGET = "budget"
MOST = {"x": 1e18, "finetune_examples": 1e15}  # more than there is of anything that is counted here


@dataclass(frozen=True)
class PointsTable:
    """Points of one file or frame.

    source: the file's name, or DataFrame; path: the file, if there is one; runs: one row a run, those stopped by their
    budget left out; settings: means over seeds, with `seeds` and `loss_sd`; metrics: the metric columns of the task's
    own test sets; evaluations: those of other evaluators; stopped_by_budget, repeated: rows left out and why; ignored:
    columns not used; ended_at_best: rows whose dev loss was least at the last step; warnings: what looks wrong in rows
    that are used all the same, in sentences that name them.
    """

    source: str
    path: Location | None
    runs: pd.DataFrame
    settings: pd.DataFrame
    metrics: tuple[str, ...]
    evaluations: tuple[Column, ...]
    stopped_by_budget: int
    repeated: int
    ended_at_best: int
    ignored: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    @property
    def score_columns(self) -> tuple[str, ...]:
        """All columns that score generated text of the tuned models: the task's own, then other evaluators'."""
        others = (column.name for column in self.evaluations if column.is_score)
        return (*self.metrics, *others)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks in the order of the file."""
        return tuple(dict.fromkeys(self.settings["task"]))


def read_points(source: Source, size: str = "total", methods: Sequence[str] = METHODS) -> PointsTable:
    """Reads and checks a table of points: CSV, JSONL, a study's directory, or a pandas frame; losses become nats.

    size: "total" leaves x as it is, "non_embedding" puts the column parameters_non_embedding in its place for the
    factor model. Raises DataError that names file, row, column and mend.
    """
    text = read_text(source, REQUIRED)
    for column in ("task", "seed"):
        check_filled(text, column)
    check_choices(text, "method", methods)
    check_choices(text, "factor", ALL_FACTORS)
    check_units(text)
    check_size(text, size)
    table = _numbers(text)
    if size == "non_embedding":
        table = _with_non_embedding_sizes(text, table)
    _check_pet_rows(text, table)
    finished = table[_stopped_by(table) != STOPPED_BY_BUDGET]
    if finished.empty:
        raise DataError(
            f"{text.name}: every run was stopped by its budget; give the runs more steps, no law is fitted to these"
        )
    runs = _without_repeats(text, finished)
    if runs["held_out"].all():
        raise DataError(f"{text.name}: column held_out is 1 in every row; mark the points to fit with 0")
    names = text.cells.columns
    metrics = tuple(c for c in names if METRIC.fullmatch(c))
    evaluations = tuple(filter(None, map(evaluator_column, names)))
    scores = (*metrics, *(column.name for column in evaluations))
    used = {*REQUIRED, *CONDITION, *RECORD, *scores, *COLUMNS, "stopped_by"}
    settings = _means(text, runs, scores)
    return PointsTable(
        source=text.name,
        path=text.path,
        runs=runs,
        settings=settings,
        metrics=metrics,
        evaluations=evaluations,
        stopped_by_budget=len(table) - len(finished),
        repeated=len(finished) - len(runs),
        ended_at_best=_ended_at_best(text.cells.loc[runs.index]),
        ignored=tuple(c for c in names if c not in used),
        warnings=tuple(point_warnings(text, runs)),
    )


def _numbers(text: TextTable) -> pd.DataFrame:
    table = text.cells.copy()
    for column in ("x", "finetune_examples", "loss"):
        table[column] = to_numbers(text, column, positive=True)
    counts = table.loc[table["factor"] != SENSITIVITY_FACTOR, "x"]
    check_range(text, counts, "x", 1, MOST["x"], "it is a raw count (of parameters, tokens, or a PET size): 7B is 7e9")
    check_range(
        text, table["finetune_examples"], "finetune_examples", 1, MOST["finetune_examples"], "it counts examples"
    )
    table["loss"] = in_nats(text, table["loss"])
    table["held_out"] = to_flags(text, "held_out")
    optional = [c for c in table.columns if c in CONDITION or METRIC.fullmatch(c) or evaluator_column(c)]
    for column in optional:
        table[column] = to_numbers(text, column, positive=False, optional=True)
        if _is_score(column):
            check_range(
                text, table[column].dropna(), column, -MOST_SCORE, MOST_SCORE, "no score is so large; correct it"
            )
    swept = table["factor"] == SENSITIVITY_FACTOR
    table[SWEPT_SIZE] = table["parameters"].fillna(0).where(swept, 0.0) if "parameters" in table else 0.0
    return table


def _is_score(column: str) -> bool:
    """Whether a column has a metric of generated text, whoever scored it: no loss, perplexity or count."""
    found = evaluator_column(column)
    return METRIC.fullmatch(found.metric if found else column) is not None


def _with_non_embedding_sizes(text: TextTable, table: pd.DataFrame) -> pd.DataFrame:
    """Takes x of the factor model from its column, in rows that do not say that x counts so already."""
    column = "parameters_non_embedding"
    rows = table["factor"] == "model"
    if SIZE in table:
        rows &= table[SIZE] != "non_embedding"
    if not rows.any():
        return table
    if column not in table:
        raise DataError(f"{text.header}: --size=non_embedding needs the column {column!r}; add it or use --size=total")
    wrong = table.index[rows & ~(table[column] > 0)]
    if len(wrong):
        raise DataError(f"{text.at(wrong[0], column)} is not above zero; --size=non_embedding takes x from it")
    return table.assign(x=table["x"].where(~rows, table[column]))


def _check_pet_rows(text: TextTable, table: pd.DataFrame) -> None:
    wrong = table.index[(table["method"] == "full") & (table["factor"] == "pet")]
    if len(wrong):
        raise DataError(
            f"{text.at(wrong[0], 'factor')}: full tuning has no PET size; correct the method or drop the row"
        )


def _ended_at_best(text: pd.DataFrame) -> int:
    if not {"steps", "best_step"} <= set(text.columns):
        return 0
    return int(((text["steps"] == text["best_step"]) & (text["steps"] != "")).sum())


def _stopped_by(table: pd.DataFrame) -> pd.Series:
    return table["stopped_by"] if "stopped_by" in table else pd.Series("", index=table.index)


def _without_repeats(text: TextTable, table: pd.DataFrame) -> pd.DataFrame:
    """Drops rows that say the same run again; DataError where they say something else."""
    key = [*SETTING, "seed"]
    for column in ("loss", "held_out"):
        contrary = table.index[table[column] != table.groupby(key)[column].transform("first")]
        if len(contrary):
            row = contrary[0]
            same = (table[key] == table.loc[row, key]).all(axis=1)
            raise DataError(
                f"{text.at(row, column)}: the same setting and seed as {text.row(same.idxmax())} with another "
                f"{column}; keep one of them, or give them different seeds"
            )
    return table.drop_duplicates(key)


def _means(text: TextTable, runs: pd.DataFrame, scores: Sequence[str]) -> pd.DataFrame:
    """Means over the seeds of a setting."""
    mixed = runs.index[runs["held_out"] != runs.groupby(SETTING)["held_out"].transform("first")]
    if len(mixed):
        raise DataError(f"{text.at(mixed[0], 'held_out')}: the setting's other seeds say otherwise; mark all alike")
    columns = [c for c in (*CONDITION, *scores) if c in runs]
    grouped = runs.groupby(SETTING, sort=False)
    means = grouped[["loss", *columns]].mean()
    means.insert(0, "held_out", grouped["held_out"].first().astype(bool))
    means["loss_sd"] = grouped["loss"].std()
    means["seeds"] = grouped.size()
    return means.reset_index()
