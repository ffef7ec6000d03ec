"""Profile region of the laws L = A / x^exponent + E that are compatible with a few points.

A law is in the region where its sum of squares is at most that of the best one times 1 + F / (n - 3), F being the 90 %
quantile of the F distribution with 1 and n - 3 degrees of freedom (Bates and Watts 1988, chapter 6). The range of a
parameter, or of a prediction, over the region is its profile interval. With about five points a bootstrap is
unreliable. Given the exponent the law is linear and the region an ellipse in closed form, so that only the exponent is
searched over a grid.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from finetune_scaling.laws.uncertainty.intervals import LEVEL, Interval

PARAMETERS = 3
EXPONENTS = (0.003, 6.0)  # searched range; an interval that reaches an end is open
GRID = 1000
SHARES = (1 - np.cos(np.linspace(0, np.pi, 9))) / 2  # positions within an interval of E at which laws are sampled


@dataclass(frozen=True)
class ProfileRegion:
    """Laws sampled on the boundary of the region.

    exponents, offsets (E), logs (log A): [M] each; exponent, offset: intervals.
    """

    exponents: np.ndarray
    offsets: np.ndarray
    logs: np.ndarray
    exponent: Interval
    offset: Interval

    @property
    def coefficient(self) -> Interval:
        """The interval of A; open where the interval of the exponent, with which it is correlated, is open."""
        if self.exponent.low is None or self.exponent.high is None:
            return Interval(None, None)
        return Interval(float(np.exp(self.logs.min())), float(np.exp(self.logs.max())))

    def predictions(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the lowest and the highest loss [N] that the laws of the region predict at x [N]."""
        losses = np.exp(self.logs[:, None] - self.exponents[:, None] * np.log(x)) + self.offsets[:, None]
        return losses.min(axis=0), losses.max(axis=0)


def profile_region(x: np.ndarray, loss: np.ndarray) -> ProfileRegion:
    """Return the region of at least four points x [P], loss [P]."""
    logs = np.log(x) - np.log(x).mean()
    wide = np.geomspace(*EXPONENTS, GRID)
    left = np.flatnonzero(_Profile(wide, logs, loss).inside)
    fine = np.geomspace(wide[max(left[0] - 1, 0)], wide[min(left[-1] + 1, GRID - 1)], GRID)
    fine = fine[_Profile(fine, logs, loss).inside]
    offsets, scales = _Profile(fine, logs, loss).members()
    exponents = np.broadcast_to(fine, offsets.shape)
    is_closed = left[-1] < GRID - 1
    return ProfileRegion(
        exponents=exponents.ravel(),
        offsets=offsets.ravel(),
        logs=(np.log(scales) + exponents * np.log(x).mean()).ravel(),
        exponent=Interval(float(fine[0]) if left[0] > 0 else None, float(fine[-1]) if is_closed else None),
        offset=Interval(float(offsets.min()) or None, float(offsets.max()) if is_closed else None),
    )


class _Profile:
    """The sum of squares at each of several exponents [X], a paraboloid in E and the coefficient (of centered log x).

    s = min_squares + curvature (E - best)^2 + norm (scale - best scale of E)^2, E not below zero.
    """

    def __init__(self, exponents: np.ndarray, logs: np.ndarray, loss: np.ndarray):
        shapes = np.exp(-exponents[:, None] * logs)  # [X, P]
        self.sums, self.norm, self.products = shapes.sum(axis=1), (shapes**2).sum(axis=1), shapes @ loss
        self.curvature = len(loss) - self.sums**2 / self.norm
        self.best = (loss.sum() - self.sums * self.products / self.norm) / self.curvature
        fitted = self._scale(self.best)[:, None] * shapes + self.best[:, None]
        min_squares = ((fitted - loss) ** 2).sum(axis=1)
        degrees = len(loss) - PARAMETERS
        allowed = (min_squares + self.curvature * np.minimum(self.best, 0) ** 2).min()
        self.slack = allowed * (1 + stats.f.ppf(LEVEL, 1, degrees) / degrees) - min_squares

    @property
    def inside(self) -> np.ndarray:
        """Whether an exponent has some acceptable E [X]."""
        return (self.slack >= 0) & (self.best + np.sqrt(np.maximum(self.slack, 0) / self.curvature) >= 0)

    def members(self) -> tuple[np.ndarray, np.ndarray]:
        """Return offsets and coefficients [M, X] on the boundary of the region at each exponent."""
        half_width = np.sqrt(np.maximum(self.slack, 0) / self.curvature)
        low, high = np.maximum(self.best - half_width, 0), self.best + half_width
        offsets = low + SHARES[:, None] * (high - low)
        scale_half_width = np.sqrt(np.maximum(self.slack - self.curvature * (offsets - self.best) ** 2, 0) / self.norm)
        scales = self._scale(offsets)
        some = np.concatenate([scales - scale_half_width, scales + scale_half_width])
        return np.concatenate([offsets, offsets]), np.maximum(some, np.finfo(float).tiny)

    def _scale(self, offsets: np.ndarray) -> np.ndarray:
        return (self.products - self.sums * offsets) / self.norm
