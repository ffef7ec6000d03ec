"""Refits of a law to bootstrap and jackknife replicates that vary as much as fits from the full grid of starts.

A local refit from the fitted optimum is cheap but varies too little, for three reasons: the kinks of a small Huber
delta hold it back, offsets neither reach zero nor leave it, and it stays in the nearest of many optima.
"""

from dataclasses import dataclass, replace

import numpy as np

from finetune_scaling.laws.fitting.huber_fit import FitProblem, local_refit

# The Huber delta of the smoothed objective, in root mean square residuals.
SMOOTH = 4.0
# Offsets as shares of the least response: the least start; below which a refitted offset is also tried at zero; and
# the value used for zero.
LIFT = 0.02
SMALL = 0.1
ZERO = 1e-6
# Rounds of new starts per refit: after 3 the replicates vary as they do after 24, within 4 %; and the share of their
# standard deviation by which a round has to move them for another to follow.
HOPS = 3
MOVES = 0.01

Refits = tuple[np.ndarray, np.ndarray]  # vectors [W, K] and their objectives [W]


def refit_replicates(
    problem: FitProblem,
    weights: np.ndarray,
    vectors: np.ndarray,
    free: np.ndarray,
    scale: float,
    losses: np.ndarray | None = None,
) -> Refits:
    """Refit a law from optima of other weights or losses, as local_refit does: vectors [W, K] and objectives [W].

    scale: root mean square residual of the fit (residual_scale), which sets the delta of the smoothed objective.
    """
    losses = np.broadcast_to(problem.points.loss if losses is None else losses, weights.shape)
    batch = _Batch(problem, weights, losses, np.broadcast_to(free, vectors.shape), scale)
    return _hopped(batch, _with_offsets_at_zero(batch, batch.refit_smoothed(batch.lifted(vectors))))


@dataclass(frozen=True)
class _Batch:
    """W refits of one problem: weights, losses [W, P], free bool [W, K]."""

    problem: FitProblem
    weights: np.ndarray
    losses: np.ndarray
    free: np.ndarray
    scale: float

    def rows(self, rows: np.ndarray, free: np.ndarray) -> "_Batch":
        """Return some of the refits, with other parameters free."""
        return replace(self, weights=self.weights[rows], losses=self.losses[rows], free=free)

    def refit(self, starts: np.ndarray) -> Refits:
        """Return the optima nearest to starts [W, K]."""
        return local_refit(self.problem, self.weights, starts, self.free, self.losses)

    def refit_smoothed(self, starts: np.ndarray) -> Refits:
        """Return the optima reached from those of a smoothed (nearly least-squares) objective, which has no kinks."""
        settings = self.problem.settings
        wide = replace(settings, huber_delta=max(settings.huber_delta, SMOOTH * self.scale))
        return self.refit(replace(self, problem=replace(self.problem, settings=wide)).refit(starts)[0])

    def lifted(self, vectors: np.ndarray) -> np.ndarray:
        """Return vectors [W, K] with offsets raised to at least LIFT of the least response.

        The gradient with respect to an offset's logarithm vanishes with the offset, so no descent leaves zero.
        """
        return np.where(self.offsets, np.maximum(vectors, self.log_share(LIFT)), vectors)

    @property
    def offsets(self) -> np.ndarray:
        """Return which parameters are offsets: bool [K]."""
        return np.array([parameter.is_offset for parameter, _ in self.problem.layout.slots])

    def log_share(self, share: float) -> float:
        """Return the logarithm of a share of the least response."""
        return float(np.log(max(share * self.problem.points.loss.min(), np.finfo(float).tiny)))


def _with_offsets_at_zero(batch: _Batch, found: Refits) -> Refits:
    """Set small offsets to zero where that is better: a descent slows down on the way there."""
    offsets = batch.offsets & batch.free
    rows = np.flatnonzero((offsets & (found[0] < batch.log_share(SMALL))).any(axis=1))
    if not len(rows):
        return found
    at_zero = np.where(offsets[rows], batch.log_share(ZERO), found[0][rows])
    vectors, values = (array.copy() for array in found)
    vectors[rows], values[rows] = _better(
        (vectors[rows], values[rows]), batch.rows(rows, batch.free[rows] & ~batch.offsets).refit_smoothed(at_zero)
    )
    return vectors, values


def _hopped(batch: _Batch, found: Refits) -> Refits:
    """Improve refits in rounds of new starts, moved by differences of other refits (as multistart_optima does).

    A fit takes the best of many optima along a flat direction; the nearest one would vary less.
    """
    random = np.random.default_rng(0)
    for _ in range(HOPS):
        vectors, count = found[0], len(found[0])
        left, right = random.integers(count, size=(2, count))
        moves = random.uniform(0.2, 1.0, (count, 1)) * (vectors[left] - vectors[right])
        found = _better(found, batch.refit(vectors + moves * batch.free))
        moved = np.sqrt(np.mean((found[0] - vectors) ** 2, axis=0))
        if (moved <= MOVES * vectors.std(axis=0)).all():  # no flat direction with many optima
            break
    return found


def _better(first: Refits, second: Refits) -> Refits:
    """Return, for each row, the refit with the lower objective."""
    second_wins = second[1] < first[1]
    return np.where(second_wins[:, None], second[0], first[0]), np.where(second_wins, second[1], first[1])
