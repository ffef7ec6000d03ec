"""The answer as JSON values: every number of the text, and those of all candidates."""

from typing import Any

from finetune_scaling.recommendation.advice import Advice, LawDecision
from finetune_scaling.recommendation.candidates import TuningCandidate
from finetune_scaling.recommendation.decision import CandidateEstimate, Decision
from finetune_scaling.recommendation.expected_score import ExpectedScore
from finetune_scaling.recommendation.information_value import ProposedRun


def to_record(advice: Advice) -> dict[str, Any]:
    """Return one task's answer; null where a value is unknown."""
    question, laws = advice.question, [one for one in (advice.preferred, advice.other) if one is not None]
    return {
        "task": advice.task,
        "finetune_examples": question.examples,
        "budget": None if question.budget is None else {"text": question.budget.text, "flops": question.budget.flops},
        "verdict": advice.verdict,
        "reasons": list(advice.reasons),
        "law": advice.preferred.law if advice.preferred else None,
        "choice": _candidate(advice, advice.chosen) if advice.chosen else None,
        "decisions": {one.law: _law_decision(one) for one in laws},
        "regret_under_other_law": advice.other_regret,
        "metric": _score(advice.score),
        "candidates": [_candidate(advice, c) for c in advice.costs],
        "cost_sources": dict(advice.cost_sources),
        "reservations": list(advice.warnings),
        "next_runs": None if advice.next_runs is None else [_proposed_run(one) for one in advice.next_runs],
    }


def _name(candidate: TuningCandidate) -> dict[str, Any]:
    return {"method": candidate.method, "parameters": candidate.size, "pet_size": candidate.pet}


def _candidate(advice: Advice, candidate: TuningCandidate) -> dict[str, Any]:
    cost, storage = advice.costs[candidate], advice.storage[candidate]
    spent = None
    if cost is not None:
        spent = {"flops": cost.flops, "low": cost.low, "high": cost.high, **advice.price(cost.flops)}
    stored = None
    if storage is not None:
        stored = {"trainable_parameters": storage.parameters, "bytes": storage.bytes, "measured": storage.measured}
    return {**_name(candidate), "affordable": candidate in advice.affordable, "cost": spent, "storage": stored}


def _law_decision(answer: LawDecision) -> dict[str, Any]:
    unlimited = None if answer.unlimited is None else _estimate(answer.unlimited.chosen)
    return {**_decision(answer.decision), "without_budget": unlimited}


def _decision(decision: Decision) -> dict[str, Any]:
    return {
        "chosen": _estimate(decision.chosen),
        "runner_up": None if decision.runner_up is None else _estimate(decision.runner_up),
        "probability_right": decision.chosen.probability_best,
        "probability_method_right": decision.method_best,
        "probability_size_right": decision.size_best,
        "expected_regret": decision.regret,
        "regret_95": decision.regret_95,
        "joint_draws": decision.joint_replicates,
        "outlooks": [_estimate(one) for one in decision.estimates],
    }


def _estimate(estimate: CandidateEstimate) -> dict[str, Any]:
    return {
        **_name(estimate.candidate),
        "loss": estimate.loss,
        "low": estimate.interval.low,
        "high": estimate.interval.high,
        "probability_best": estimate.probability_best,
    }


def _score(score: ExpectedScore | None) -> dict[str, Any] | None:
    if score is None:
        return None
    ends = {"low": score.interval.low, "high": score.interval.high}
    return {"name": score.metric, "law": score.law, "value": score.score, **ends, "why_not": score.why or None}


def _proposed_run(proposal: ProposedRun) -> dict[str, Any]:
    run = proposal.run
    return {
        "method": run.method,
        "factor": run.factor,
        "x": run.x,
        "finetune_examples": run.examples,
        "parameters": run.size,
        "pet_size": run.pet,
        "flops": run.flops,
        "regret_reduction": proposal.gain,
        "simulation_error": proposal.error,
        "regret_after": proposal.regret,
        "scatter_enlarged": proposal.enlarged,
    }
