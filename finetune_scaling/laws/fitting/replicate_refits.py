"""Refits of a law to bootstrap and jackknife replicates that vary as much as fits from the full grid of starts.

A local refit from the fitted optimum is cheap but varies too little, for three reasons: the kinks of a small Huber
delta hold it back, offsets neither reach zero nor leave it, and it stays in the nearest of many optima.
"""

from dataclasses import replace

import numpy as np

from finetune_scaling.laws.fitting.huber_fit import FitBatch, local_refit

# The Huber delta of the smoothed objective, in root mean square residuals.
SMOOTH = 4.0
# Offsets as shares of the lowest response: the lowest start, the value below which a refitted offset is also tried at
# zero, and the value used for zero.
LIFT = 0.02
SMALL = 0.1
ZERO = 1e-6
# Rounds of new starts per refit: after 3 the replicates vary as they do after 24, within 4 %; and the share of their
# standard deviation by which a round has to move them for another to follow.
HOPS = 3
MOVES = 0.01

Refits = tuple[np.ndarray, np.ndarray]  # vectors [W, K] and their objectives [W]


def refit_replicates(batch: FitBatch, vectors: np.ndarray, scale: float | None = None) -> Refits:
    """Refit a law from optima [W, K] of other weights or losses, as local_refit does.

    scale: root mean square residual, by default of the first vector; it sets the delta of the smoothed objective.
    """
    if scale is None:
        scale = float(np.sqrt(np.mean(batch.problem.residuals(vectors[0]) ** 2)))
    # The gradient with respect to an offset's logarithm vanishes with the offset, so no descent leaves zero.
    lifted = np.where(_offsets(batch), np.maximum(vectors, _log_share(batch, LIFT)), vectors)
    return _hopped(batch, _with_offsets_at_zero(batch, _refit_smoothed(batch, lifted, scale), scale))


def _refit_smoothed(batch: FitBatch, starts: np.ndarray, scale: float) -> Refits:
    """Return the optima reached from the optima of a smoothed (nearly least-squares) objective, without kinks."""
    settings = batch.problem.settings
    wide = replace(settings, huber_delta=max(settings.huber_delta, SMOOTH * scale))
    smoothed = replace(batch, problem=replace(batch.problem, settings=wide))
    return local_refit(batch, local_refit(smoothed, starts)[0])


def _offsets(batch: FitBatch) -> np.ndarray:
    """Return which parameters are offsets: bool [K]."""
    return np.array([parameter.is_offset for parameter, _ in batch.problem.layout.slots])


def _log_share(batch: FitBatch, share: float) -> float:
    """Return the logarithm of a share of the lowest response."""
    return float(np.log(max(share * batch.problem.points.loss.min(), np.finfo(float).tiny)))


def _with_offsets_at_zero(batch: FitBatch, found: Refits, scale: float) -> Refits:
    """Set small offsets to zero where that is better: a descent slows down on the way there."""
    offsets = _offsets(batch) & batch.free
    rows = np.flatnonzero((offsets & (found[0] < _log_share(batch, SMALL))).any(axis=1))
    if not len(rows):
        return found
    at_zero = np.where(offsets[rows], _log_share(batch, ZERO), found[0][rows])
    others = batch.rows(rows)
    others = replace(others, free=others.free & ~offsets[rows])
    vectors, values = (array.copy() for array in found)
    vectors[rows], values[rows] = _better((vectors[rows], values[rows]), _refit_smoothed(others, at_zero, scale))
    return vectors, values


def _hopped(batch: FitBatch, found: Refits) -> Refits:
    """Improve refits in rounds of new starts, moved by differences of other refits (as multistart_optima does).

    A fit takes the best of many optima along a flat direction; the nearest one would vary less.
    """
    random = np.random.default_rng(0)
    for _ in range(HOPS):
        vectors, count = found[0], len(found[0])
        left, right = random.integers(count, size=(2, count))
        moves = random.uniform(0.2, 1.0, (count, 1)) * (vectors[left] - vectors[right])
        found = _better(found, local_refit(batch, vectors + moves * batch.free))
        moved = np.sqrt(np.mean((found[0] - vectors) ** 2, axis=0))
        if (moved <= MOVES * vectors.std(axis=0)).all():  # no flat direction with many optima
            break
    return found


def _better(first: Refits, second: Refits) -> Refits:
    """Return, for each row, the refit with the lower objective."""
    second_wins = second[1] < first[1]
    return np.where(second_wins[:, None], second[0], first[0]), np.where(second_wins, second[1], first[1])
