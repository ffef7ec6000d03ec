"""What tuning changes outside its task: every evaluator's score of a tuned model minus that of its untuned base.

A column such as pretraining.loss has its twin pretraining.untuned.loss; the change is taken run by run, then averaged
by task, method, factor and finetuning examples: at each value of the factor, and over all of them.
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
    """Tuned minus untuned, in the column's unit: mean and range over `runs` runs, and the untuned base's mean.

    x: the factor's value, None for all of them together. lower_is_better: then a rise is what was forgotten.
    baseline: what copying the source, or a document's first sentence, scores; None where it is not known.
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
    """All changes that the table's columns allow; none where no evaluator scored the untuned bases."""
    names = {column.name for column in table.evaluations}
    return [
        change
        for column in table.evaluations
        if not column.untuned and column.metric != ENTROPY and column.untuned_name in names
        for change in _changes(table, column, baselines)
    ]


def main_factor(found: list[ScoreChange], task: str) -> str | None:
    """The factor by which a task's changes are shown: model size where it was varied; None where there is no change."""
    present = {change.factor for change in found if change.task == task}
    return next((factor for factor in FACTORS if factor in present), None)


def shown_columns(found: list[ScoreChange], task: str, metric: str | None) -> list[str]:
    """Of each evaluator the loss and the task's main metric, or else its first metric."""
    metrics: dict[str, dict[str, str]] = {}
    for change in found:
        if change.task == task:
            metrics.setdefault(change.evaluator, {})[change.metric] = change.column
    columns = []
    for own in metrics.values():
        scores = [name for name in own if not LOSS.fullmatch(name)]  # perplexities say again what the loss says
        main = metric if metric in own else next(iter(scores), None)
        columns += [own[name] for name in ("loss", main) if name in own]
    return columns


def _changes(table: PointsTable, column: Column, baselines: Baselines) -> Iterator[ScoreChange]:
    rows = table.runs[table.runs["factor"].isin(FACTORS)].dropna(subset=[column.name, column.untuned_name])
    rows = rows.assign(change=rows[column.name] - rows[column.untuned_name])
    keys = ["task", "method", "factor", "finetune_examples"]
    for key, cell in rows.groupby(keys, sort=False):
        baseline = _baseline(baselines.get(str(key[0]), {}), column)
        yield _change(key, None, column, cell, baseline)
        yield from (_change(key, float(str(x)), column, own, baseline) for x, own in cell.groupby("x"))


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
    """What the first baseline that an evaluator has scores in a column's metric."""
    scores = (own[column.metric] for own in known.get(column.evaluator, {}).values() if column.metric in own)
    return next(scores, None)
