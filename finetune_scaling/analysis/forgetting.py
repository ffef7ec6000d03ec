"""Forgetting and transfer: each evaluator's score of a tuned model minus its score of the untuned base model.

A column such as pretraining.loss is paired with pretraining.untuned.loss; the change is computed for each run, then
averaged by task, method, factor and number of finetuning examples: over all values of the factor, and at each.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from finetune_scaling.laws.points.columns import ENTROPY, FACTORS, LOSS, Column, lower_is_better
from finetune_scaling.laws.points.table import PointsTable

# task -> evaluator -> name of a baseline -> metric -> score
Baselines = Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]

KEYS = ["task", "method", "factor", "finetune_examples"]
COLUMNS = [
    *(*KEYS, "x", "column", "evaluator", "metric", "runs", "untuned", "mean", "low", "high", "lower_is_better"),
    "baseline",
]


def score_changes(table: PointsTable, baselines: Baselines) -> pd.DataFrame:
    """Return the changes of every column that the untuned base models have too: tuned minus untuned score.

    One row per setting and column; x is NaN where all values of the factor are averaged. untuned: mean score of the
    untuned base models; mean, low, high: mean and range of the change over `runs` runs; lower_is_better: whether a rise
    means forgetting; baseline: score of copying the source, or a document's first sentence, NaN where unknown.
    """
    names = {column.name for column in table.evaluations}
    paired = [c for c in table.evaluations if not c.untuned and c.metric != ENTROPY and c.untuned_name in names]
    found = [_changes(table, column, keys) for column in paired for keys in (KEYS, [*KEYS, "x"])]
    if not found:
        return pd.DataFrame(columns=COLUMNS)
    changes = pd.concat(found, ignore_index=True).reindex(columns=COLUMNS)
    keys = zip(changes["task"], changes["evaluator"], changes["metric"], strict=True)
    return changes.assign(baseline=[_baseline(baselines, *key) for key in keys])


def main_factor(changes: pd.DataFrame, task: str) -> str | None:
    """Return the factor by which a task's changes are shown, model size if it was varied; None without changes."""
    present = set(changes.loc[changes["task"] == task, "factor"])
    return next((factor for factor in FACTORS if factor in present), None)


def shown_columns(changes: pd.DataFrame, task: str, metric: str | None) -> list[str]:
    """Return each evaluator's columns of the loss and of the task's main metric, or else of its first metric."""
    columns = []
    for _, rows in changes[changes["task"] == task].groupby("evaluator", sort=False):
        own = dict(zip(rows["metric"], rows["column"], strict=True))
        scores = [name for name in own if not LOSS.fullmatch(name)]  # perplexities repeat the loss
        main = metric if metric in own else next(iter(scores), None)
        columns += [own[name] for name in ("loss", main) if name in own]
    return columns


def _changes(table: PointsTable, column: Column, keys: list[str]) -> pd.DataFrame:
    rows = table.runs[table.runs["factor"].isin(FACTORS)].dropna(subset=[column.name, column.untuned_name])
    rows = rows.assign(change=rows[column.name] - rows[column.untuned_name], untuned=rows[column.untuned_name])
    changes = rows.groupby(keys, sort=False, as_index=False).agg(
        runs=("change", "size"),
        untuned=("untuned", "mean"),
        mean=("change", "mean"),
        low=("change", "min"),
        high=("change", "max"),
    )
    return changes.assign(
        column=column.name,
        evaluator=column.evaluator,
        metric=column.metric,
        lower_is_better=lower_is_better(column.name),
    )


def _baseline(baselines: Baselines, task: str, evaluator: str, metric: str) -> float:
    """Return the score of an evaluator's first baseline in a metric; NaN without one."""
    known = baselines.get(task, {}).get(evaluator, {}).values()
    return next((scores[metric] for scores in known if metric in scores), np.nan)
