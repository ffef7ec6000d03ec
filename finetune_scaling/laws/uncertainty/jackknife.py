"""Standard errors by leaving out: every value of a factor and every number of examples is left out once and refitted.

Runs that share a base model or a data subset share its luck, so whole levels are left out, not single points; the
variances over the factors and over the data sizes add up (they treat the two as independent sources), and a Welch
(1947) count of degrees of freedom says how many levels that rests on.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.90


@dataclass(frozen=True)
class JackknifeEstimate:
    """Standard error of a quantity and its degrees of freedom; both None, with a reason, where it cannot be told."""

    standard_error: float | None
    degrees: float | None
    reason: str = ""

    def half_width(self) -> float:
        """Half width of a two-sided 90 % interval by Student's t; infinite where there is no standard error."""
        if self.standard_error is None or self.degrees is None:
            return math.inf
        return float(stats.t.ppf(0.5 + LEVEL / 2, self.degrees)) * self.standard_error


def leave_out_weights(families: Sequence[np.ndarray]) -> tuple[np.ndarray, list[slice]]:
    """Weights [W, P] that leave out each level of each labelling [P] in turn, and the rows of each labelling.

    A point that a labelling does not concern is labelled NaN there and always kept.
    """
    rows: list[np.ndarray] = []
    slices = []
    for labels in families:
        levels = np.unique(labels[np.isfinite(labels)])
        slices.append(slice(len(rows), len(rows) + len(levels)))
        rows.extend((labels != level).astype(float) for level in levels)
    return np.array(rows), slices


def jackknife_estimate(values: np.ndarray, families: Sequence[slice], reasons: Sequence[str] = ()) -> JackknifeEstimate:
    """Jackknife over several labellings: values [W] of a quantity in the refits -> its standard error.

    reasons: why it cannot be told, if it cannot. A refit that failed (not finite) is such a reason too.
    """
    if reasons:
        return JackknifeEstimate(None, None, reasons[0])
    parts = [values[rows] for rows in families]
    if not all(np.isfinite(part).all() for part in parts):
        return JackknifeEstimate(None, None, "a refit with one value left out did not close")
    counts = np.array([len(part) for part in parts])
    variances = np.array([(n - 1) * np.var(part) for n, part in zip(counts, parts, strict=True)])
    total = float(variances.sum())
    return JackknifeEstimate(math.sqrt(total), _welch(variances, counts - 1.0))


def jackknife_difference(left: JackknifeEstimate, right: JackknifeEstimate) -> JackknifeEstimate:
    """The spread of the difference of two independent quantities."""
    for one in (left, right):
        if one.standard_error is None or one.degrees is None:
            return one
    errors = np.array([left.standard_error, right.standard_error], float)
    return JackknifeEstimate(
        float(np.hypot(*errors)), _welch(errors**2, np.array([left.degrees, right.degrees], float))
    )


def _welch(variances: np.ndarray, degrees: np.ndarray) -> float:
    """Degrees of freedom of a sum of independent variances (Welch 1947)."""
    total = variances.sum()
    if not total > 0:
        return float(degrees.sum())
    return float(1 / ((variances / total) ** 2 / degrees).sum())
