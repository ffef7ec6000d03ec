"""The candidate with the lowest expected loss, the probability that it is the best one, and its regret.

Bootstrap replicates represent the uncertainty of the fits. In replicate r candidate c has loss L[r, c]; the choice is
c* = argmin_c mean_r L[r, c], and its regret in a replicate is L[r, c*] - min_c L[r, c]. Replicates of different methods
are independent, so they are paired at random, PAIRINGS times each.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from finetune_scaling.laws.uncertainty.intervals import Interval, percentile_interval
from finetune_scaling.recommendation.candidates import TuningCandidate

PAIRINGS = 10
SEED = 0
Losses = Mapping[TuningCandidate, np.ndarray]  # [R] by every bootstrap replicate of the method's fit, nats per token


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


def decide(losses: Losses) -> Decision:
    """Choose the candidate with the lowest mean loss."""
    joint = _joint_losses(losses)
    best = np.bincount(joint.argmin(axis=1), minlength=len(losses)) / len(joint)
    estimates = tuple(
        CandidateEstimate(c, float(own.mean()), replicates_interval(paired), float(share))
        for (c, own), paired, share in zip(losses.items(), joint.T, best, strict=True)
    )
    chosen = min(estimates, key=lambda e: e.loss)
    regret = joint[:, estimates.index(chosen)] - joint.min(axis=1)
    others = [e for e in estimates if e is not chosen]
    return Decision(
        chosen=chosen,
        runner_up=max(others, key=lambda e: (e.probability_best, -e.loss), default=None),
        estimates=estimates,
        method_best=sum(e.probability_best for e in estimates if e.candidate.method == chosen.candidate.method),
        size_best=sum(e.probability_best for e in estimates if e.candidate.size == chosen.candidate.size),
        regret=float(regret.mean()),
        regret_95=float(np.quantile(regret, 0.95)),
        joint_replicates=len(joint),
    )


def replicates_interval(losses: np.ndarray) -> Interval:
    """Return the 90 % interval over replicates [R]; open where they are all equal and so say nothing of the error."""
    return percentile_interval(losses) if np.ptp(losses) else Interval(None, None)


def _joint_losses(losses: Losses) -> np.ndarray:
    """Pair the replicates of different methods to joint ones [S, C]; each replicate occurs equally often."""
    random = np.random.default_rng(SEED)
    counts = {c.method: len(own) for c, own in losses.items()}
    orders = {
        method: np.concatenate([random.permutation(count) for _ in range(PAIRINGS)]) for method, count in counts.items()
    }
    shortest = PAIRINGS * min(counts.values())
    return np.stack([own[orders[c.method][:shortest]] for c, own in losses.items()], axis=1)
