"""The answer as JSON-like data: every number that the words show, and those of all candidates."""

from typing import Any

from finetune_scaling.planning.prices import cost, price_of
from finetune_scaling.recommendation.advice import Advice, UnderLaw
from finetune_scaling.recommendation.candidates import Candidate
from finetune_scaling.recommendation.decision import Decision, Outlook
from finetune_scaling.recommendation.next_run import Proposal
from finetune_scaling.recommendation.scores import ExpectedScore


def to_record(advice: Advice) -> dict[str, Any]:
    """One task's answer; null where something is not known."""
    question, laws = advice.question, [one for one in (advice.preferred, advice.other) if one is not None]
    return {
        "task": advice.task,
        "finetune_examples": question.examples,
        "budget": None if question.budget is None else {"text": question.budget.text, "flops": question.budget.flops},
        "verdict": advice.verdict,
        "reasons": list(advice.reasons),
        "law": advice.preferred.law if advice.preferred else None,
        "choice": _choice(advice, advice.chosen) if advice.chosen else None,
        "decisions": {one.law: _under(one) for one in laws},
        "regret_under_other_law": advice.other_regret,
        "metric": _score(advice.score),
        "candidates": [_choice(advice, c) for c in advice.costs],
        "cost_sources": dict(advice.cost_sources),
        "reservations": list(advice.reservations),
        "next_runs": None if advice.next_runs is None else [_proposal(one) for one in advice.next_runs],
    }


def costs_of(advice: Advice, flops: float) -> dict[str, Any]:
    """Chip-hours and US dollars of so many FLOPs on the question's kind of chip; null where there is none."""
    chip, rates = advice.question.chip, advice.question.rates
    if chip is None:
        return {"chip": None, "chip_hours": None, "usd": None, "utilisation": rates.utilisation}
    hours = rates.chip_hours(flops, chip)
    usd = cost(price_of(rates.prices, chip.kind), hours).on_demand if chip.kind in rates.prices else None
    return {"chip": chip.kind, "chip_hours": hours, "usd": usd, "utilisation": rates.utilisation}


def name_of(candidate: Candidate) -> dict[str, Any]:
    """A candidate's method, parameters and PET size."""
    return {"method": candidate.method, "parameters": candidate.size, "pet_size": candidate.pet}


def _choice(advice: Advice, candidate: Candidate) -> dict[str, Any]:
    price, kept = advice.costs[candidate], advice.storage[candidate]
    spent = None
    if price is not None:
        spent = {"flops": price.flops, "low": price.low, "high": price.high, **costs_of(advice, price.flops)}
    stored = None
    if kept is not None:
        stored = {"trainable_parameters": kept.parameters, "bytes": kept.bytes, "measured": kept.measured}
    return {**name_of(candidate), "affordable": candidate in advice.affordable, "cost": spent, "storage": stored}


def _under(answer: UnderLaw) -> dict[str, Any]:
    unlimited = None if answer.unlimited is None else _outlook(answer.unlimited.chosen)
    return {**_decision(answer.decision), "without_budget": unlimited}


def _decision(decision: Decision) -> dict[str, Any]:
    return {
        "chosen": _outlook(decision.chosen),
        "runner_up": None if decision.runner_up is None else _outlook(decision.runner_up),
        "probability_right": decision.chosen.best,
        "probability_method_right": decision.method_best,
        "probability_size_right": decision.size_best,
        "expected_regret": decision.regret,
        "regret_95": decision.regret_95,
        "joint_draws": decision.draws,
        "outlooks": [_outlook(one) for one in decision.outlooks],
    }


def _outlook(outlook: Outlook) -> dict[str, Any]:
    return {
        **name_of(outlook.candidate),
        "loss": outlook.loss,
        "low": outlook.interval.low,
        "high": outlook.interval.high,
        "probability_best": outlook.best,
    }


def _score(score: ExpectedScore | None) -> dict[str, Any] | None:
    if score is None:
        return None
    ends = {"low": score.interval.low, "high": score.interval.high}
    return {"name": score.metric, "law": score.law, "value": score.score, **ends, "why_not": score.why or None}


def _proposal(proposal: Proposal) -> dict[str, Any]:
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
