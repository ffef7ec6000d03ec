"""The candidate of least expected loss, the probability that it is the best one, and its regret.

Bootstrap replicates represent the uncertainty of the fits. In replicate r candidate c has loss L[r, c]; the choice is
c* = argmin_c mean_r L[r, c], and its regret in a replicate is L[r, c*] - min_c L[r, c]. Replicates of different methods
are independent, so they are paired at random, PAIRINGS times each.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from finetune_scaling.laws.uncertainty.intervals import Interval, percentile_interval
from finetune_scaling.recommendation.candidates import TuningCandidate, by_method

PAIRINGS = 10
SEED = 0


@dataclass(frozen=True)
class CandidateEstimate:
    """A candidate's mean loss with its 90 % interval (nats per token), and the probability that it is the best."""

    candidate: TuningCandidate
    loss: float
    interval: Interval
    probability_best: float


@dataclass(frozen=True)
class Decision:
    """The choice among candidates.

    runner_up: the other candidate that is most often the best, None without another; estimates: of all candidates, in
    their order; method_best, size_best: probability that the best candidate has the chosen method, or the chosen size;
    regret, regret_95: mean and 95 % quantile of the regret (nats per token); joint_replicates: how many.
    """

    chosen: CandidateEstimate
    runner_up: CandidateEstimate | None
    estimates: tuple[CandidateEstimate, ...]
    method_best: float
    size_best: float
    regret: float
    regret_95: float
    joint_replicates: int


def grouped(candidates: Sequence[TuningCandidate]) -> list[TuningCandidate]:
    """Order candidates by method, as the columns of joint_losses are."""
    return [c for _, own in by_method(candidates) for c in own]


def joint_losses(losses: Mapping[str, np.ndarray]) -> np.ndarray:
    """Pair losses by method [R, C] to joint replicates [S, sum of C]; each replicate occurs equally often."""
    random = np.random.default_rng(SEED)
    columns = []
    for own in losses.values():
        order = np.concatenate([random.permutation(len(own)) for _ in range(PAIRINGS)])
        columns.append(own[order])
    shortest = min(len(own) for own in columns)
    return np.concatenate([own[:shortest] for own in columns], axis=1)


def decide(candidates: Sequence[TuningCandidate], losses: Mapping[str, np.ndarray]) -> Decision:
    """Choose the candidate of least mean loss; losses: method -> [R, C] as bootstrap_losses returns them."""
    names = grouped(candidates)
    joint = joint_losses(losses)
    means = _means(losses)
    best = np.bincount(joint.argmin(axis=1), minlength=len(names)) / len(joint)
    estimates = tuple(
        CandidateEstimate(c, float(means[i]), percentile_interval(joint[:, i]), float(best[i]))
        for i, c in enumerate(names)
    )
    chosen = int(np.argmin(means))
    regret = joint[:, chosen] - joint.min(axis=1)
    others = [estimate for i, estimate in enumerate(estimates) if i != chosen]
    own = names[chosen]
    return Decision(
        chosen=estimates[chosen],
        runner_up=max(others, key=lambda e: (e.probability_best, -e.loss), default=None),
        estimates=estimates,
        method_best=sum(e.probability_best for e in estimates if e.candidate.method == own.method),
        size_best=sum(e.probability_best for e in estimates if e.candidate.size == own.size),
        regret=float(regret.mean()),
        regret_95=float(np.quantile(regret, 0.95)),
        joint_replicates=len(joint),
    )


def excess_loss(
    candidate: TuningCandidate, candidates: Sequence[TuningCandidate], losses: Mapping[str, np.ndarray]
) -> float:
    """Return the candidate's expected loss minus the least expected loss, in nats per token."""
    means = _means(losses)
    return float(means[grouped(candidates).index(candidate)] - means.min())


def _means(losses: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([own.mean(axis=0) for own in losses.values()])
