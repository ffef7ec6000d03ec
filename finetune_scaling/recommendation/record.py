"""The answer as JSON values: every number of the text, and the numbers of all candidates."""

from dataclasses import asdict
from typing import Any

from finetune_scaling.recommendation.advice import Advice, LawDecision
from finetune_scaling.recommendation.candidates import TuningCandidate
from finetune_scaling.recommendation.cost import CostModel
from finetune_scaling.recommendation.decision import CandidateEstimate
from finetune_scaling.recommendation.expected_score import ExpectedScore
from finetune_scaling.recommendation.information_value import ProposedRun
from finetune_scaling.recommendation.more_data import MoreData


def to_record(advice: Advice) -> dict[str, Any]:
    """Return one task's answer; null where a value is unknown."""
    found, budget = advice.candidates, advice.candidates.question.budget
    laws = [one for one in (advice.preferred, advice.other) if one is not None]
    return {
        "task": found.task,
        "finetune_examples": found.question.examples,
        "budget": None if budget is None else {"text": budget.text, "flops": budget.flops},
        "verdict": advice.verdict,
        "reasons": list(advice.reasons),
        "measured": advice.measured,
        "law": advice.preferred.law if advice.preferred else None,
        "choice": _candidate(advice, advice.chosen) if advice.chosen else None,
        "decisions": {one.law: _law_decision(one) for one in laws},
        "regret_under_other_law": advice.other_regret,
        "metric": _score(advice.score),
        "candidates": [_candidate(advice, c) for c in found.costs],
        "cost_sources": {m: _cost_source(found.cost_models.get(m)) for m in found.rows},
        "reservations": list(advice.warnings),
        "more_data": None if advice.more_data is None else [_more_data(one) for one in advice.more_data],
        "next_runs": None if advice.next_runs is None else [_proposed_run(one) for one in advice.next_runs],
    }


def _cost_source(model: CostModel | None) -> str:
    return model.source if model else "unknown: the points have no column flops, and tokens per example are not given"


def _name(candidate: TuningCandidate) -> dict[str, Any]:
    return {"method": candidate.method, "parameters": candidate.size, "pet_size": candidate.pet}


def _candidate(advice: Advice, candidate: TuningCandidate) -> dict[str, Any]:
    cost, storage = advice.candidates.costs[candidate], advice.storage[candidate]
    stored = None
    if storage is not None:
        stored = {"trainable_parameters": storage.parameters, "bytes": storage.bytes, "measured": storage.measured}
    return {
        **_name(candidate),
        "affordable": candidate in advice.candidates.affordable,
        "cost": None if cost is None else {**asdict(cost), **advice.price(cost.flops)},
        "storage": stored,
    }


def _law_decision(answer: LawDecision) -> dict[str, Any]:
    decision, unlimited = answer.decision, answer.unlimited
    return {
        "chosen": _estimate(decision.chosen),
        "runner_up": None if decision.runner_up is None else _estimate(decision.runner_up),
        "probability_best": decision.chosen.probability_best,
        "probability_method_best": decision.method_best,
        "probability_size_best": decision.size_best,
        "expected_regret": decision.regret,
        "regret_95": decision.regret_95,
        "joint_replicates": decision.joint_replicates,
        "estimates": [_estimate(one) for one in decision.estimates],
        "without_budget": None if unlimited is None else _estimate(unlimited.chosen),
    }


def _estimate(estimate: CandidateEstimate) -> dict[str, Any]:
    numbers = {"loss": estimate.loss, **asdict(estimate.interval), "probability_best": estimate.probability_best}
    return {**_name(estimate.candidate), **numbers}


def _score(score: ExpectedScore | None) -> dict[str, Any] | None:
    if score is None:
        return None
    numbers = {"value": score.score, **asdict(score.interval)}
    return {"name": score.metric, "law": score.law, **numbers, "why_not": score.why or None}


def _more_data(row: MoreData) -> dict[str, Any]:
    return {
        **_name(row.candidate),
        "multiple": row.multiple,
        "finetune_examples": row.examples,
        "loss": row.loss,
        **asdict(row.interval),
        "reduction": row.reduction,
        "reduction_low": row.reduction_interval.low,
        "reduction_high": row.reduction_interval.high,
        "metric": _score(row.score),
        "cost": None if row.cost is None else asdict(row.cost),
        "outside_fitted": list(row.outside),
    }


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
