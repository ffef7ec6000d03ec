"""Critical finetuning sizes: the numbers of examples at which two methods have equal loss (Zhang et al. 2024, section
5).

In general there is no closed form and there may be no, one or two crossings, so they are searched in log space over a
stated range; the paper's closed form, right where both laws have one E, is given beside them for comparison.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import optimize

from finetune_scaling.scaling.fitting.staged_fit import StagedFit
from finetune_scaling.scaling.laws.declared import of_factor, predict

SEARCH_RANGE = (1e1, 1e12)
GRID = 400
Curve = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class ClosedForm:
    """D_c = H * X^gamma, for two multiplicative laws with equal E; H spans decades, so its log is kept."""

    log_H: float
    gamma: float

    @property
    def H(self) -> float:
        """The constant H, as the paper prints it; infinite where it overflows."""
        return _exp(self.log_H)

    def at(self, x: float) -> float:
        """The critical number of examples at factor value x; infinite or zero where it overflows."""
        return _exp(self.log_H + self.gamma * math.log(x))


@dataclass(frozen=True)
class Root:
    """One crossing.

    examples: where; low, high: least and greatest place in the leave-out refits, None where their number of crossings
    differs; below, above: the better method on either side; extrapolated: methods not measured up to there.
    """

    examples: float
    low: float | None
    high: float | None
    below: str
    above: str
    extrapolated: tuple[str, ...]


@dataclass(frozen=True)
class CriticalSize:
    """Crossings of two methods at one factor value; better_everywhere is set where there is none."""

    task: str
    law: str
    factor: str
    x: float
    methods: tuple[str, str]
    roots: tuple[Root, ...]
    better_everywhere: str | None
    closed_form: ClosedForm | None


def crossings(difference: Curve, low: float, high: float) -> list[float]:
    """Every root of difference(D) for D in [low, high]: bracketed on a log grid, refined to 1e-10 in log D.

    Two roots within one step of the grid are found too, by way of the extremum between them.
    """
    logs = np.linspace(math.log(low), math.log(high), GRID)
    values = difference(np.exp(logs))
    extra = [_extremum(difference, logs, values, i) for i in _near_misses(values)]
    logs = np.sort(np.concatenate([logs, extra]))
    values = difference(np.exp(logs))
    exact = [float(x) for x, value in zip(logs, values, strict=True) if value == 0]
    signs = np.sign(values)
    brackets = [i for i in range(len(logs) - 1) if signs[i] * signs[i + 1] < 0]
    found = [
        optimize.brentq(lambda t: float(difference(np.exp(t))), logs[i], logs[i + 1], xtol=1e-10) for i in brackets
    ]
    return [math.exp(root) for root in sorted(exact + found)]


def closed_form(first: Mapping[str, float], second: Mapping[str, float]) -> ClosedForm | None:
    """H and gamma (Zhang et al., 2024) from A, alpha, beta of two multiplicative laws; None where betas are equal.

    H = (A1 / A2)^(1 / (beta1 - beta2)), gamma = (alpha2 - alpha1) / (beta1 - beta2).
    """
    slope = first["beta"] - second["beta"]
    if slope == 0:
        return None
    log_h = (math.log(first["A"]) - math.log(second["A"])) / slope
    return ClosedForm(log_h, (second["alpha"] - first["alpha"]) / slope)


def critical_sizes(
    fits: Mapping[str, StagedFit],
    pair: tuple[str, str],
    factor: str,
    x_values: Sequence[float],
    measured: Mapping[str, tuple[float, float]],
) -> list[CriticalSize]:
    """Crossings of a pair of methods (of one task and law) at each factor value.

    fits: by method; measured: method -> least and greatest number of examples that it was measured with.
    """
    return [_at(fits, pair, factor, x, measured) for x in x_values]


def best_regions(
    fits: Mapping[str, StagedFit], factor: str, x: float, low: float, high: float
) -> list[tuple[str, float, float]]:
    """Which method has the least predicted loss at x: (method, from, to) in order of the examples, low to high."""
    grid = np.geomspace(low, high, GRID)
    methods = [m for m in fits if factor in fits[m].factors]
    if not methods:
        return []
    best = np.argmin([fits[m].predict(factor, x, grid) for m in methods], axis=0)
    edges = [0, *(np.flatnonzero(np.diff(best)) + 1), len(grid)]
    return [(methods[best[a]], float(grid[a]), float(grid[min(b, len(grid) - 1)])) for a, b in pairwise(edges)]


def _at(
    fits: Mapping[str, StagedFit],
    pair: tuple[str, str],
    factor: str,
    x: float,
    measured: Mapping[str, tuple[float, float]],
) -> CriticalSize:
    first, second = fits[pair[0]], fits[pair[1]]
    curves = _curve(first, first.vector, factor, x), _curve(second, second.vector, factor, x)
    places = crossings(lambda d: curves[0](d) - curves[1](d), *SEARCH_RANGE)
    ranges = _leave_out_ranges(first, second, curves, factor, x, len(places))
    roots = tuple(_root(place, r, pair, curves, measured) for place, r in zip(places, ranges, strict=True))
    own = [of_factor(fit.parameters, factor) for fit in (first, second)]
    return CriticalSize(
        task=first.task,
        law=first.law.name,
        factor=factor,
        x=x,
        methods=pair,
        roots=roots,
        better_everywhere=None if roots else _better(pair, curves, SEARCH_RANGE[0]),
        closed_form=closed_form(*own) if first.law.name == "multiplicative" else None,
    )


def _curve(fit: StagedFit, vector: np.ndarray, factor: str, x: float) -> Curve:
    parameters = of_factor(fit.layout.to_natural(vector), factor)
    return lambda examples: predict(fit.law, parameters, {"X": x, "D": examples})


def _root(
    place: float,
    leave_out: tuple[float, float] | None,
    pair: tuple[str, str],
    curves: tuple[Curve, Curve],
    measured: Mapping[str, tuple[float, float]],
) -> Root:
    return Root(
        examples=place,
        low=leave_out[0] if leave_out else None,
        high=leave_out[1] if leave_out else None,
        below=_better(pair, curves, place * 0.99),
        above=_better(pair, curves, place * 1.01),
        extrapolated=tuple(m for m in pair if not measured[m][0] <= place <= measured[m][1]),
    )


def _better(pair: tuple[str, str], curves: tuple[Curve, Curve], examples: float) -> str:
    at = np.asarray(examples)
    return pair[0] if curves[0](at) < curves[1](at) else pair[1]


def _leave_out_ranges(
    first: StagedFit, second: StagedFit, curves: tuple[Curve, Curve], factor: str, x: float, count: int
) -> list[tuple[float, float] | None]:
    """For each crossing its least and greatest place when one method is refitted with one level left out."""
    if not count:
        return []
    if any(f"alpha_{factor}" in fit.reasons or "beta" in fit.reasons for fit in (first, second)):
        return [None] * count
    found = []
    for left, right in _refitted_pairs(first, second, curves, factor, x):
        found.append(crossings(lambda d, a=left, b=right: a(d) - b(d), *SEARCH_RANGE))  # type: ignore[misc]
    if any(len(places) != count for places in found):
        return [None] * count
    return [(min(column), max(column)) for column in zip(*found, strict=True)]


def _refitted_pairs(
    first: StagedFit, second: StagedFit, curves: tuple[Curve, Curve], factor: str, x: float
) -> Iterator[tuple[Curve, Curve]]:
    yield from ((_curve(first, vector, factor, x), curves[1]) for vector in first.refits)
    yield from ((curves[0], _curve(second, vector, factor, x)) for vector in second.refits)


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def _near_misses(values: np.ndarray) -> list[int]:
    """Inner grid points where the difference comes closest to zero without changing its sign."""
    size, inner = np.abs(values), slice(1, -1)
    closest = (size[inner] <= size[:-2]) & (size[inner] <= size[2:])
    same = (np.sign(values[:-2]) == np.sign(values[inner])) & (np.sign(values[inner]) == np.sign(values[2:]))
    return [int(i) + 1 for i in np.flatnonzero(closest & same)]


def _extremum(difference: Curve, logs: np.ndarray, values: np.ndarray, index: int) -> float:
    sign = float(np.sign(values[index]))
    bounds = (logs[index - 1], logs[index + 1])
    return float(
        optimize.minimize_scalar(lambda t: sign * float(difference(np.exp(t))), bounds=bounds, method="bounded").x
    )
