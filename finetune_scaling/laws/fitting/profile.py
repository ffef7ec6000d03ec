"""Profile likelihood: the objective as a function of one parameter, minimized over all others.

The rise of a Huber objective is turned into a chi-square by the ratio of its curvature and its scatter (the robust
likelihood ratio test of Ronchetti 1982; Heritier and Ronchetti 1994): 2 (Q - Q0) mean(psi') / mean(psi^2).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

from finetune_scaling.laws.fitting.huber_fit import FitProblem, local_refit
from finetune_scaling.laws.uncertainty.intervals import LEVEL, Interval, parameter_interval

# Distances from the optimum at which a profile is computed, in standard deviations over the bootstrap replicates.
STEPS = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 9.0, 14.0)


@dataclass(frozen=True)
class Profile:
    """values [S] of a parameter in natural units, ascending; rises [S]: of the objective, in units of the threshold.

    interval: where the rise is below one, 90 %; an end that is None is open: the rise stays below one up to the last
    value.
    """

    values: np.ndarray
    rises: np.ndarray
    interval: Interval


def profiles(
    problem: FitProblem,
    weights: np.ndarray,
    vector: np.ndarray,
    free: np.ndarray,
    deviations: Mapping[str, float],
) -> dict[str, Profile]:
    """Return the profiles of all parameters of a one-stage fit.

    weights [P]; vector [K]: the optimum; free bool [K]; deviations: name -> standard deviation of the fitted entry,
    which sets the steps.
    """
    layout = problem.layout
    names = [name for name, moves in zip(layout.names, free, strict=True) if moves]
    columns = np.array([layout.names.index(name) for name in names for _ in (-1, 1)])
    signs = np.array([sign for _ in names for sign in (-1, 1)])
    scales = np.array([max(deviations[name], 1e-6) for name in names for _ in (-1, 1)])
    rows = np.arange(len(columns))
    held = np.tile(free, (len(columns), 1))
    held[rows, columns] = False
    moved, found, objectives = np.tile(vector, (len(columns), 1)), [], []
    for step in STEPS:
        moved[rows, columns] = vector[columns] + signs * step * scales
        moved, values = local_refit(problem, np.tile(weights, (len(rows), 1)), moved, held)
        found.append(moved[rows, columns].copy())
        objectives.append(values)
    _, base = local_refit(problem, weights[None], vector[None], np.zeros_like(free))
    rises = (np.array(objectives) - base[0]) / threshold(problem, weights, vector, free)
    return {
        name: _profile(problem, vector, name, np.array(found)[:, 2 * i : 2 * i + 2], rises[:, 2 * i : 2 * i + 2])
        for i, name in enumerate(names)
    }


def threshold(problem: FitProblem, weights: np.ndarray, vector: np.ndarray, free: np.ndarray) -> float:
    """Return the rise of the objective at the ends of a 90 % interval of one parameter."""
    residuals = problem.residuals(vector)[weights > 0]
    count, delta = len(residuals), problem.settings.huber_delta
    scatter = float((np.clip(residuals, -delta, delta) ** 2).sum()) / max(1, count - int(free.sum()))
    curvature = max(float((np.abs(residuals) < delta).mean()), 1 / count)
    return float(stats.chi2.ppf(LEVEL, 1)) / 2 * max(scatter, 1e-300) / curvature


def _profile(problem: FitProblem, vector: np.ndarray, name: str, values: np.ndarray, rises: np.ndarray) -> Profile:
    """Return a profile from the values and rises [S, 2] on either side of the optimum."""
    column = problem.layout.names.index(name)
    parameter = problem.layout.slots[column][0]
    moved = np.concatenate([values[::-1, 0], [vector[column]], values[:, 1]])
    all_rises = np.concatenate([rises[::-1, 0], [0.0], rises[:, 1]])
    ends = [_crossing(vector[column], values[:, side], rises[:, side]) for side in (0, 1)]
    ends_natural = [None if end is None else float(parameter.to_natural(end)) for end in ends]
    if ends_natural[0] is not None:  # an offset that is not distinguishable from zero is open below
        replicates = np.full(2, ends_natural[0])
        ends_natural[0] = parameter_interval(
            parameter, ends_natural[0], replicates, float(problem.points.loss.min())
        ).low
    return Profile(parameter.to_natural(moved), all_rises, Interval(ends_natural[0], ends_natural[1]))


def _crossing(start: float, values: np.ndarray, rises: np.ndarray) -> float | None:
    """Return where the rise reaches one, interpolated between two values; None where it never does."""
    above = np.flatnonzero(rises >= 1)
    if not len(above):
        return None
    first = int(above[0])
    low, low_rise = (values[first - 1], rises[first - 1]) if first else (start, 0.0)
    # Rises grow with the square of the distance near the optimum, so their roots are interpolated.
    left, right = np.sqrt(max(low_rise, 0.0)), np.sqrt(rises[first])
    return float(low + (values[first] - low) * (1 - left) / (right - left))
