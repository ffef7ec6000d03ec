"""What tuning changes outside its task: every evaluator's score of a tuned model minus that of its untuned base.

A column such as pretraining.loss has its twin pretraining.untuned.loss; the change is taken run by run, then averaged
by task, method, factor and finetuning examples: at each value of the factor, and over all of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from finetune_scaling.scaling.columns import BASELINES, UNTUNED, Column, lower_is_better
from finetune_scaling.scaling.points import FACTORS, PointsTable


@dataclass(frozen=True)
class Change:
    """Tuned minus untuned, in the column's unit: mean and range over `runs` runs, and the untuned base's mean.

    x: the factor's value, None for all of them together. lower_is_better: then a rise is what was forgotten.
    baseline: the mean of what copying the source, or a document's first sentence, scores; None where it is not known.
    """

    task: str
    method: str
    factor: str
    finetune_examples: float
    x: float | None
    column: str
    evaluator: str
    metric: str
    runs: int
    untuned: float
    mean: float
    low: float
    high: float
    lower_is_better: bool
    baseline: float | None


def changes(table: PointsTable) -> list[Change]:
    """All changes that the table's columns allow; none where no evaluator scored the untuned bases."""
    names = {column.name for column in table.evaluations}
    return [
        change
        for column in table.evaluations
        if not column.of and column.twin(UNTUNED) in names
        for change in _changes(table, column)
    ]


def main_factor(found: list[Change], task: str) -> str | None:
    """The factor by which a task's changes are shown: model size where it was varied; None where there is no change."""
    present = {change.factor for change in found if change.task == task}
    return next((factor for factor in FACTORS if factor in present), None)


def shown_columns(found: list[Change], task: str, metric: str | None) -> list[str]:
    """Of each evaluator the loss and the task's main metric, or else its first metric."""
    metrics: dict[str, dict[str, str]] = {}
    for change in found:
        if change.task == task:
            metrics.setdefault(change.evaluator, {})[change.metric] = change.column
    columns = []
    for own in metrics.values():
        scores = [name for name in own if name != "loss"]
        main = metric if metric in own else next(iter(scores), None)
        columns += [own[name] for name in ("loss", main) if name in own]
    return columns


def _changes(table: PointsTable, column: Column) -> Iterator[Change]:
    rows = table.runs[table.runs["factor"].isin(FACTORS)].dropna(subset=[column.name, column.twin(UNTUNED)])
    rows = rows.assign(change=rows[column.name] - rows[column.twin(UNTUNED)])
    keys = ["task", "method", "factor", "finetune_examples"]
    for key, cell in rows.groupby(keys, sort=False):
        yield _change(key, None, column, cell)
        yield from (_change(key, float(str(x)), column, own) for x, own in cell.groupby("x"))


def _change(key: tuple, x: float | None, column: Column, rows: pd.DataFrame) -> Change:
    task, method, factor, examples = key
    change = rows["change"]
    return Change(
        task=task,
        method=method,
        factor=factor,
        finetune_examples=float(examples),
        x=x,
        column=column.name,
        evaluator=column.evaluator,
        metric=column.metric,
        runs=len(rows),
        untuned=float(rows[column.twin(UNTUNED)].mean()),
        mean=float(change.mean()),
        low=float(change.min()),
        high=float(change.max()),
        lower_is_better=lower_is_better(column.name),
        baseline=_baseline(column, rows),
    )


def _baseline(column: Column, rows: pd.DataFrame) -> float | None:
    known = [rows[name].mean() for name in map(column.twin, BASELINES) if name in rows and rows[name].notna().any()]
    return float(known[0]) if known else None
