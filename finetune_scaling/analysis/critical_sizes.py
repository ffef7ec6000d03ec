"""Critical data sizes: numbers of examples at which two methods have equal loss (Zhang et al. 2024, section 5).

In general there is no closed form, and there may be zero, one or two crossings, so they are searched in log space over
a stated range, for the fitted laws and for every pair of bootstrap replicates. The paper's closed form, which is exact
where both laws have the same E, is reported too.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune_scaling.analysis.crossings import Crossings, Difference, find_crossings
from finetune_scaling.laws.fitting.joint_fit import JointFit
from finetune_scaling.laws.forms.declared import factor_parameters, predict
from finetune_scaling.laws.forms.library import MULTIPLICATIVE
from finetune_scaling.laws.uncertainty.intervals import Interval, percentile_interval

SEARCH_RANGE = (1e1, 1e12)
OPEN = Interval(None, None)


@dataclass(frozen=True)
class ClosedForm:
    """D_c = H * X^gamma for two multiplicative laws with equal E, with 90 % bootstrap intervals of log H and gamma."""

    log_H: float
    gamma: float
    log_H_interval: Interval = OPEN
    gamma_interval: Interval = OPEN

    @property
    def H(self) -> float:
        """The constant H, as the paper prints it; infinite where it overflows."""
        return _exp(self.log_H)

    @property
    def H_interval(self) -> Interval:
        """The 90 % interval of H."""
        ends = (self.log_H_interval.low, self.log_H_interval.high)
        return Interval(*(None if end is None else _exp(end) for end in ends))

    def at(self, x: float) -> float:
        """Return the critical number of examples at factor value x; infinite or zero where it overflows."""
        return _exp(self.log_H + self.gamma * math.log(x))


@dataclass(frozen=True)
class Root:
    """One crossing.

    examples: where; interval: 90 % bootstrap interval, open where that end is among replicates without this crossing;
    share: of the replicates that have it in the search range; jackknife: range over the jackknife refits, open where
    their number of crossings differs; below, above: the better method on either side; extrapolated: methods that were
    not measured at that number of examples.
    """

    examples: float
    interval: Interval
    share: float
    jackknife: Interval
    below: str
    above: str
    extrapolated: tuple[str, ...]


@dataclass(frozen=True)
class CriticalSize:
    """Crossings of two methods at one factor value.

    better_everywhere: the better method where there is no crossing;
    share_without_crossing: share of the bootstrap replicates that have no crossing in the search range; why: the reason
    if this is inconclusive.
    """

    task: str
    law: str
    factor: str
    x: float
    methods: tuple[str, str]
    roots: tuple[Root, ...] = ()
    better_everywhere: str | None = None
    share_without_crossing: float | None = None
    closed_form: ClosedForm | None = None
    why: str = ""


def closed_form(first: Mapping[str, float], second: Mapping[str, float]) -> ClosedForm | None:
    """Return H and gamma (Zhang et al. 2024) from A, alpha, beta of two multiplicative laws; None for equal betas.

    H = (A1 / A2)^(1 / (beta1 - beta2)), gamma = (alpha2 - alpha1) / (beta1 - beta2).
    """
    if first["beta"] == second["beta"]:
        return None
    log_h, gamma = _log_h_and_gamma(first, second)
    return ClosedForm(float(log_h), float(gamma))


def critical_sizes(
    fits: Mapping[str, JointFit],
    pair: tuple[str, str],
    factor: str,
    x_values: Sequence[float],
    measured: Mapping[str, tuple[float, float]],
) -> list[CriticalSize]:
    """Return the crossings of a pair of methods (of one task and law) at each factor value.

    fits: by method; measured: method -> smallest and largest measured number of examples.
    """
    first, second = fits[pair[0]], fits[pair[1]]
    why = "; ".join(fit.lack_of_fit for fit in (first, second) if not fit.fits_well)
    if why:
        return [CriticalSize(first.task, first.law.name, factor, x, pair, why=why) for x in x_values]
    form = _closed_form_of(first, second, factor) if first.law.name == MULTIPLICATIVE.name else None
    return [_critical_size(first, second, factor, x, measured, form) for x in x_values]


def _critical_size(
    first: JointFit,
    second: JointFit,
    factor: str,
    x: float,
    measured: Mapping[str, tuple[float, float]],
    form: ClosedForm | None,
) -> CriticalSize:
    pair = (first.method, second.method)
    fitted = _difference(first, first.vector[None], second, second.vector[None], factor, x)
    found = find_crossings(fitted, 1, *SEARCH_RANGE)
    count = len(first.replicates)
    resampled = _difference(first, first.replicates, second, second.replicates, factor, x)
    crossings = find_crossings(resampled, count, *SEARCH_RANGE)
    ranges = _jackknife_ranges(first, second, factor, x, len(found.examples))
    roots: list[Root] = []
    for examples, rising, jackknife in zip(found.examples.tolist(), found.rising.tolist(), ranges, strict=True):
        below, above = pair if rising else pair[::-1]  # the difference is the first's loss minus the second's
        rank = [root.below for root in roots].count(below)
        interval, share = _interval(resampled, crossings, count, examples, rising, rank)
        extrapolated = tuple(m for m in pair if not measured[m][0] <= examples <= measured[m][1])
        roots.append(Root(examples, interval, share, jackknife, below, above, extrapolated))
    better = pair[int(fitted(np.zeros(1, int), np.full(1, SEARCH_RANGE[0]))[0] > 0)]
    return CriticalSize(
        task=first.task,
        law=first.law.name,
        factor=factor,
        x=x,
        methods=pair,
        roots=tuple(roots),
        better_everywhere=None if roots else better,
        share_without_crossing=1 - len(np.unique(crossings.pair)) / count,
        closed_form=form,
    )


def _interval(
    difference: Difference, crossings: Crossings, count: int, estimate: float, rising: bool, rank: int
) -> tuple[Interval, float]:
    """Return the interval of a crossing over the replicates, and the share of them that have it.

    A replicate without this crossing counts as plus or minus infinity, on the side that the better method at the
    estimate indicates, so that the quantiles are those of all replicates.
    """
    examples = crossings.of_direction(count, rising, rank)
    share = float(np.isfinite(examples).mean())
    later = (difference(np.arange(count), np.full(count, estimate)) < 0) == rising
    return percentile_interval(np.where(np.isfinite(examples), examples, np.where(later, np.inf, -np.inf))), share


def _difference(
    first: JointFit, first_vectors: np.ndarray, second: JointFit, second_vectors: np.ndarray, factor: str, x: float
) -> Difference:
    """Return the loss of the first method minus the loss of the second at x, for pairs of fitted vectors [R, K]."""
    left, right = (
        factor_parameters(fit.layout.to_natural(vectors), factor)
        for fit, vectors in ((first, first_vectors), (second, second_vectors))
    )
    return lambda pair, examples: _loss(first, left, pair, x, examples) - _loss(second, right, pair, x, examples)


def _loss(
    fit: JointFit, parameters: Mapping[str, np.ndarray], pair: np.ndarray, x: float, examples: np.ndarray
) -> np.ndarray:
    return predict(fit.law, {name: values[pair] for name, values in parameters.items()}, {"X": x, "D": examples})


def _jackknife_ranges(first: JointFit, second: JointFit, factor: str, x: float, count: int) -> list[Interval]:
    """Return the range of each crossing when one method is refitted with one level left out."""
    unknown = any(f"alpha_{factor}" in fit.reasons or "beta" in fit.reasons for fit in (first, second))
    if not count or unknown:
        return [OPEN] * count
    refits = len(first.jackknife_refits) + len(second.jackknife_refits)
    left = np.concatenate([first.jackknife_refits, np.tile(first.vector, (len(second.jackknife_refits), 1))])
    right = np.concatenate([np.tile(second.vector, (len(first.jackknife_refits), 1)), second.jackknife_refits])
    found = find_crossings(_difference(first, left, second, right, factor, x), refits, *SEARCH_RANGE)
    if (np.bincount(found.pair, minlength=refits) != count).any():
        return [OPEN] * count
    examples = found.examples.reshape(refits, count)
    return [Interval(float(column.min()), float(column.max())) for column in examples.T]


def _closed_form_of(first: JointFit, second: JointFit, factor: str) -> ClosedForm | None:
    form = closed_form(*(factor_parameters(fit.parameters, factor) for fit in (first, second)))
    if form is None:
        return None
    own = [factor_parameters(fit.replicate_parameters, factor) for fit in (first, second)]
    with np.errstate(divide="ignore", invalid="ignore"):
        log_h, gamma = (np.nan_to_num(values, nan=np.inf) for values in _log_h_and_gamma(*own))
    return ClosedForm(form.log_H, form.gamma, percentile_interval(log_h), percentile_interval(gamma))


def _log_h_and_gamma(first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[Any, Any]:
    slope = first["beta"] - second["beta"]
    return (np.log(first["A"]) - np.log(second["A"])) / slope, (second["alpha"] - first["alpha"]) / slope


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf
