"""Recommends a candidate for one task: decisions by both laws, their costs, and whether the points suffice."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from finetune_scaling.analysis.joint_fits import Fits, JointFits
from finetune_scaling.laws.fitting.fitted_law import MAX_LOG_RMSE
from finetune_scaling.laws.fitting.requirements import SkippedFit, why_no_curve
from finetune_scaling.laws.forms.library import MULTIPLICATIVE, SINGLE
from finetune_scaling.laws.points.table import PointsTable
from finetune_scaling.recommendation.advice import (
    CHOOSE,
    CONFIDENT,
    EQUIVALENT,
    INCONCLUSIVE,
    NEGLIGIBLE,
    RANGE_NAMES,
    Advice,
    LawDecision,
)
from finetune_scaling.recommendation.candidates import CandidateSet, TuningCandidate, list_candidates
from finetune_scaling.recommendation.curve_predictions import CurvePredictor, curve_predictor
from finetune_scaling.recommendation.decision import CandidateEstimate, decide
from finetune_scaling.recommendation.expected_score import ExpectedScore, expected_score
from finetune_scaling.recommendation.information_value import ProposedRun, list_runs, propose
from finetune_scaling.recommendation.loss_predictions import LossPredictor, loss_predictor
from finetune_scaling.recommendation.more_data import MoreData, more_data
from finetune_scaling.recommendation.question import Question
from finetune_scaling.recommendation.storage import Storage, candidate_storage


def advise(joint: JointFits, task: str, question: Question) -> Advice:
    """Answer the question for a fitted task; raises ConfigError as list_candidates does."""
    table, found = joint.table, list_candidates(joint.table, task, question)
    curves = _curves(joint, found)
    decisions = list(filter(None, (_decide(law, found, joint.fits, curves) for law in _ranked_laws(joint, task))))
    preferred, other = (*decisions, None, None)[:2]
    regret = _regret_by(other, preferred)
    reasons = tuple(dict.fromkeys(_reasons(found, preferred, joint.skipped, regret)))
    return Advice(
        candidates=found,
        verdict=_verdict(preferred, reasons),
        reasons=reasons,
        preferred=preferred,
        other=other,
        other_regret=regret,
        storage=_storage(table, found),
        score=_score(found, preferred),
        warnings=(*dict.fromkeys(_warnings(found, preferred)), *_point_warnings(table, task)),
        next_runs=_next_runs(found, preferred),
        more_data=_more_data(found, preferred),
    )


def _ranked_laws(joint: JointFits, task: str) -> Sequence[str]:
    """Return the law of comparisons, then another joint law; the single law if none was fitted over model size."""
    laws = dict.fromkeys(law for (name, _, law), fit in joint.fits.items() if name == task and "model" in fit.factors)
    if not laws:
        return (SINGLE.name,)
    first = joint.law_of_comparisons(task)
    return sorted(laws, key=lambda law: law != first)


def _curves(joint: JointFits, found: CandidateSet) -> dict[str, CurvePredictor]:
    """Return the predictors over dataset size of the methods without a joint law over model size."""
    joined = {method for (task, method, _), fit in joint.fits.items() if task == found.task and "model" in fit.factors}
    own = {
        method: curve_predictor(rows, found.pets[method], joint.settings)
        for method, rows in found.rows.items()
        if method not in joined
    }
    return {method: predictor for method, predictor in own.items() if predictor is not None}


def _decide(law: str, found: CandidateSet, fits: Fits, curves: Mapping[str, CurvePredictor]) -> LawDecision | None:
    """Decide by a joint law, and by the curves of the methods without one."""
    predictors: dict[str, LossPredictor] = dict(curves)
    for method, rows in found.rows.items():
        fit = fits.get((found.task, method, law))
        if fit is not None and "model" in fit.factors:
            predictors[method] = loss_predictor(fit, rows, found.pets[method])
    covered = [c for c in found.costs if c.method in predictors and predictors[c.method].covers(c.size, c.pet)]
    every = {c: _losses(predictors[c.method], c, found) for c in covered}
    losses = {c: every[c] for c in found.affordable if c in every}
    if not losses:
        return None
    unlimited = decide(every) if len(losses) < len(every) else None
    return LawDecision(law, losses, decide(losses), unlimited, predictors)


def _losses(predictor: LossPredictor, candidate: TuningCandidate, found: CandidateSet) -> np.ndarray:
    return predictor.loss_replicates(candidate.size, candidate.pet, found.question.examples)


def _regret_by(other: LawDecision | None, preferred: LawDecision | None) -> float | None:
    """Return the excess loss of the preferred law's choice by the other law; None if it does not predict it."""
    if other is None or preferred is None:
        return None
    losses = {e.candidate: e.loss for e in other.decision.estimates}
    chosen = preferred.decision.chosen.candidate
    return losses[chosen] - min(losses.values()) if chosen in losses else None


def _verdict(preferred: LawDecision | None, reasons: Sequence[str]) -> str:
    if preferred is None or reasons:
        return INCONCLUSIVE
    return CHOOSE if preferred.decision.chosen.probability_best >= CONFIDENT else EQUIVALENT


def _reasons(
    found: CandidateSet, preferred: LawDecision | None, skipped: Sequence[SkippedFit], other_regret: float | None
) -> Iterator[str]:
    """Yield why the points do not suffice for a choice."""
    missing = [m for m in found.rows if preferred is None or m not in preferred.predictors]
    yield from (_why_not_fitted(found, m, skipped) for m in missing)
    if preferred is None:
        if not missing:
            yield "no candidate's law could be fitted"
        return
    for own in preferred.predictors.values():
        yield from own.limitations
    decision = preferred.decision
    for estimate in filter(None, (decision.chosen, decision.runner_up)):
        own = preferred.predictors[estimate.candidate.method]
        yield from _why_imprecise(own, estimate)
        yield from _why_no_extrapolation(own, estimate.candidate, found.question.examples)
    best = decision.chosen.probability_best
    if best < CONFIDENT and decision.regret_95 > NEGLIGIBLE:
        yield (
            f"the choice is the best candidate with probability {best:.3g} (below {CONFIDENT}), and the 95 % quantile "
            f"of its regret is {decision.regret_95:.2g} nats (above {NEGLIGIBLE})"
        )
    if other_regret is not None and other_regret > NEGLIGIBLE:
        yield f"the other law makes another choice; by it the regret of this one is {other_regret:.2g} nats"


def _why_not_fitted(found: CandidateSet, method: str, skipped: Sequence[SkippedFit]) -> str:
    joint = [s.reason for s in skipped if (s.task, s.method, s.law) == (found.task, method, MULTIPLICATIVE.name)]
    reasons = [
        f"the {MULTIPLICATIVE.name} law {'; '.join(joint) or 'needs rows of the factor model'}",
        f"the {SINGLE.name} law {why_no_curve(found.rows[method]) or 'needs the model size of its rows'}",
    ]
    return f"{method} could not be fitted: {', '.join(reasons)}"


def _why_imprecise(own: LossPredictor, estimate: CandidateEstimate) -> Iterator[str]:
    if own.limitations:  # which are reasons of their own
        return
    low, high = estimate.interval.low, estimate.interval.high
    if low is None or high is None or (high - low) / 2 > MAX_LOG_RMSE * estimate.loss:
        yield f"the predicted loss of {own.method} is imprecise: its 90 % interval is wider than ±{MAX_LOG_RMSE:.0%}"


def _why_no_extrapolation(own: LossPredictor, candidate: TuningCandidate, examples: float) -> Iterator[str]:
    """Yield the ranges outside which the prediction relies on an exponent that the points do not determine."""
    for name in own.outside(candidate.size, candidate.pet, examples):
        if reason := own.why_poorly_determined(name):
            yield f"{own.method} is extrapolated outside the fitted {RANGE_NAMES[name]}, but {reason}"


