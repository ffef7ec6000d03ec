"""Selection among joint laws by cross-validation, held-out error and an information criterion.

Left out: every value of a factor and every number of examples is left out once and predicted; two laws are compared
level by level (paired differences, Student's t, 90 %). Held out: mean absolute error on points that entered no fit.
Criterion: AICc = 2 n ln(mean |residual|) + 2 k n / (n - k - 1) of a Laplace likelihood, which a Huber loss with a small
delta approximates (Hurvich and Tsai 1989; k parameters, n points).

A law is preferred to another where its left-out error is smaller by more than the half-width of the interval, or where
its criterion is smaller by DECISIVE, and none of the three measures clearly supports the other law.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from finetune_scaling.laws.fitting.joint_fit import JointFit
from finetune_scaling.laws.uncertainty.intervals import QUANTILES, percentile_interval

DECISIVE = 10.0  # differences of an AIC beyond it leave no support (Burnham and Anderson 2002, section 2.6)


@dataclass(frozen=True)
class LawScore:
    """One law on the same points as the others.

    parameters: how many were fitted; left_out [W]: mean absolute error on each level left out; held_out: mean absolute
    error on held-out points, held_out_replicates [R]: over the bootstrap, both None where there are none; criterion:
    AICc; fits_well: whether it fits the points at all.
    """

    law: str
    parameters: int
    left_out: np.ndarray
    held_out: float | None
    held_out_replicates: np.ndarray | None
    criterion: float
    fits_well: bool

    @property
    def left_out_error(self) -> float:
        """The mean over the levels left out."""
        return float(self.left_out.mean())


@dataclass(frozen=True)
class LawComparison:
    """Another law against the best one: differences other - best, above zero where the best is better.

    left_out, margin: mean over the levels and the half-width of its 90 % interval; criterion: AICc difference;
    held_out: 90 % interval of the difference, None where nothing is held out; preferred: whether the best is preferred.
    """

    law: str
    left_out: float
    margin: float
    criterion: float
    held_out: tuple[float, float] | None
    preferred: bool


@dataclass(frozen=True)
class Selection:
    """Ranking of the joint laws that were fitted to one task and method.

    candidates: by increasing left-out error; comparisons: of the best with each other law.
    """

    candidates: tuple[LawScore, ...]
    comparisons: tuple[LawComparison, ...]

    @property
    def best(self) -> str:
        """The law with the lowest left-out error."""
        return self.candidates[0].law

    @property
    def runner_up(self) -> str | None:
        """The second-best law; None where there is only one."""
        return self.candidates[1].law if len(self.candidates) > 1 else None

    @property
    def preferred(self) -> str | None:
        """The law that is preferred to all others, if any."""
        clear = self.comparisons and all(c.preferred for c in self.comparisons)
        return self.best if clear and self.candidates[0].fits_well else None

    @property
    def verdict(self) -> str:
        """The result in one sentence."""
        if not any(candidate.fits_well for candidate in self.candidates):
            second = f", then {self.runner_up}" if self.runner_up else ""
            return f"No law fits these points; {self.best} has the lowest left-out error{second}."
        if self.runner_up is None:
            return f"Only the {self.best} law was fitted."
        first, second = (f"{c.law} {c.left_out_error:.2g}" for c in self.candidates[:2])
        measures = f"left out: {first}, {second}, {self._margin}; AICc difference {self._criterion}"
        if self.preferred is None:
            return f"No law is preferred ({measures})."
        return f"The {self.preferred} law is preferred, {self.runner_up} is the runner-up ({measures})."

    @property
    def _margin(self) -> str:
        margin = self.comparisons[0].margin
        return f"difference +/- {margin:.2g} (90 %)" if math.isfinite(margin) else "interval unknown"

    @property
    def _criterion(self) -> str:
        known = all(math.isfinite(candidate.criterion) for candidate in self.candidates[:2])
        return f"{self.comparisons[0].criterion:+.1f}" if known else "unknown, too few points"


def select_law(candidates: Sequence[LawScore]) -> Selection:
    """Rank laws that were fitted to the same points, and compare the best with each of the others."""
    ranked = tuple(sorted(candidates, key=lambda c: (not c.fits_well, c.left_out_error)))
    return Selection(ranked, tuple(_compare(ranked[0], other) for other in ranked[1:]))


def select_joint_laws(fits: Iterable[JointFit]) -> dict[tuple[str, str], Selection]:
    """Select among the joint laws that were fitted to each (task, method)."""
    scores: dict[tuple[str, str], list[LawScore]] = {}
    for fit in fits:
        scores.setdefault((fit.task, fit.method), []).append(_score(fit))
    return {key: select_law(own) for key, own in scores.items()}


def law_of_comparisons(fits: Sequence[JointFit], default: str) -> str:
    """Return the law by which the methods of one task are compared, in reports and recommendations alike.

    It is the law that model selection prefers for some method, if it prefers no other law for any method and that law
    was fitted to all the methods; else `default`. fits: joint fits of one task.
    """
    methods = {law: {fit.method for fit in fits if fit.law.name == law} for law in {fit.law.name for fit in fits}}
    preferred = {one.preferred for one in select_joint_laws(fits).values() if one.preferred is not None}
    complete = {law for law, own in methods.items() if own == set.union(*methods.values())}
    return next(iter(preferred)) if len(preferred) == 1 and preferred <= complete else default


def _compare(best: LawScore, other: LawScore) -> LawComparison:
    differences = other.left_out - best.left_out
    known = math.isfinite(best.criterion) and math.isfinite(other.criterion)
    margin = math.inf
    if len(differences) > 1:
        margin = float(stats.t.ppf(QUANTILES[1], len(differences) - 1) * stats.sem(differences))
    criterion, held_out = other.criterion - best.criterion if known else 0.0, _held_out(best, other)
    left_out = float(differences.mean())
    supported = left_out > margin or criterion > DECISIVE
    contradicted = criterion < -DECISIVE or (held_out is not None and held_out[1] < 0)
    preferred = not other.fits_well or (supported and not contradicted)
    return LawComparison(other.law, left_out, margin, criterion, held_out, preferred and best.fits_well)


def _held_out(best: LawScore, other: LawScore) -> tuple[float, float] | None:
    if best.held_out_replicates is None or other.held_out_replicates is None:
        return None
    found = percentile_interval(other.held_out_replicates - best.held_out_replicates)
    return (found.low, found.high) if found.low is not None and found.high is not None else None


def _score(fit: JointFit) -> LawScore:
    counts = np.array([fit.points_by_factor[factor] for factor in fit.factors], float)
    fitted = float(np.average([fit.errors["fitted"][factor] for factor in fit.factors], weights=counts))
    held_out = fit.errors["held_out"]
    replicates = list(fit.held_out_replicates.values())
    return LawScore(
        law=fit.law.name,
        parameters=len(fit.parameters),
        left_out=fit.left_out_errors,
        held_out=float(np.mean(list(held_out.values()))) if held_out else None,
        held_out_replicates=np.mean(replicates, axis=0) if replicates else None,
        criterion=_criterion(fitted, int(counts.sum()), len(fit.parameters)),
        fits_well=fit.fits_well,
    )


def _criterion(deviation: float, points: int, parameters: int) -> float:
    """Return AICc of a Laplace likelihood; infinite, so that it supports no law, where there are too few points."""
    if points <= parameters + 1:
        return math.inf
    return 2 * points * math.log(max(deviation, 1e-300)) + 2 * parameters * points / (points - parameters - 1)
