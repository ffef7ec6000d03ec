"""Laws of a metric of generated text as a function of the loss, per task and method: exponential, sigmoid or neither.

Each law of METRIC_LAWS is fitted by least squares to (loss, metric) of the settings, means over seeds, without
the held-out ones. A law fits a metric where R^2 is at least MIN_R_SQUARED. Of two such laws one is preferred only
where its errors on settings left out of the fit, one dataset size at a time, are smaller by Wilcoxon's signed-rank test
at SIGNIFICANCE; otherwise no law is preferred, and the one with the smaller error is used.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from finetune_scaling.laws.fitting.fitted_law import WIDE, FittedLaw
from finetune_scaling.laws.fitting.huber_fit import FitPoints, FitProblem, FitSettings, multistart_fit
from finetune_scaling.laws.fitting.one_stage import fit_law
from finetune_scaling.laws.fitting.requirements import why_no_metric_law
from finetune_scaling.laws.forms.declared import Law, ParameterLayout, predict
from finetune_scaling.laws.forms.library import EXPONENTIAL, SIGMOID
from finetune_scaling.laws.points.table import PointsTable

METRIC_LAWS = (EXPONENTIAL, SIGMOID)
MIN_R_SQUARED = 0.8
SIGNIFICANCE = 0.1


@dataclass(frozen=True, kw_only=True)
class MetricFit(FittedLaw):
    """One law of a metric.

    r_squared: share of the fitted settings' variance that it explains; error: root mean square error on them; left_out
    [P]: absolute error of every setting in the fit without its dataset size; held_out_error: root mean square error on
    held-out settings, None where there are none.
    """

    r_squared: float
    error: float
    left_out: np.ndarray
    held_out_error: float | None

    @property
    def fits_well(self) -> bool:
        """Whether the law fits the metric."""
        return self.r_squared >= MIN_R_SQUARED

    def why_poorly_determined(self, name: str) -> str:
        """Return why the settings determine a parameter poorly; empty where they determine it well."""
        if not self.fits_well:
            return "the law does not fit this metric"
        return WIDE if self.is_wide(name, self.interval(name)) else ""


@dataclass(frozen=True)
class MetricFinding:
    """The laws of a metric of one task and method.

    settings: number fitted; why: the reason if there are no fits.
    """

    task: str
    method: str
    metric: str
    settings: int
    fits: tuple[MetricFit, ...]
    why: str = ""

    @property
    def good_fits(self) -> tuple[MetricFit, ...]:
        """Return the fits that are good enough, by increasing left-out error."""
        return tuple(sorted((f for f in self.fits if f.fits_well), key=lambda f: float(f.left_out.mean())))

    @property
    def used(self) -> MetricFit | None:
        """Return the law that predicts the metric; None where none fits it."""
        return self.good_fits[0] if self.good_fits else None

    @property
    def preferred(self) -> str | None:
        """Return the name of the preferred law, if any."""
        first, *others = self.good_fits or (None,)
        if first is None or any(not _is_smaller(first.left_out, other.left_out) for other in others):
            return None
        return first.law.name

    @property
    def verdict(self) -> str:
        """Return in words which law fits the metric, that none does or is preferred, or why this is inconclusive."""
        if self.why:
            return f"inconclusive: {self.why}"
        if self.used is None:
            best = max(self.fits, key=lambda f: f.r_squared)
            return f"no law fits it (best: {best.law.name}, R^2 {best.r_squared:.2f})"
        if self.preferred is None:
            return f"no law is preferred; {self.used.law.name} has the lowest error on settings left out"
        return f"{self.preferred} fits it"


def metric_findings(
    table: PointsTable, metrics: Mapping[str, str | None], progress: Callable[[str], None] = lambda _: None
) -> list[MetricFinding]:
    """Return the laws of every task's metric, by task and method."""
    found = []
    for task, metric in metrics.items():
        if metric is not None:
            own = table.settings[table.settings["task"] == task]
            found += [fit_metric(rows, metric) for _, rows in own.groupby("method", sort=False)]
            progress(f"laws of {metric}, {task}: {sum(f.used is not None for f in found if f.task == task)} fitted")
    return found


def fit_metric(rows: pd.DataFrame, metric: str) -> MetricFinding:
    """Fit both laws to a metric over the settings of one task and method. rows: PointsTable.settings of them."""
    task, method = str(rows["task"].iloc[0]), str(rows["method"].iloc[0])
    rows = rows.dropna(subset=["loss", metric]).drop_duplicates(["finetune_examples", "loss", metric])
    fitted = rows[~rows["held_out"]]
    key = (task, method, metric, len(fitted))
    if few := why_no_metric_law(fitted):
        return MetricFinding(*key, (), few)
    if np.ptp(fitted[metric]) == 0:
        return MetricFinding(*key, (), f"all settings have the same {metric}")
    if (rows[metric] < 0).any():
        return MetricFinding(*key, (), f"{metric} is below zero in some settings, which no law of metrics can fit")
    return MetricFinding(*key, tuple(_fits(fitted, rows[rows["held_out"]], metric)))


def _fits(fitted: pd.DataFrame, held_out: pd.DataFrame, metric: str) -> Iterator[MetricFit]:
    loss, score = fitted["loss"].to_numpy(float), fitted[metric].to_numpy(float)
    settings = FitSettings(huber_delta=10 * float(np.ptp(score)), residual="linear")  # least squares
    for law in METRIC_LAWS:
        with np.errstate(over="ignore"):  # a replicate of few settings may have an infinite coefficient
            found = fit_law(law, {"L": loss}, score, settings, pad_to=64)
        errors = found.predict({"L": loss}) - score
        held_out_errors = found.predict({"L": held_out["loss"].to_numpy(float)}) - held_out[metric].to_numpy(float)
        yield MetricFit(
            **vars(found),
            r_squared=1 - float((errors**2).sum() / ((score - score.mean()) ** 2).sum()),
            error=float(np.sqrt((errors**2).mean())),
            left_out=_left_out(law, loss, score, fitted["finetune_examples"].to_numpy(float), settings),
            held_out_error=float(np.sqrt((held_out_errors**2).mean())) if len(held_out_errors) else None,
        )


def _left_out(law: Law, loss: np.ndarray, score: np.ndarray, levels: np.ndarray, settings: FitSettings) -> np.ndarray:
    """Return the absolute error [P] of every setting by the law fitted without its dataset size."""
    layout = ParameterLayout(law)
    problem = FitProblem(layout, FitPoints({"L": loss}, score, pad_to=64), settings)
    names = np.unique(levels)
    weights = (levels[None] != names[:, None]).astype(float)
    vectors, _ = multistart_fit(problem.batch(weights))
    errors = np.zeros(len(score))
    with np.errstate(over="ignore"):
        for name, vector in zip(names, vectors, strict=True):
            out = levels == name
            errors[out] = np.abs(predict(law, layout.to_natural(vector), {"L": loss[out]}) - score[out])
    return errors


def _is_smaller(first: np.ndarray, second: np.ndarray) -> bool:
    """Return whether errors [P] are smaller than others by Wilcoxon's signed-rank test."""
    differ = bool((first != second).any())
    return differ and bool(stats.wilcoxon(first, second, alternative="less").pvalue < SIGNIFICANCE)
