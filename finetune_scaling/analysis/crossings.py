"""Every crossing of two curves over the number of examples, of many pairs of curves at once.

The difference is looked at on a log grid, every change of its sign is bisected, and where it comes close to zero
without changing sign the extremum is searched first, so that two roots within one step of the grid are found too.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

GRID = 400
BISECTIONS = 40  # a step of the grid is below .07 in log D; halved so often it is below 1e-13
GOLDEN = (math.sqrt(5) - 1) / 2
GOLDEN_STEPS = 45
# difference(pair, examples) -> first curve minus second; pair numbers the curves, both broadcast against each other.
Difference = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Crossings:
    """Crossings of pairs of curves, in order of the pair, then of the place.

    pair [N]: which pair; examples [N]: where; rising [N]: whether the difference goes from below zero to above.
    """

    pair: np.ndarray
    examples: np.ndarray
    rising: np.ndarray

    def of(self, pair: int) -> list[float]:
        """Places of one pair, in order."""
        return [float(place) for place in self.examples[self.pair == pair]]

    def kind(self, pairs: int, rising: bool, rank: int) -> np.ndarray:
        """Of each pair [pairs] the place of its crossing number `rank` of one direction; NaN where it has none."""
        found = np.full(pairs, np.nan)
        chosen = self.rising == rising
        pair, examples = self.pair[chosen], self.examples[chosen]
        first = np.searchsorted(pair, np.arange(pairs))
        there = first + rank < np.searchsorted(pair, np.arange(pairs), side="right")
        found[there] = examples[first[there] + rank]
        return found


def crossings(difference: Callable[[np.ndarray], np.ndarray], low: float, high: float) -> list[float]:
    """Every root of difference(D) for D in [low, high], in order."""
    return many_crossings(lambda _, examples: difference(examples), 1, low, high).of(0)


def many_crossings(difference: Difference, pairs: int, low: float, high: float) -> Crossings:
    """Every crossing of each of the pairs for examples in [low, high]; a touch of zero without a crossing is none."""
    logs = np.broadcast_to(np.linspace(math.log(low), math.log(high), GRID), (pairs, GRID))
    values = _at(difference, logs)
    extra = _extrema(difference, logs, values)
    if extra.shape[1]:
        logs = np.sort(np.concatenate([logs, extra], axis=1), axis=1)
        values = _at(difference, logs)
    signs = _signs(values)
    pair, place = np.nonzero(signs[:, :-1] * signs[:, 1:] < 0)
    left, right, rising = logs[pair, place], logs[pair, place + 1], signs[pair, place] < 0
    return Crossings(pair, np.exp(_bisect(difference, pair, left, right, rising)), rising)


def _at(difference: Difference, logs: np.ndarray) -> np.ndarray:
    """The difference at places [pairs, N] of every pair."""
    return difference(np.arange(len(logs))[:, None], np.exp(logs))


def _signs(values: np.ndarray) -> np.ndarray:
    """Signs along the last axis, those of exact zeros taken from the value before (at the start, after)."""
    signs = np.sign(values)
    if signs.all():
        return signs
    for place in range(1, signs.shape[1]):
        signs[:, place] = np.where(signs[:, place] == 0, signs[:, place - 1], signs[:, place])
    for place in range(signs.shape[1] - 2, -1, -1):
        signs[:, place] = np.where(signs[:, place] == 0, signs[:, place + 1], signs[:, place])
    return signs


def _bisect(
    difference: Difference, pair: np.ndarray, left: np.ndarray, right: np.ndarray, rising: np.ndarray
) -> np.ndarray:
    for _ in range(BISECTIONS if len(pair) else 0):
        middle = (left + right) / 2
        before = (difference(pair, np.exp(middle)) < 0) == rising
        left, right = np.where(before, middle, left), np.where(before, right, middle)
    return (left + right) / 2


def _extrema(difference: Difference, logs: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Where |difference| has a minimum of its own between grid points of one sign: [pairs, N], repeated to fill up."""
    size, sign = np.abs(values), np.sign(values)
    closest = (size[:, 1:-1] <= size[:, :-2]) & (size[:, 1:-1] <= size[:, 2:])
    same = (sign[:, :-2] == sign[:, 1:-1]) & (sign[:, 1:-1] == sign[:, 2:]) & (sign[:, 1:-1] != 0)
    pair, place = np.nonzero(closest & same)
    if not len(pair):
        return np.empty((len(logs), 0))
    low, high, at = logs[pair, place], logs[pair, place + 2], sign[pair, place + 1]
    for _ in range(GOLDEN_STEPS):
        inner, outer = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        first = at * difference(pair, np.exp(inner)) < at * difference(pair, np.exp(outer))
        low, high = np.where(first, low, inner), np.where(first, outer, high)
    number = np.arange(len(pair)) - np.searchsorted(pair, pair)  # of the pair's own extrema
    found = np.repeat(logs[:, :1], number.max() + 1, axis=1)
    found[pair, number] = (low + high) / 2
    return found
