"""Profile likelihood: the objective as a function of one parameter, minimized over all others.

The rise of a Huber objective is turned into a chi-square by the ratio of its curvature and its scatter (the robust
likelihood ratio test of Ronchetti 1982; Heritier and Ronchetti 1994): 2 (Q - Q0) mean(psi') / mean(psi^2).
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from finetune_scaling.laws.fitting.fitted_law import FittedLaw
from finetune_scaling.laws.fitting.huber_fit import FitProblem, local_refit
from finetune_scaling.laws.uncertainty.intervals import LEVEL, Interval, parameter_interval

# Distances from the optimum at which a profile is computed, in standard deviations over the bootstrap replicates.
STEPS = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 9.0, 14.0)


@dataclass(frozen=True)
class Profile:
    """Profile of one parameter.

    values [S]: of the parameter in natural units, ascending; rises [S]: of the objective, in units of the threshold;
    interval: where the rise is below one, 90 %; an end that is None is open: the rise stays below one up to the last
    value.
    """

    values: np.ndarray
    rises: np.ndarray
    interval: Interval


def profiles(problem: FitProblem, weights: np.ndarray, fitted: FittedLaw, free: np.ndarray) -> dict[str, Profile]:
    """Return the profiles of all free parameters, bool [K], of a one-stage fit to points with weights [P].

    The standard deviations over its replicates set the steps.
    """
    vector, moving = fitted.vector, np.flatnonzero(free)
    columns, signs = np.repeat(moving, 2), np.tile((-1, 1), len(moving))
    scales = np.maximum(np.std(fitted.replicates, axis=0), 1e-6)[columns]
    rows = np.arange(len(columns))
    held = np.tile(free, (len(columns), 1))
    held[rows, columns] = False
    batch = problem.batch(np.tile(weights, (len(rows), 1)), free=held)
    moved, values, objectives = np.tile(vector, (len(columns), 1)), [], []
    for step in STEPS:
        moved[rows, columns] = vector[columns] + signs * step * scales
        moved, found = local_refit(batch, moved)
        values.append(moved[rows, columns])
        objectives.append(found)
    _, base = local_refit(problem.batch(weights[None], free=False), vector[None])
    rises = (np.array(objectives) - base[0]) / threshold(problem, weights, vector, free)
    sides = (len(STEPS), len(moving), 2)
    values_by_side, rises_by_side = np.reshape(values, sides), np.reshape(rises, sides)
    return {
        problem.layout.names[column]: _profile(fitted, int(column), values_by_side[:, i], rises_by_side[:, i])
        for i, column in enumerate(moving)
    }


def threshold(problem: FitProblem, weights: np.ndarray, vector: np.ndarray, free: np.ndarray) -> float:
    """Return the rise of the objective at the ends of a 90 % interval of one parameter."""
    residuals = problem.residuals(vector)[weights > 0]
    count, delta = len(residuals), problem.settings.huber_delta
    scatter = float((np.clip(residuals, -delta, delta) ** 2).sum()) / max(1, count - int(free.sum()))
    curvature = max(float((np.abs(residuals) < delta).mean()), 1 / count)
    return float(stats.chi2.ppf(LEVEL, 1)) / 2 * max(scatter, 1e-300) / curvature


def _profile(fitted: FittedLaw, column: int, values: np.ndarray, rises: np.ndarray) -> Profile:
    """Return a profile from the values and rises [S, 2] on either side of the optimum."""
    parameter, best = fitted.layout.slots[column][0], fitted.vector[column]
    moved = np.concatenate([values[::-1, 0], [best], values[:, 1]])
    all_rises = np.concatenate([rises[::-1, 0], [0.0], rises[:, 1]])
    ends = [_crossing(best, values[:, side], rises[:, side]) for side in (0, 1)]
    low, high = (None if end is None else float(parameter.to_natural(end)) for end in ends)
    if low is not None:  # an offset that is not distinguishable from zero is open below
        low = parameter_interval(parameter, low, np.full(2, low), fitted.min_response).low
    return Profile(parameter.to_natural(moved), all_rises, Interval(low, high))


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
