"""All crossings of two curves over the number of examples, for many pairs of curves at the same time.

The difference is evaluated on a log grid, and a root is found in every interval where its sign changes. Where its
absolute value has a minimum without a change of sign, that minimum is searched first, so that two roots within one step
of the grid are found too.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import elementwise

GRID = 400
# difference(pair, examples) -> first curve minus second; pair is the index of the curves; both are broadcast.
Difference = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Crossings:
    """Crossings of pairs of curves, ordered by pair, then by number of examples.

    pair [N]: which pair; examples [N]: where; rising [N]: whether the difference changes from negative to positive.
    """

    pair: np.ndarray
    examples: np.ndarray
    rising: np.ndarray

    def of_direction(self, pairs: int, rising: bool, rank: int) -> np.ndarray:
        """Return each pair's [pairs] crossing number `rank` of one direction; NaN where it has none."""
        found = np.full(pairs, np.nan)
        chosen = self.rising == rising
        pair, examples = self.pair[chosen], self.examples[chosen]
        first = np.searchsorted(pair, np.arange(pairs))
        exists = first + rank < np.searchsorted(pair, np.arange(pairs), side="right")
        found[exists] = examples[first[exists] + rank]
        return found


def find_crossings(difference: Difference, pairs: int, low: float, high: float) -> Crossings:
    """Return every crossing of each pair for examples in [low, high]; touching zero is no crossing."""
    logs = np.broadcast_to(np.linspace(math.log(low), math.log(high), GRID), (pairs, GRID))
    values = _evaluate(difference, logs)
    minima = _minima(difference, logs, values)
    if minima.shape[1]:
        logs = np.sort(np.concatenate([logs, minima], axis=1), axis=1)
        values = _evaluate(difference, logs)
    signs = _signs(values)
    pair, step = np.nonzero(signs[:, :-1] * signs[:, 1:] < 0)
    if not len(pair):
        return Crossings(pair, np.empty(0), np.empty(0, bool))
    ends = logs[pair, step], logs[pair, step + 1]
    roots = elementwise.find_root(lambda log, index: difference(index, np.exp(log)), ends, args=(pair,))
    return Crossings(pair, np.exp(roots.x), signs[pair, step] < 0)


def _evaluate(difference: Difference, logs: np.ndarray) -> np.ndarray:
    """Return the difference of every pair at the logs [pairs, N] of numbers of examples."""
    return difference(np.arange(len(logs))[:, None], np.exp(logs))


def _signs(values: np.ndarray) -> np.ndarray:
    """Return signs along the last axis; exact zeros take the sign of the value before (at the start, after)."""
    signs = np.sign(values)
    if signs.all():
        return signs
    return pd.DataFrame(signs).replace(0, np.nan).ffill(axis=1).bfill(axis=1).to_numpy()


def _minima(difference: Difference, logs: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the minima [pairs, N] of |difference| between grid points of one sign, padded with a grid point."""
    size, sign = np.abs(values), np.sign(values)
    least = (size[:, 1:-1] <= size[:, :-2]) & (size[:, 1:-1] <= size[:, 2:])
    same = (sign[:, :-2] == sign[:, 1:-1]) & (sign[:, 1:-1] == sign[:, 2:]) & (sign[:, 1:-1] != 0)
    pair, step = np.nonzero(least & same)
    if not len(pair):
        return np.empty((len(logs), 0))
    brackets = logs[pair, step], logs[pair, step + 1], logs[pair, step + 2]
    minima = elementwise.find_minimum(
        lambda log, index, sign: sign * difference(index, np.exp(log)), brackets, args=(pair, sign[pair, step + 1])
    )
    number = np.arange(len(pair)) - np.searchsorted(pair, pair)  # of minima of the same pair
    found = np.repeat(logs[:, :1], number.max() + 1, axis=1)
    found[pair, number] = minima.x
    return found
