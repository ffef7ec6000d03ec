"""Which law the points prefer, if any: by what it predicts where it was not fitted, and by an information criterion.

Left out: every value of a factor and every number of examples is left out once and predicted; two laws are compared
level by level (paired differences, Student's t, 90 %). Held out: mean absolute deviation of the points that entered no
fit. Criterion: AICc = 2 n ln(mean |residual|) + 2 k n / (n - k - 1), of Laplace's distribution, the likelihood that a
Huber loss with a small delta stands for (Hurvich and Tsai 1989; k parameters, n points).

A law is preferred to another where it predicts the left-out levels better by more than that margin, or is ahead by
DECISIVE in the criterion, and none of the three measures speaks clearly for the other one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from finetune_scaling.laws.fitting.joint_fit import JointFit
from finetune_scaling.laws.fitting.one_stage import LawFit
from finetune_scaling.laws.uncertainty.intervals import LEVEL, percentile_interval

DECISIVE = 10.0  # differences of an AIC beyond it leave no support (Burnham and Anderson 2002, section 2.6)


@dataclass(frozen=True)
class LawScore:
    """One law on the same points as its rivals.

    parameters: how many were fitted; left_out [W]: mean absolute deviation on each level left out; held_out: mean
    absolute deviation on held-out points, held_out_replicates [R]: by the bootstrap, both None where there are none;
    criterion: AICc; describes: whether it follows the points at all.
    """

    law: str
    parameters: int
    left_out: np.ndarray
    held_out: float | None
    held_out_replicates: np.ndarray | None
    criterion: float
    describes: bool

    @property
    def left_out_error(self) -> float:
        """Mean over the levels left out."""
        return float(self.left_out.mean())


@dataclass(frozen=True)
class LawComparison:
    """A rival against the best law: differences rival - best, above zero where the best is better.

    left_out, margin: mean over the levels and half its 90 % interval; criterion: of AICc; held_out: its 90 % interval,
    None where nothing is held out; preferred: whether the best is preferred to this rival.
    """

    law: str
    left_out: float
    margin: float
    criterion: float
    held_out: tuple[float, float] | None
    preferred: bool


@dataclass(frozen=True)
class Selection:
    """candidates: best first, by the error on what was left out; comparisons: of the best with each other one."""

    candidates: tuple[LawScore, ...]
    comparisons: tuple[LawComparison, ...]

    @property
    def best(self) -> str:
        """The law with the least error on what was left out."""
        return self.candidates[0].law

    @property
    def runner_up(self) -> str | None:
        """The next one; None where there is one law only."""
        return self.candidates[1].law if len(self.candidates) > 1 else None

    @property
    def preferred(self) -> str | None:
        """The law that is preferred to all others; None where there is none, or where it describes nothing."""
        clear = self.comparisons and all(c.preferred for c in self.comparisons)
        return self.best if clear and self.candidates[0].describes else None

    @property
    def verdict(self) -> str:
        """One sentence, with the runner-up."""
        if not any(candidate.describes for candidate in self.candidates):
            second = f", then {self.runner_up}" if self.runner_up else ""
            return f"No law describes these points; {self.best} comes nearest{second}."
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
        return f"90 % margin of the difference {margin:.2g}" if math.isfinite(margin) else "margin unknown"

    @property
    def _criterion(self) -> str:
        told = all(math.isfinite(candidate.criterion) for candidate in self.candidates[:2])
        return f"{self.comparisons[0].criterion:+.1f}" if told else "unknown, too few points"


def select_law(candidates: Sequence[LawScore]) -> Selection:
    """Orders candidates that were fitted to the same points, and compares the best with each other one."""
    ranked = tuple(sorted(candidates, key=lambda c: (not c.describes, c.left_out_error)))
    return Selection(ranked, tuple(_compare(ranked[0], rival) for rival in ranked[1:]))


def select_joint_law(fits: Mapping[str, JointFit]) -> Selection:
    """Selection among the laws fitted to one task and method: law -> fit."""
    return select_law([_of_staged(fit) for fit in fits.values()])


def select_laws(fits: Sequence[LawFit]) -> Selection:
    """Selection among laws fitted to the same arrays; deviations are of the logarithm."""
    return select_law([_of_law(fit) for fit in fits])


def _compare(best: LawScore, rival: LawScore) -> LawComparison:
    gaps = rival.left_out - best.left_out
    told = math.isfinite(best.criterion) and math.isfinite(rival.criterion)
    margin = math.inf
    if len(gaps) > 1:
        margin = float(stats.t.ppf(0.5 + LEVEL / 2, len(gaps) - 1) * gaps.std(ddof=1) / math.sqrt(len(gaps)))
    criterion, held_out = rival.criterion - best.criterion if told else 0.0, _held_out(best, rival)
    left_out = float(gaps.mean())
    speaks_for = left_out > margin or criterion > DECISIVE
    speaks_against = criterion < -DECISIVE or (held_out is not None and held_out[1] < 0)
    preferred = not rival.describes or (speaks_for and not speaks_against)
    return LawComparison(rival.law, left_out, margin, criterion, held_out, preferred and best.describes)


def _held_out(best: LawScore, rival: LawScore) -> tuple[float, float] | None:
    if best.held_out_replicates is None or rival.held_out_replicates is None:
        return None
    found = percentile_interval(rival.held_out_replicates - best.held_out_replicates)
    return (found.low, found.high) if found.low is not None and found.high is not None else None


def _of_staged(fit: JointFit) -> LawScore:
    counts = np.array([fit.points[factor] for factor in fit.factors], float)
    fitted = float(np.average([fit.errors["fitted"][factor] for factor in fit.factors], weights=counts))
    held_out = fit.errors["held_out"]
    draws = list(fit.held_out_replicates.values())
    return LawScore(
        law=fit.law.name,
        parameters=len(fit.parameters),
        left_out=fit.left_out,
        held_out=float(np.mean(list(held_out.values()))) if held_out else None,
        held_out_replicates=np.mean(draws, axis=0) if draws else None,
        criterion=_criterion(fitted, int(counts.sum()), len(fit.parameters)),
        describes=fit.describes,
    )


def _of_law(fit: LawFit) -> LawScore:
    parameters = len(fit.layout.names) - len(fit.fixed)
    return LawScore(
        law=fit.law.name,
        parameters=parameters,
        left_out=fit.left_out,
        held_out=None,
        held_out_replicates=None,
        criterion=_criterion(fit.deviation, fit.count, parameters),
        describes=fit.describes,
    )


def _criterion(deviation: float, points: int, parameters: int) -> float:
    """AICc of Laplace's distribution; infinite where there are too few points to correct for,
    which then speaks for neither law."""
    if points <= parameters + 1:
        return math.inf
    return 2 * points * math.log(max(deviation, 1e-300)) + 2 * parameters * points / (points - parameters - 1)
