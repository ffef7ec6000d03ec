"""Which metrics track the loss: correlations with it per task, method and factor, with a verdict.

As Table 7 of arXiv 2402.17193, with intervals: Pearson's r and Spearman's rho over the settings (means over seeds,
held-out ones included, since nothing is fitted), with 90 % BCa bootstrap intervals over settings (Efron 1987).

A metric tracks the loss where the complete interval of r, signed so that better corresponds to better, is at least
TRACKING_THRESHOLD; it does not where the complete interval is below. Otherwise, or with fewer than MIN_SETTINGS
settings, the verdict is inconclusive. p-values test r = 0 and are not adjusted for the number of comparisons.
"""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from finetune_scaling.analysis.claims import INCONCLUSIVE, count_verdicts
from finetune_scaling.laws.points.columns import lower_is_better
from finetune_scaling.laws.points.table import PointsTable
from finetune_scaling.laws.uncertainty.intervals import LEVEL

TRACKS_LOSS, DOES_NOT_TRACK = "tracks", "does not track"
TRACKING_THRESHOLD = 0.7  # the loss then explains half of the metric's variance
MIN_SETTINGS = 5  # settings; with fewer, bootstrap intervals cover too seldom
RESAMPLES = 2000
SEED = 0


@dataclass(frozen=True)
class Coefficient:
    """A correlation coefficient with its 90 % interval and its p-value."""

    value: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Correlation:
    """One metric against the loss over the settings of one task, method and factor.

    pearson, spearman: None, for the reason in `why`, with fewer settings than MIN_SETTINGS or constant values.
    """

    task: str
    method: str
    factor: str
    metric: str
    settings: int
    pearson: Coefficient | None
    spearman: Coefficient | None
    why: str = ""

    @property
    def verdict(self) -> str:
        """The verdict by the rule of this module: tracks, does not track, or inconclusive."""
        if self.pearson is None:
            return INCONCLUSIVE
        low, high = self.pearson.low, self.pearson.high
        if not lower_is_better(self.metric):
            low, high = -high, -low
        if low >= TRACKING_THRESHOLD:
            return TRACKS_LOSS
        return DOES_NOT_TRACK if high < TRACKING_THRESHOLD else INCONCLUSIVE

    @property
    def sentence(self) -> str:
        """The verdict in words, with its numbers."""
        if self.pearson is None:
            return f"{self.metric}: {INCONCLUSIVE}: {self.why}"
        values = f"r {self.pearson.value:.3f}, {self.pearson.low:.3f} to {self.pearson.high:.3f}"
        if self.verdict == INCONCLUSIVE:
            return f"{self.metric}: {INCONCLUSIVE} ({values})"
        return f"{self.metric} {self.verdict} the loss ({values})"


def correlations(table: PointsTable, progress: Callable[[str], None] = lambda _: None) -> list[Correlation]:
    """Return the correlation of every metric with the loss per task, method and factor, by task, then metric."""
    found = []
    for task in table.tasks:
        groups = table.settings[table.settings["task"] == task].groupby(["method", "factor"], sort=False)
        own = [
            correlate(task, method, factor, metric, pair["loss"], pair[metric])
            for metric in table.score_columns
            for (method, factor), rows in groups
            if len(pair := rows[["loss", metric]].dropna()) > 1
        ]
        if own:
            progress(f"correlations with loss, {task}: {len(own)} of {len({c.metric for c in own})} metrics")
        found += own
    return found


def proxy_verdicts(found: list[Correlation]) -> Iterator[tuple[str, str, str, str]]:
    """Yield whether each metric is a proxy for the loss on a task: task, metric, verdict and tally of its correlations.

    It does not track the loss where one correlation says so, and tracks it where all do.
    """
    for (task, metric), own in groupby(found, key=lambda c: (c.task, c.metric)):
        verdicts = [one.verdict for one in own]
        everywhere = TRACKS_LOSS if set(verdicts) == {TRACKS_LOSS} else INCONCLUSIVE
        verdict = DOES_NOT_TRACK if DOES_NOT_TRACK in verdicts else everywhere
        yield task, metric, verdict, count_verdicts(verdicts, (TRACKS_LOSS, DOES_NOT_TRACK, INCONCLUSIVE))


def correlate(
    task: str, method: str, factor: str, metric: str, loss: pd.Series | np.ndarray, scores: pd.Series | np.ndarray
) -> Correlation:
    """Correlate losses and scores [N] of the settings of one task, method and factor."""
    pair = np.asarray(loss, float), np.asarray(scores, float)
    key = (task, method, factor, metric, len(pair[0]))
    if len(pair[0]) < MIN_SETTINGS:
        return Correlation(*key, None, None, f"{len(pair[0])} settings, at least {MIN_SETTINGS} are needed")
    for name, values in zip(("loss", metric), pair, strict=True):
        if np.ptp(values) == 0:
            return Correlation(*key, None, None, f"all settings have the same {name}")
    return Correlation(
        *key,
        _coefficient(stats.pearsonr(*pair), bca_interval(pearson, *pair)),
        _coefficient(stats.spearmanr(*pair), bca_interval(spearman, *pair)),
    )


def pearson(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return Pearson's r along an axis; NaN where either side is constant."""
    return stats.pearsonr(x, y, axis=axis).statistic


def spearman(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return Spearman's rho along an axis, Pearson's r of the ranks (spearmanr does not broadcast)."""
    return pearson(stats.rankdata(x, axis=axis), stats.rankdata(y, axis=axis), axis)


def bca_interval(statistic: Callable[..., np.ndarray], x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Return the 90 % BCa bootstrap interval of statistic(x, y) over pairs, a percentile one where BCa is undefined.

    Replicates without a correlation (one pair repeated) are dropped.
    """
    options: dict[str, Any] = {"paired": True, "vectorized": True, "confidence_level": LEVEL}
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.simplefilter("ignore")  # of constant replicates
        rng = np.random.default_rng(SEED)
        found = stats.bootstrap((x, y), statistic, n_resamples=RESAMPLES, method="percentile", rng=rng, **options)
        found.bootstrap_distribution = found.bootstrap_distribution[np.isfinite(found.bootstrap_distribution)]
        for method in ("BCa", "percentile"):
            again = stats.bootstrap((x, y), statistic, n_resamples=0, bootstrap_result=found, method=method, **options)
            low, high = again.confidence_interval
            if np.isfinite([low, high]).all():
                break
    return float(low), float(high)


def bootstrap_record() -> dict[str, float | int | str]:
    """Return the settings of the intervals, as fit.json holds them."""
    return {"method": "BCa bootstrap over settings", "level": LEVEL, "resamples": RESAMPLES, "seed": SEED}


def _coefficient(found: Any, interval: tuple[float, float]) -> Coefficient:
    return Coefficient(float(found.statistic), *interval, float(found.pvalue))
