"""Probabilistic programs: they call `choose(distribution) -> category` for every free choice.

One program generates each kind of text (a sentence, a summary). With a Sampler it generates a random text with its
exact negative log-probability.
"""

import functools
import itertools
import math
import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import NamedTuple


class Distribution(NamedTuple):
    """A categorical distribution over 0..n-1.

    cumulative: cumulative probabilities; the last is infinite, so that rounding leaves no gap.
    nlls: negative log-probabilities, in nats.
    """

    cumulative: tuple[float, ...]
    nlls: tuple[float, ...]

    def sample(self, stream: random.Random) -> int:
        """Sample a category, which always has positive probability."""
        return bisect_right(self.cumulative, stream.random())


Choose = Callable[[Distribution], int]


def distribution(weights: Sequence[float]) -> Distribution:
    """Return the distribution proportional to `weights`."""
    total = math.fsum(weights)
    probabilities = [weight / total for weight in weights]
    # The rounding gap at the end belongs to the last category with positive probability.
    last = max(category for category, p in enumerate(probabilities) if p)
    sums = tuple(itertools.accumulate(probabilities))[:last] + (math.inf,) * (len(probabilities) - last)
    return Distribution(sums, tuple(-math.log(p) if p else math.inf for p in probabilities))


@functools.cache
def geometric(size: int, ratio: float) -> Distribution:
    """Return the distribution with weights 1, ratio, ratio^2, ..., ratio^(size - 1)."""
    return distribution([ratio**category for category in range(size)])


@functools.cache
def bernoulli(probability: float) -> Distribution:
    """Return the distribution of 1 with `probability`, 0 otherwise."""
    return distribution([1 - probability, probability])


class Sampler:
    """Samples choices, and sums their negative log-probabilities (nats) in `nll`."""

    def __init__(self, stream: random.Random):
        self._stream = stream
        self.nll = 0.0

    def __call__(self, distribution: Distribution) -> int:
        category = distribution.sample(self._stream)
        self.nll += distribution.nlls[category]
        return category
