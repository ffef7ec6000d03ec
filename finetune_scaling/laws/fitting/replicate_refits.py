"""Refits of a law to other weights or losses than it was fitted to, that vary as much as fits from all starts would.

A refit from the fitted optimum is cheap, and too sure of itself in three ways: the kinks of a small Huber delta hold
it back, an offset does not come down to zero, or up from it, and it stays in the nearest of many optima.
"""

from dataclasses import dataclass, replace

import numpy as np

from finetune_scaling.laws.fitting.huber_fit import FitPoints, FitSettings, local_refit
from finetune_scaling.laws.forms.declared import Layout

# Root mean square residuals within which a Huber loss is smooth.
SMOOTH = 4.0
# Offsets as shares of the least response: the least that is refitted from, below which a refitted one is tried at zero,
# and what stands for zero.
LIFT = 0.02
SMALL = 0.1
VANISHED = 1e-6
# Turns of new starts of every refit: after 3 the draws vary as they do after 24, within 4 %; and the share of their
# standard deviation by which a turn has to move them for another to be worth it.
HOPS = 3
MOVES = 0.01

Refits = tuple[np.ndarray, np.ndarray]  # vectors [W, K] and their objectives [W]


def refit_replicates(
    layout: Layout,
    points: FitPoints,
    weights: np.ndarray,
    vectors: np.ndarray,
    free: np.ndarray,
    settings: FitSettings,
    scatter: float,
    losses: np.ndarray | None = None,
) -> Refits:
    """As `refit`, from optima of other weights or losses: vectors [W, K] and objectives [W].

    scatter: root mean square residual (scatter_about), within a few of which a Huber loss is made smooth.
    """
    losses = np.broadcast_to(points.loss if losses is None else losses, weights.shape)
    problem = _Problem(layout, points, weights, losses, np.broadcast_to(free, vectors.shape), settings, scatter)
    return _hopped(problem, _tried_at_zero(problem, problem.smoothly(problem.lifted(vectors))))


@dataclass(frozen=True)
class _Problem:
    """W problems of one law side by side: weights, losses [W, P], free bool [W, K]."""

    layout: Layout
    points: FitPoints
    weights: np.ndarray
    losses: np.ndarray
    free: np.ndarray
    settings: FitSettings
    scatter: float

    def rows(self, rows: np.ndarray, free: np.ndarray) -> "_Problem":
        """Some of the problems, with other parameters free."""
        return replace(self, weights=self.weights[rows], losses=self.losses[rows], free=free)

    def nearest(self, starts: np.ndarray) -> Refits:
        """The optima next to starts [W, K]."""
        return local_refit(self.layout, self.points, self.weights, starts, self.free, self.settings, self.losses)

    def smoothly(self, starts: np.ndarray) -> Refits:
        """Optima by way of those of least squares, which have no kinks before them."""
        wide = replace(self.settings, huber_delta=max(self.settings.huber_delta, SMOOTH * self.scatter))
        return self.nearest(replace(self, settings=wide).nearest(starts)[0])

    def lifted(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors [W, K] whose offsets are no smaller than LIFT of the least response.

        The slope of an offset's logarithm is the offset itself, which no descent follows once it has all but vanished.
        """
        return np.where(self.offsets, np.maximum(vectors, self.log_share(LIFT)), vectors)

    @property
    def offsets(self) -> np.ndarray:
        """Which parameters are offsets: bool [K]."""
        return np.array([parameter.is_offset for parameter, _ in self.layout.slots])

    def log_share(self, share: float) -> float:
        """The logarithm of a share of the least response."""
        return float(np.log(max(share * self.points.loss.min(), np.finfo(float).tiny)))


def _tried_at_zero(problem: _Problem, found: Refits) -> Refits:
    """Refits whose small offsets are zero where that is better: a descent slows down on the way there."""
    offsets = problem.offsets & problem.free
    rows = np.flatnonzero((offsets & (found[0] < problem.log_share(SMALL))).any(axis=1))
    if not len(rows):
        return found
    vanished = np.where(offsets[rows], problem.log_share(VANISHED), found[0][rows])
    vectors, values = (array.copy() for array in found)
    vectors[rows], values[rows] = _better(
        (vectors[rows], values[rows]), problem.rows(rows, problem.free[rows] & ~problem.offsets).smoothly(vanished)
    )
    return vectors, values


def _hopped(problem: _Problem, found: Refits) -> Refits:
    """Refits after turns of new starts: moved by differences of others, which point along a flat valley (as `optima`).

    A fit takes the best of many optima along it; the nearest one alone would vary less than that does.
    """
    random = np.random.default_rng(0)
    for _ in range(HOPS):
        vectors, count = found[0], len(found[0])
        left, right = random.integers(count, size=(2, count))
        moves = random.uniform(0.2, 1.0, (count, 1)) * (vectors[left] - vectors[right])
        found = _better(found, problem.nearest(vectors + moves * problem.free))
        moved = np.sqrt(np.mean((found[0] - vectors) ** 2, axis=0))
        if (moved <= MOVES * vectors.std(axis=0)).all():  # no valley with optima of its own
            break
    return found


def _better(first: Refits, second: Refits) -> Refits:
    """Row by row the one with the lower objective."""
    second_wins = second[1] < first[1]
    return np.where(second_wins[:, None], second[0], first[0]), np.where(second_wins, second[1], first[1])
