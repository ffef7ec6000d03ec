"""Probabilistic programs: they call `choose(distribution) -> category`, which samples, replays or enumerates choices.

One program generates each kind of text (a sentence, a summary). With a Sampler it generates a random text with its
exact negative log-probability; `outcomes` enumerates all texts with their probabilities.
"""

import functools
import itertools
import math
import random
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol, TypeVar

T = TypeVar("T")


class Distribution(NamedTuple):
    """A categorical distribution over 0..n-1. Category 0 always has positive probability.

    cumulative: cumulative probabilities; the last is infinite, so that rounding leaves no gap.
    nlls: negative log-probabilities, in nats. entropy: in nats.
    """

    probabilities: tuple[float, ...]
    cumulative: tuple[float, ...]
    nlls: tuple[float, ...]
    entropy: float


class Choose(Protocol):
    """Returns a category of a distribution."""

    def __call__(self, distribution: Distribution, /) -> int: ...


def distribution(weights: Sequence[float]) -> Distribution:
    """Return the distribution proportional to `weights`; the first must be positive."""
    total = math.fsum(weights)
    probabilities = tuple(weight / total for weight in weights)
    nlls = tuple(-math.log(p) if p else math.inf for p in probabilities)
    entropy = math.fsum(p * nll for p, nll in zip(probabilities, nlls, strict=True) if p)
    # The rounding gap at the end belongs to the last category with positive probability.
    last = max(category for category, p in enumerate(probabilities) if p)
    sums = tuple(itertools.accumulate(probabilities))[:last] + (math.inf,) * (len(probabilities) - last)
    return Distribution(probabilities, sums, nlls, entropy)


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
        self._random = stream.random
        self.nll = 0.0

    def __call__(self, distribution: Distribution, /) -> int:
        category = bisect_right(distribution.cumulative, self._random())
        self.nll += distribution.nlls[category]
        return category


class Replay:
    """Replays the choices of `script`, then chooses 0; records the path, its distributions and its nll (nats)."""

    def __init__(self, script: Sequence[int]):
        self._script = script
        self.path: list[int] = []
        self.distributions: list[Distribution] = []
        self.nll = 0.0

    def __call__(self, distribution: Distribution, /) -> int:
        step = len(self.path)
        category = self._script[step] if step < len(self._script) else 0
        self.path.append(category)
        self.distributions.append(distribution)
        self.nll += distribution.nlls[category]
        return category


def outcomes(program: Callable[[Choose], T]) -> Iterator[tuple[T, float]]:
    """Yield every result of `program(choose)` with the negative log-probability (nats) of its choices."""
    scripts: list[list[int]] = [[]]
    while scripts:
        script = scripts.pop()
        replay = Replay(script)
        yield program(replay), replay.nll
        for step in range(len(script), len(replay.path)):
            probabilities = replay.distributions[step].probabilities
            possible = [category for category in range(1, len(probabilities)) if probabilities[category] > 0]
            scripts += [[*replay.path[:step], category] for category in possible]