def _storage(table: PointsTable, found: CandidateSet) -> dict[TuningCandidate, Storage | None]:
    runs = table.runs[table.runs["task"] == found.task]
    storage: dict[TuningCandidate, Storage | None] = {}
    for method, pet in found.pets.items():
        own = [c for c in found.costs if c.method == method]
        storage |= candidate_storage(runs[runs["method"] == method], pet, own)
    return storage


def _score(found: CandidateSet, preferred: LawDecision | None) -> ExpectedScore | None:
    if found.metric is None or preferred is None:
        return None
    chosen = preferred.decision.chosen.candidate
    return expected_score(found.rows[chosen.method], found.metric, preferred.losses[chosen])


def _warnings(found: CandidateSet, preferred: LawDecision | None) -> Iterator[str]:
    if preferred is None:
        return
    chosen = preferred.decision.chosen.candidate
    yield from _left_out(found, preferred)
    for estimate in filter(None, (preferred.decision.chosen, preferred.decision.runner_up)):
        c = estimate.candidate
        yield from _extrapolations(preferred.predictors[c.method], c, found.question.examples)
    if chosen.pet is not None and chosen.pet != found.pets[chosen.method].size:
        yield f"{chosen.method}: PET sizes were measured on one model; the same effect is assumed on this one"
    for m, pet in found.pets.items():
        if pet.size is None and found.rows[m]["factor"].eq("pet").any():
            yield f"{m}: PET sizes are not compared; the model rows need a column pet_size"
    cost, budget = found.costs[chosen], found.question.budget
    if budget is not None and cost is not None and cost.high is not None and cost.high > budget.flops:
        yield "the expected cost is within the budget, but the upper end of its interval is above it"
    if len(found.rows) == 1:
        yield f"{chosen.method} is the only measured method, so no methods are compared"
    if len(found.affordable) == 1:
        yield "only one candidate is affordable, so no candidates are compared"


def _left_out(found: CandidateSet, preferred: LawDecision) -> Iterator[str]:
    """Yield which laws replace the joint law, and which candidates they do not predict."""
    for own in preferred.predictors.values():
        if own.law != preferred.law or own.law == SINGLE.name:
            yield f"{own.method}: predicted by the {own.law} law, at each measured size separately"
        missing = [str(c) for c in found.affordable if c.method == own.method and not own.covers(c.size, c.pet)]
        if missing:
            yield f"{own.method}: not predicted for lack of points, and left out: {', '.join(missing)}"


def _extrapolations(own: LossPredictor, candidate: TuningCandidate, examples: float) -> Iterator[str]:
    for name, distance in own.outside(candidate.size, candidate.pet, examples).items():
        low, high = own.ranges[name]
        sd = own.extrapolation_sd[name] * distance
        yield (
            f"{own.method}: extrapolated outside the fitted {RANGE_NAMES[name]} ({low:,.0f} to {high:,.0f}), which "
            f"adds a standard deviation of {sd:.2g} nats"
        )


def _point_warnings(table: PointsTable, task: str) -> list[str]:
    """Return the table's warnings about this task, and those about no particular task."""
    others = tuple(f"{other}, " for other in table.tasks if other != task)
    return [text.rstrip(".") for text in table.warnings if not text.startswith(others)]


def _more_data(found: CandidateSet, preferred: LawDecision | None) -> tuple[MoreData, ...] | None:
    if not found.question.more_data:
        return None
    return more_data(found, preferred.decision.estimates, preferred.predictors) if preferred else ()


def _next_runs(found: CandidateSet, preferred: LawDecision | None) -> tuple[ProposedRun, ...] | None:
    if not found.question.next_runs:
        return None
    if preferred is None:
        return ()
    runs = list_runs(found, preferred.predictors)
    regret = preferred.decision.regret
    return tuple(propose(runs, preferred.predictors, preferred.losses, regret, found.question.next_runs))
