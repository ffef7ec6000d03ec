"""Forgetting and transfer: each evaluator's score of a tuned model minus its score of the untuned base model.

A column such as pretraining.loss is paired with pretraining.untuned.loss; the change is computed for each run, then
averaged by task, method, factor and number of finetuning examples: at each value of the factor, and over all values.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pandas as pd

from finetune_scaling.laws.points.columns import ENTROPY, FACTORS, LOSS, Column, lower_is_better
from finetune_scaling.laws.points.table import PointsTable

# task -> evaluator -> name of a baseline -> metric -> score
Baselines = Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]


@dataclass(frozen=True)
class ScoreChange:
    """Tuned minus untuned score: mean and range over `runs` runs, and the mean of the untuned base models.

    x: the factor's value, None for all values together; lower_is_better: whether a rise means forgetting; baseline: the
    score of copying the source, or a document's first sentence; None where unknown.
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


def score_changes(table: PointsTable, baselines: Baselines) -> list[ScoreChange]:
    """Return all changes that the table's columns allow; none where no evaluator scored the untuned base models."""
    names = {column.name for column in table.evaluations}
    return [
        change
        for column in table.evaluations
        if not column.untuned and column.metric != ENTROPY and column.untuned_name in names
        for change in _changes(table, column, baselines)
    ]


def main_factor(found: list[ScoreChange], task: str) -> str | None:
    """Return the factor by which a task's changes are shown, model size if it was varied; None without changes."""
    present = {change.factor for change in found if change.task == task}
    return next((factor for factor in FACTORS if factor in present), None)


def shown_columns(found: list[ScoreChange], task: str, metric: str | None) -> list[str]:
    """Return each evaluator's columns of the loss and of the task's main metric, or else of its first metric."""
    metrics: dict[str, dict[str, str]] = {}
    for change in found:
        if change.task == task:
            metrics.setdefault(change.evaluator, {})[change.metric] = change.column
    columns = []
    for own in metrics.values():
        scores = [name for name in own if not LOSS.fullmatch(name)]  # perplexities repeat the loss
        main = metric if metric in own else next(iter(scores), None)
        columns += [own[name] for name in ("loss", main) if name in own]
    return columns


def _changes(table: PointsTable, column: Column, baselines: Baselines) -> Iterator[ScoreChange]:
    rows = table.runs[table.runs["factor"].isin(FACTORS)].dropna(subset=[column.name, column.untuned_name])
    rows = rows.assign(change=rows[column.name] - rows[column.untuned_name])
    keys = ["task", "method", "factor", "finetune_examples"]
    for key, own in rows.groupby(keys, sort=False):
        baseline = _baseline(baselines.get(str(key[0]), {}), column)
        yield _change(key, None, column, own, baseline)
        yield from (_change(key, float(str(x)), column, rows_at_x, baseline) for x, rows_at_x in own.groupby("x"))


def _change(key: tuple, x: float | None, column: Column, rows: pd.DataFrame, baseline: float | None) -> ScoreChange:
    task, method, factor, examples = key
    change = rows["change"]
    return ScoreChange(
        task=task,
        method=method,
        factor=factor,
        finetune_examples=float(examples),
        x=x,
        column=column.name,
        evaluator=column.evaluator,
        metric=column.metric,
        runs=len(rows),
        untuned=float(rows[column.untuned_name].mean()),
        mean=float(change.mean()),
        low=float(change.min()),
        high=float(change.max()),
        lower_is_better=lower_is_better(column.name),
        baseline=baseline,
    )


def _baseline(known: Mapping[str, Mapping[str, Mapping[str, float]]], column: Column) -> float | None:
    """Return the score of an evaluator's first baseline in a column's metric, if any."""
    scores = (own[column.metric] for own in known.get(column.evaluator, {}).values() if column.metric in own)
    return next(scores, None)
