"""The choice of least expected loss, the probability that it is right, and what a wrong one costs.

The bootstrap draws stand for what the points leave open. In draw r candidate c has loss L[r, c]; the choice is
c* = argmin_c mean_r L[r, c], its regret in a draw L[r, c*] - min_c L[r, c], and the probability that it is right the
share of draws without regret. Draws of different methods are independent, so they are paired at random, many times.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from finetune_scaling.laws.uncertainty.intervals import Interval, percentile_interval
from finetune_scaling.recommendation.candidates import Candidate, by_method

PAIRINGS = 10  # of every draw of a method with draws of the others
SEED = 0


@dataclass(frozen=True)
class Outlook:
    """One candidate: mean loss and its 90 % interval, and the probability that it is the best of those compared."""

    candidate: Candidate
    loss: float
    interval: Interval
    best: float


@dataclass(frozen=True)
class Decision:
    """The choice among candidates.

    chosen; runner_up: the one that is best most often after it, None where there is no other; outlooks: of all, in
    their order; method_best, size_best: probabilities that the best candidate has the choice's method, and its size;
    regret: expected, in nats; regret_95: its 95 % quantile; draws: number of joint draws.
    """

    chosen: Outlook
    runner_up: Outlook | None
    outlooks: tuple[Outlook, ...]
    method_best: float
    size_best: float
    regret: float
    regret_95: float
    draws: int


def ordered_candidates(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Candidates with those of a method side by side: the order of the columns of joint_losses."""
    return [c for _, own in by_method(candidates) for c in own]


def joint_losses(losses: Mapping[str, np.ndarray]) -> np.ndarray:
    """Losses by method [R, C] -> joint draws [S, sum of C]; every draw of a method occurs equally often."""
    random = np.random.default_rng(SEED)
    columns = []
    for own in losses.values():
        order = np.concatenate([random.permutation(len(own)) for _ in range(PAIRINGS)])
        columns.append(own[order])
    shortest = min(len(own) for own in columns)
    return np.concatenate([own[:shortest] for own in columns], axis=1)


def decide(candidates: Sequence[Candidate], losses: Mapping[str, np.ndarray]) -> Decision:
    """The choice among candidates; losses by method [R, C] as drawn_losses gives them."""
    names = ordered_candidates(candidates)
    joint = joint_losses(losses)
    means = np.concatenate([own.mean(axis=0) for own in losses.values()])
    best = np.bincount(joint.argmin(axis=1), minlength=len(names)) / len(joint)
    outlooks = tuple(
        Outlook(c, float(means[i]), percentile_interval(joint[:, i]), float(best[i])) for i, c in enumerate(names)
    )
    chosen = int(np.argmin(means))
    regret = joint[:, chosen] - joint.min(axis=1)
    others = [outlook for i, outlook in enumerate(outlooks) if i != chosen]
    own = names[chosen]
    return Decision(
        chosen=outlooks[chosen],
        runner_up=max(others, key=lambda o: (o.best, -o.loss), default=None),
        outlooks=outlooks,
        method_best=sum(o.best for o in outlooks if o.candidate.method == own.method),
        size_best=sum(o.best for o in outlooks if o.candidate.size == own.size),
        regret=float(regret.mean()),
        regret_95=float(np.quantile(regret, 0.95)),
        draws=len(joint),
    )


def excess_loss(candidate: Candidate, candidates: Sequence[Candidate], losses: Mapping[str, np.ndarray]) -> float:
    """By how much a candidate's expected loss is above the least one, in nats; 0 for the choice itself."""
    means = np.concatenate([own.mean(axis=0) for own in losses.values()])
    return float(means[ordered_candidates(candidates).index(candidate)] - means.min())
