"""Profile likelihood: how far each parameter can move, all others following, before the fit grows clearly worse.

The rise of a Huber objective is turned into a chi-square by the ratio of its curvature and its scatter (the robust
likelihood ratio test of Ronchetti 1982; Heritier and Ronchetti 1994): 2 (Q - Q0) mean(psi') / mean(psi^2).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

from finetune_scaling.laws.fitting.huber_fit import FitPoints, FitSettings, local_refit, predictions
from finetune_scaling.laws.forms.declared import Layout
from finetune_scaling.laws.uncertainty.intervals import LEVEL, Interval, parameter_interval

# How far out a profile is followed, in standard deviations of the parameter over the bootstrap draws.
STEPS = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 9.0, 14.0)


@dataclass(frozen=True)
class Profile:
    """values [S] of a parameter in printed units, ascending; rises [S]: of the objective, in units of the threshold.

    interval: where the rise stays below one, 90 %; an end that is None does not close within the values.
    """

    values: np.ndarray
    rises: np.ndarray
    interval: Interval


def profiles(
    layout: Layout,
    points: FitPoints,
    weights: np.ndarray,
    vector: np.ndarray,
    free: np.ndarray,
    settings: FitSettings,
    deviations: Mapping[str, float],
) -> dict[str, Profile]:
    """Profiles of all parameters that a fit of all at once moved.

    weights [P]; vector [K]: the optimum; free bool [K]; deviations: name -> standard deviation of the fitted entry,
    which sets the steps.
    """
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
        moved, values = local_refit(layout, points, np.tile(weights, (len(rows), 1)), moved, held, settings)
        found.append(moved[rows, columns].copy())
        objectives.append(values)
    _, base = local_refit(layout, points, weights[None], vector[None], np.zeros_like(free), settings)
    rises = (np.array(objectives) - base[0]) / threshold(layout, points, weights, vector, free, settings)
    return {
        name: _profile(layout, points, vector, name, np.array(found)[:, 2 * i : 2 * i + 2], rises[:, 2 * i : 2 * i + 2])
        for i, name in enumerate(names)
    }


def threshold(
    layout: Layout,
    points: FitPoints,
    weights: np.ndarray,
    vector: np.ndarray,
    free: np.ndarray,
    settings: FitSettings,
) -> float:
    """Rise of the objective at the end of a 90 % interval of one parameter."""
    predicted, present = predictions(layout, points, vector), weights > 0
    log = settings.residual_of(layout.law) == "log"
    residuals = (np.log(predicted / points.loss) if log else predicted - points.loss)[present]
    count, delta = len(residuals), settings.huber_delta
    scatter = float((np.clip(residuals, -delta, delta) ** 2).sum()) / max(1, count - int(free.sum()))
    curvature = max(float((np.abs(residuals) < delta).mean()), 1 / count)
    return float(stats.chi2.ppf(LEVEL, 1)) / 2 * max(scatter, 1e-300) / curvature


def _profile(
    layout: Layout, points: FitPoints, vector: np.ndarray, name: str, values: np.ndarray, rises: np.ndarray
) -> Profile:
    """From the values and rises [S, 2] on either side of the optimum."""
    column = layout.names.index(name)
    parameter = layout.slots[column][0]
    moved = np.concatenate([values[::-1, 0], [vector[column]], values[:, 1]])
    all_rises = np.concatenate([rises[::-1, 0], [0.0], rises[:, 1]])
    ends = [_closing(vector[column], values[:, side], rises[:, side]) for side in (0, 1)]
    printed = [None if end is None else float(parameter.to_printed(end)) for end in ends]
    if printed[0] is not None:  # an offset that is not told from zero does not close below
        draws = np.full(2, printed[0])
        printed[0] = parameter_interval(parameter, printed[0], draws, float(points.loss.min())).low
    return Profile(parameter.to_printed(moved), all_rises, Interval(printed[0], printed[1]))


def _closing(start: float, values: np.ndarray, rises: np.ndarray) -> float | None:
    """Where the rise reaches one, between the last value below and the first above; None where it never does."""
    above = np.flatnonzero(rises >= 1)
    if not len(above):
        return None
    first = int(above[0])
    low, low_rise = (values[first - 1], rises[first - 1]) if first else (start, 0.0)
    # Rises grow with the square of the distance near the optimum, so their roots are interpolated.
    left, right = np.sqrt(max(low_rise, 0.0)), np.sqrt(rises[first])
    return float(low + (values[first] - low) * (1 - left) / (right - left))
