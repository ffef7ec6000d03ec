"""Which metrics track the loss: correlations with it per task, method and factor, with a verdict.

As Table 7 of arXiv 2402.17193, with intervals: Pearson's r and Spearman's rho over the settings (means over seeds,
held-out ones included, since nothing is fitted), with 90 % BCa bootstrap intervals over settings (Efron 1987).

A metric tracks the loss where the whole interval of r, signed so that better goes with better, is at least
TRACKING_THRESHOLD; it does not where the whole interval is below; otherwise, or with fewer settings than FEWEST, the
verdict is inconclusive. p-values test r = 0 and are not adjusted for the number of comparisons.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import pandas as pd
from scipy import stats

from finetune_scaling.analysis.claims import INCONCLUSIVE
from finetune_scaling.laws.points.columns import lower_is_better
from finetune_scaling.laws.points.table import PointsTable

TRACKS_LOSS, DOES_NOT_TRACK = "tracks", "does not track"
TRACKING_THRESHOLD = 0.7  # half of the metric's variance is then the loss's
FEWEST = 5  # settings; with fewer a resample says little, and its intervals cover too seldom
LEVEL = 0.9
RESAMPLES = 2000
SEED = 0

Pairs = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Coefficient:
    """A coefficient of correlation with its 90 % interval and its p-value."""

    value: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Correlation:
    """One metric against the loss over the settings of one task, method and factor.

    pearson, spearman: None where a cell has fewer settings than FEWEST, or where all of its values are the same; `why`
    says so.
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
        """By the rule of this module: tracks, does not track, or inconclusive."""
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
        """The verdict in words, with its figures."""
        if self.pearson is None:
            return f"{self.metric}: {INCONCLUSIVE}: {self.why}"
        values = f"r {self.pearson.value:.3f}, {self.pearson.low:.3f} to {self.pearson.high:.3f}"
        if self.verdict == INCONCLUSIVE:
            return f"{self.metric}: {INCONCLUSIVE} ({values})"
        return f"{self.metric} {self.verdict} loss ({values})"


@dataclass(frozen=True)
class ProxyVerdict:
    """Whether a metric may stand in for the loss on a task, over its cells that can be told or not."""

    task: str
    metric: str
    cells: tuple[Correlation, ...]

    @property
    def verdict(self) -> str:
        """It does not follow where one cell says so, follows where all of them do, and cannot be told otherwise."""
        verdicts = {cell.verdict for cell in self.cells}
        if DOES_NOT_TRACK in verdicts:
            return DOES_NOT_TRACK
        return TRACKS_LOSS if verdicts == {TRACKS_LOSS} else INCONCLUSIVE

    @property
    def tally(self) -> str:
        """How many cells say what."""
        verdicts = [cell.verdict for cell in self.cells]
        parts = [f"{v} in {verdicts.count(v)}" for v in (TRACKS_LOSS, DOES_NOT_TRACK, INCONCLUSIVE) if v in verdicts]
        return f"{', '.join(parts)} of {len(verdicts)}"


def correlations(table: PointsTable, progress: Callable[[str], None] = lambda _: None) -> list[Correlation]:
    """Every metric against the loss in every cell that has values of it, by task, then metric."""
    found = []
    for task in table.tasks:
        cells = table.settings[table.settings["task"] == task].groupby(["method", "factor"], sort=False)
        own = [
            correlate(task, method, factor, metric, pair["loss"], pair[metric])
            for metric in table.score_columns
            for (method, factor), rows in cells
            if len(pair := rows[["loss", metric]].dropna())
        ]
        if own:
            progress(f"correlations with loss, {task}: {len(own)} of {len({c.metric for c in own})} metrics")
        found += own
    return found


def proxy_verdicts(found: list[Correlation]) -> Iterator[ProxyVerdict]:
    """The verdict for each task and metric over its cells."""
    for (task, metric), cells in groupby(found, key=lambda c: (c.task, c.metric)):
        yield ProxyVerdict(task, metric, tuple(cells))


def correlate(
    task: str, method: str, factor: str, metric: str, loss: pd.Series | np.ndarray, scores: pd.Series | np.ndarray
) -> Correlation:
    """One cell: loss and scores of its settings, float[N] each."""
    pair = np.asarray(loss, float), np.asarray(scores, float)
    key = (task, method, factor, metric, len(pair[0]))
    if len(pair[0]) < FEWEST:
        return Correlation(*key, None, None, f"{len(pair[0])} settings, at least {FEWEST} are needed")
    for name, values in zip(("loss", metric), pair, strict=True):
        if np.ptp(values) == 0:
            return Correlation(*key, None, None, f"all settings have the same {name}")
    return Correlation(
        *key,
        _coefficient(pearson, pair, float(stats.pearsonr(*pair).pvalue)),
        _coefficient(spearman, pair, float(stats.spearmanr(*pair).pvalue)),
    )


def pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson's r along the last axis, [..., N] -> [...]; NaN where either side is constant."""
    constant = (np.ptp(x, axis=-1) == 0) | (np.ptp(y, axis=-1) == 0)
    x, y = (v - v.mean(axis=-1, keepdims=True) for v in (x, y))
    spread = np.sqrt((x * x).sum(axis=-1) * (y * y).sum(axis=-1))
    r = (x * y).sum(axis=-1) / np.where(constant, 1, spread)
    return np.where(constant, np.nan, np.clip(r, -1, 1))


def spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Spearman's rho along the last axis: Pearson's r of the ranks, ties at their mean rank."""
    return pearson(stats.rankdata(x, axis=-1), stats.rankdata(y, axis=-1))


def bootstrap_record() -> dict[str, float | int | str]:
    """How the intervals were made."""
    return {"method": "BCa bootstrap over settings", "level": LEVEL, "resamples": RESAMPLES, "seed": SEED}


def _coefficient(statistic: Callable[..., np.ndarray], pair: Pairs, p: float) -> Coefficient:
    value = float(statistic(*pair))
    low, high = bca_interval(statistic, pair, value)
    return Coefficient(value, low, high, p)


def bca_interval(statistic: Callable[..., np.ndarray], pair: Pairs, value: float) -> tuple[float, float]:
    """The 90 % BCa bootstrap interval of statistic(x, y) over N pairs, `value` being that of the pairs themselves.

    Resamples of one point again and again have no correlation and are left out: in a cell of five, one of 600.
    """
    count = len(pair[0])
    chosen = np.random.default_rng(SEED).integers(count, size=(RESAMPLES, count))
    drawn = statistic(*(side[chosen] for side in pair))
    drawn = drawn[np.isfinite(drawn)]
    share = (np.mean(drawn < value) + np.mean(drawn <= value)) / 2
    bias = stats.norm.ppf(np.clip(share, 0.5 / len(drawn), 1 - 0.5 / len(drawn)))
    shifted = bias + stats.norm.ppf([(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    slope = np.maximum(1 - _acceleration(statistic, pair) * shifted, 1e-3)
    low, high = np.quantile(drawn, stats.norm.cdf(bias + shifted / slope))
    return float(low), float(high)


def _acceleration(statistic: Callable[..., np.ndarray], pair: Pairs) -> float:
    """BCa's acceleration, by leaving out one pair at a time."""
    others = ~np.eye(len(pair[0]), dtype=bool)
    left_out = statistic(*(np.stack([side[kept] for kept in others]) for side in pair))
    left_out = left_out[np.isfinite(left_out)]
    pull = left_out.mean() - left_out
    scale = (pull**2).sum() ** 1.5
    return float((pull**3).sum() / (6 * scale)) if scale > 0 else 0.0
