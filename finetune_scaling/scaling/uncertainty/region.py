"""Which laws L = A / x^exponent + E a few points cannot rule out: their profile region.

A law is in the region where its sum of squares is at most that of the best one times 1 + F / (n - 3), F being the 90 %
quantile of the F distribution with 1 and n - 3 degrees of freedom (Bates and Watts 1988, chapter 6). What the region
spans in a parameter, or in a prediction, is its profile interval. With five points a bootstrap would redraw the same
two or three, and say too little. Given the exponent the law is linear, and the floors that are acceptable with it an
interval in closed form, so that only the exponent is searched over a grid.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from finetune_scaling.scaling.uncertainty.intervals import LEVEL, Interval

PARAMETERS = 3
EXPONENTS = (0.003, 6.0)  # what is searched; an interval that reaches an end does not close
GRID = 1000
SHARES = np.linspace(0, 1, 9)  # of an interval of floors, whose laws stand for it


@dataclass(frozen=True)
class Region:
    """Laws that are not ruled out, [M] each: exponents, floors E, log A; floor and exponent: their intervals."""

    exponents: np.ndarray
    floors: np.ndarray
    logs: np.ndarray
    exponent: Interval
    floor: Interval

    @property
    def coefficient(self) -> Interval:
        """The interval of A; open where that of the exponent, which it goes with, is."""
        if self.exponent.low is None or self.exponent.high is None:
            return Interval(None, None)
        return Interval(float(np.exp(self.logs.min())), float(np.exp(self.logs.max())))

    def predictions(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Least and greatest loss [N] that the laws of the region predict at x [N]."""
        losses = np.exp(self.logs[:, None] - self.exponents[:, None] * np.log(x)) + self.floors[:, None]
        return losses.min(axis=0), losses.max(axis=0)


def region(x: np.ndarray, loss: np.ndarray) -> Region:
    """The region of points x [P], loss [P], at least four of them."""
    logs = np.log(x) - np.log(x).mean()
    wide = np.geomspace(*EXPONENTS, GRID)
    low, high = _floors(wide, logs, loss)
    left = np.flatnonzero(low <= high)
    fine = np.geomspace(wide[max(left[0] - 1, 0)], wide[min(left[-1] + 1, GRID - 1)], GRID)
    low, high = _floors(fine, logs, loss)
    inside = low <= high
    exponents = np.broadcast_to(fine[inside], (len(SHARES), inside.sum()))
    floors = low[inside] + SHARES[:, None] * (high - low)[inside]
    scales = _scales(fine[inside], logs, loss, floors)
    ends = fine[inside][[0, -1]]
    return Region(
        exponents=exponents.ravel(),
        floors=floors.ravel(),
        logs=(np.log(scales) + exponents * np.log(x).mean()).ravel(),
        exponent=Interval(float(ends[0]) if left[0] > 0 else None, float(ends[1]) if left[-1] < GRID - 1 else None),
        floor=Interval(float(floors.min()) or None, float(floors.max()) if left[-1] < GRID - 1 else None),
    )


def _floors(exponents: np.ndarray, logs: np.ndarray, loss: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The least and greatest acceptable E [X] with each exponent [X], none below zero; least > greatest where none is.

    The sum of squares is a parabola in E, the coefficient being at its best: s = least + curvature (E - best)^2.
    """
    shapes = np.exp(-exponents[:, None] * logs)  # [X, P]
    sums, norms = shapes.sum(axis=1), (shapes**2).sum(axis=1)
    curvature = len(loss) - sums**2 / norms
    best = (loss.sum() - sums * (shapes @ loss) / norms) / curvature
    least = ((_scales(exponents, logs, loss, best)[:, None] * shapes + best[:, None] - loss) ** 2).sum(axis=1)
    allowed = least + curvature * np.minimum(best, 0) ** 2
    degrees = len(loss) - PARAMETERS
    bound = allowed.min() * (1 + stats.f.ppf(LEVEL, 1, degrees) / degrees)
    reach = np.sqrt(np.maximum(bound - least, 0) / curvature)
    high = np.where(bound >= least, best + reach, -1.0)
    return np.maximum(best - reach, 0.0), high


def _scales(exponents: np.ndarray, logs: np.ndarray, loss: np.ndarray, floors: np.ndarray) -> np.ndarray:
    """The best coefficient [..., X] of each exponent [X] and floor [..., X], of x in units of its geometric mean."""
    shapes = np.exp(-exponents[:, None] * logs)
    return (shapes @ loss - shapes.sum(axis=1) * floors) / (shapes**2).sum(axis=1)
