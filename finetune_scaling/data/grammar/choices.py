"""Stochastic choices: programs ask `choose(distribution) -> arm`; the answer samples, replays or enumerates.

Text is written by one program per kind (a sentence, a summary). A Sampler makes it a random text whose exact
negative log-probability is known; `outcomes` makes it the list of all texts with their probabilities.
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
    """A distribution over arms 0..n-1. The first arm always has positive probability.

    Attributes:
      probabilities: of the arms.
      cumulative: their running sums; the last is infinite, so that rounding leaves no gap at its end.
      nlls: -log probability of the arms, in nats.
      entropy: in nats.
    """

    probabilities: tuple[float, ...]
    cumulative: tuple[float, ...]
    nlls: tuple[float, ...]
    entropy: float


class Choose(Protocol):
    """Answers a choice with the number of an arm."""

    def __call__(self, distribution: Distribution, /) -> int: ...


def distribution(weights: Sequence[float]) -> Distribution:
    """Normalizes `weights` (the first above 0) into a Distribution."""
    total = math.fsum(weights)
    probabilities = tuple(weight / total for weight in weights)
    nlls = tuple(-math.log(p) if p else math.inf for p in probabilities)
    entropy = math.fsum(p * nll for p, nll in zip(probabilities, nlls, strict=True) if p)
    # An arm of probability 0 at the end must not catch the rounding gap: the last possible arm does.
    last = max(arm for arm, p in enumerate(probabilities) if p)
    sums = tuple(itertools.accumulate(probabilities))[:last] + (math.inf,) * (len(probabilities) - last)
    return Distribution(probabilities, sums, nlls, entropy)


@functools.cache
def geometric(arms: int, ratio: float) -> Distribution:
    """Weights 1, ratio, ratio^2, ... over `arms` arms."""
    return distribution([ratio**arm for arm in range(arms)])


@functools.cache
def coin(probability: float) -> Distribution:
    """Arm 1 with `probability`, arm 0 otherwise."""
    return distribution([1 - probability, probability])


class Sampler:
    """Chooses at random, and adds up the -log probability (nats) of what it chose in `nll`."""

    def __init__(self, stream: random.Random):
        self._random = stream.random
        self.nll = 0.0

    def __call__(self, distribution: Distribution, /) -> int:
        arm = bisect_right(distribution.cumulative, self._random())
        self.nll += distribution.nlls[arm]
        return arm


class Replay:
    """Makes the choices of `script` again, then arm 0; keeps their path, distributions and -log probability (nats)."""

    def __init__(self, script: Sequence[int]):
        self._script = script
        self.path: list[int] = []
        self.distributions: list[Distribution] = []
        self.nll = 0.0

    def __call__(self, distribution: Distribution, /) -> int:
        step = len(self.path)
        arm = self._script[step] if step < len(self._script) else 0
        self.path.append(arm)
        self.distributions.append(distribution)
        self.nll += distribution.nlls[arm]
        return arm


def outcomes(program: Callable[[Choose], T]) -> Iterator[tuple[T, float]]:
    """Every way that `program(choose)` can go: its result and the -log probability (nats) of its choices."""
    scripts: list[list[int]] = [[]]
    while scripts:
        script = scripts.pop()
        replay = Replay(script)
        yield program(replay), replay.nll
        for step in range(len(script), len(replay.path)):
            arms = range(1, len(replay.distributions[step].probabilities))
            possible = [arm for arm in arms if replay.distributions[step].probabilities[arm] > 0]
            scripts += [[*replay.path[:step], arm] for arm in possible]
