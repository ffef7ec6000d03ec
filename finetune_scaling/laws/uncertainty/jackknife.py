"""Delete-one-level jackknife: the law is refitted without each value of a factor and each number of examples.

Runs that share a base model or a data subset share its random effect, so complete levels are left out, not single
points; the variances over factors and dataset sizes add up (as independent sources), with Welch's (1947) degrees of
freedom.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from finetune_scaling.laws.uncertainty.intervals import QUANTILES


@dataclass(frozen=True)
class JackknifeEstimate:
    """Standard error of a quantity and its degrees of freedom; both None, with a reason, where they are unknown."""

    standard_error: float | None
    degrees: float | None
    reason: str = ""

    def half_width(self) -> float:
        """Return the half-width of a two-sided 90 % interval by Student's t; infinite where the error is unknown."""
        if self.standard_error is None or self.degrees is None:
            return math.inf
        return float(stats.t.ppf(QUANTILES[1], self.degrees)) * self.standard_error


def leave_out_weights(groupings: Sequence[np.ndarray]) -> tuple[np.ndarray, list[slice]]:
    """Return weights [W, P] that leave out each level of each grouping in turn, and the rows of each grouping.

    groupings: labels [P] each, NaN where a point has no level in that grouping, so that it is always kept.
    """
    rows: list[np.ndarray] = []
    slices = []
    for labels in groupings:
        levels = np.unique(labels[np.isfinite(labels)])
        slices.append(slice(len(rows), len(rows) + len(levels)))
        rows.extend((labels != level).astype(float) for level in levels)
    return np.array(rows), slices


def jackknife_estimate(
    values: np.ndarray, groupings: Sequence[slice], reasons: Sequence[str] = ()
) -> JackknifeEstimate:
    """Return the jackknife standard error over several groupings from the values [W] of a quantity in the refits.

    reasons: why it is unknown, if it is. A refit that is not finite is such a reason too.
    """
    if reasons:
        return JackknifeEstimate(None, None, reasons[0])
    parts = [values[rows] for rows in groupings]
    if not all(np.isfinite(part).all() for part in parts):
        return JackknifeEstimate(None, None, "a refit without one level did not converge")
    counts = np.array([len(part) for part in parts])
    variances = np.array([(n - 1) * np.var(part) for n, part in zip(counts, parts, strict=True)])
    total = float(variances.sum())
    return JackknifeEstimate(math.sqrt(total), _welch(variances, counts - 1.0))


def jackknife_difference(left: JackknifeEstimate, right: JackknifeEstimate) -> JackknifeEstimate:
    """Return the standard error of the difference of two independent quantities."""
    for one in (left, right):
        if one.standard_error is None or one.degrees is None:
            return one
    errors = np.array([left.standard_error, right.standard_error], float)
    return JackknifeEstimate(
        float(np.hypot(*errors)), _welch(errors**2, np.array([left.degrees, right.degrees], float))
    )


def _welch(variances: np.ndarray, degrees: np.ndarray) -> float:
    """Return the degrees of freedom of a sum of independent variances (Welch 1947)."""
    total = variances.sum()
    if not total > 0:
        return float(degrees.sum())
    return float(1 / ((variances / total) ** 2 / degrees).sum())
