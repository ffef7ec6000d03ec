"""Recommends a candidate for one task: decisions by both laws, their costs, and whether the points suffice."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from finetune_scaling.analysis.joint_fits import ordered
from finetune_scaling.analysis.model_selection import select_joint_law
from finetune_scaling.errors import ConfigError
from finetune_scaling.laws.fitting.fitted_law import MAX_LOG_RMSE
from finetune_scaling.laws.fitting.joint_fit import JointFit, SkippedFit
from finetune_scaling.laws.forms.library import ADDITIVE, MULTIPLICATIVE
from finetune_scaling.laws.points.table import PointsTable
from finetune_scaling.recommendation.advice import (
    CHOOSE,
    CONFIDENT,
    EQUIVALENT,
    INCONCLUSIVE,
    NEGLIGIBLE,
    Advice,
    LawDecision,
)
from finetune_scaling.recommendation.candidates import (
    TuningCandidate,
    bootstrap_losses,
    candidate_costs,
    list_candidates,
)
from finetune_scaling.recommendation.cost import Cost, CostModel, cost_models, cost_sources
from finetune_scaling.recommendation.decision import CandidateEstimate, decide, excess_loss
from finetune_scaling.recommendation.expected_score import ExpectedScore, expected_score
from finetune_scaling.recommendation.information_value import ProposedRun, list_runs, propose
from finetune_scaling.recommendation.loss_predictions import LossPredictor, loss_predictor
from finetune_scaling.recommendation.pet_defaults import PetDefault, pet_default
from finetune_scaling.recommendation.question import Question, choose_metric
from finetune_scaling.recommendation.storage import Storage, candidate_storage
from finetune_scaling.tuning.registry import METHODS

RANGE_NAMES = {"model": "model sizes", "examples": "dataset sizes", "pet": "PET sizes"}
EXPONENTS = {"examples": "beta", "model": "alpha_model", "pet": "alpha_pet"}
Fits = Mapping[tuple[str, str, str], JointFit]


@dataclass(frozen=True)
class Options:
    """What is known before any fit: settings of the task, PET defaults and cost models by method, candidates, costs."""

    task: str
    rows: pd.DataFrame
    pets: Mapping[str, PetDefault]
    models: Mapping[str, CostModel]
    candidates: tuple[TuningCandidate, ...]
    costs: Mapping[TuningCandidate, Cost | None]

    @property
    def methods(self) -> tuple[str, ...]:
        """Methods with points."""
        return tuple(self.pets)


def list_options(table: PointsTable, task: str, question: Question) -> Options:
    """Return the candidates and costs of a task.

    Raises ConfigError if needed costs are unknown, no candidate is affordable, or the metric is unknown.
    """
    rows = table.settings[table.settings["task"] == task]
    choose_metric(_metrics(table, rows), question.metric)
    methods = ordered(rows["method"], METHODS)
    pets = {method: pet_default(rows[rows["method"] == method]) for method in methods}
    models = cost_models(rows, pets, question.tokens_per_example, question.epochs)
    candidates = tuple(list_candidates(rows, pets, question.further_sizes))
    options = Options(task, rows, pets, models, candidates, candidate_costs(candidates, models, question.examples))
    _check_costs(options, question)
    return options


def advise(table: PointsTable, fits: Fits, skipped: Sequence[SkippedFit], task: str, question: Question) -> Advice:
    """Answer the question for a fitted task; raises ConfigError as list_options does."""
    options = list_options(table, task, question)
    affordable = tuple(c for c in options.candidates if _is_affordable(options.costs[c], question))
    decisions = [_decide(law.name, options, fits, affordable, question) for law in (MULTIPLICATIVE, ADDITIVE)]
    preferred, other = decisions if _preferred_law(options, fits) == MULTIPLICATIVE.name else decisions[::-1]
    preferred, other = (preferred, other) if preferred else (other, preferred)
    regret = _regret_by(other, preferred, affordable, question)
    reasons = tuple(dict.fromkeys(_reasons(options, preferred, skipped, regret, question)))
    return Advice(
        task=task,
        question=question,
        verdict=_verdict(preferred, reasons),
        reasons=reasons,
        preferred=preferred,
        other=other,
        other_regret=regret,
        costs=options.costs,
        affordable=affordable,
        storage=_storage(table, options),
        cost_sources=cost_sources(options.models, options.methods),
        score=_score(table, options, preferred, question),
        warnings=(
            *dict.fromkeys(_warnings(options, preferred, affordable, question)),
            *_point_warnings(table, task),
        ),
        next_runs=_next_runs(options, preferred, affordable, question),
    )


def _metrics(table: PointsTable, rows: pd.DataFrame) -> tuple[str, ...]:
    return tuple(metric for metric in table.metrics if rows[metric].notna().any())


def _check_costs(options: Options, question: Question) -> None:
    unknown = [method for method in options.methods if method not in options.models]
    if unknown and (question.budget or question.next_runs):
        flag = "--budget" if question.budget else "--next-run"
        raise ConfigError(
            f"{flag}: the cost of {', '.join(unknown)} on {options.task} is unknown. Fix: add a column flops to the "
            "points, or give --tokens-per-example"
        )
    if question.budget is None or not options.candidates:
        return
    costs = {c: cost.flops for c, cost in options.costs.items() if cost is not None}
    cheapest = min(costs, key=lambda c: costs[c])
    if not question.affords(costs[cheapest]):
        pet = "" if cheapest.pet is None else f", PET size {cheapest.pet:g}"
        raise ConfigError(
            f"--budget={question.budget.text} is {question.budget.flops:.3g} FLOPs; the cheapest candidate on "
            f"{options.task} ({cheapest.method} on {cheapest.size:,.0f} parameters{pet}) takes "
            f"{costs[cheapest]:.3g}. Fix: raise the budget or give fewer examples"
        )


def _is_affordable(cost: Cost | None, question: Question) -> bool:
    return question.budget is None or (cost is not None and question.affords(cost.flops))


def _preferred_law(options: Options, fits: Fits) -> str:
    """Return the additive law if model selection prefers it for some method and the multiplicative law for none."""
    laws = (MULTIPLICATIVE.name, ADDITIVE.name)
    preferred = set()
    for method in options.methods:
        own = {law: fits[options.task, method, law] for law in laws if (options.task, method, law) in fits}
        if len(own) == len(laws):
            preferred.add(select_joint_law(own).preferred)
    return ADDITIVE.name if preferred - {None} == {ADDITIVE.name} else MULTIPLICATIVE.name


def _decide(
    law: str, options: Options, fits: Fits, affordable: Sequence[TuningCandidate], question: Question
) -> LawDecision | None:
    predictors = {}
    for method in options.methods:
        fit = fits.get((options.task, method, law))
        if fit is not None and "model" in fit.factors:
            own = options.rows[options.rows["method"] == method]
            predictors[method] = loss_predictor(fit, own, options.pets[method])
    every = [c for c in options.candidates if c.method in predictors]
    within = [c for c in every if c in affordable]
    if not within:
        return None
    decision = decide(within, bootstrap_losses(within, predictors, question.examples))
    unlimited = None
    if len(within) < len(every):
        unlimited = decide(every, bootstrap_losses(every, predictors, question.examples))
    return LawDecision(law, decision, unlimited, predictors)


def _regret_by(
    other: LawDecision | None,
    preferred: LawDecision | None,
    affordable: Sequence[TuningCandidate],
    question: Question,
) -> float | None:
    """Return the excess loss of the preferred law's choice by the other law; None if it does not predict it."""
    if other is None or preferred is None:
        return None
    chosen = preferred.decision.chosen.candidate
    own = [c for c in affordable if c.method in other.predictors]
    return (
        excess_loss(chosen, own, bootstrap_losses(own, other.predictors, question.examples)) if chosen in own else None
    )


def _verdict(preferred: LawDecision | None, reasons: Sequence[str]) -> str:
    if preferred is None or reasons:
        return INCONCLUSIVE
    return CHOOSE if preferred.decision.chosen.probability_best >= CONFIDENT else EQUIVALENT


def _reasons(
    options: Options,
    preferred: LawDecision | None,
    skipped: Sequence[SkippedFit],
    other_regret: float | None,
    question: Question,
) -> Iterator[str]:
    """Yield why the points do not suffice for a choice."""
    missing = [m for m in options.methods if preferred is None or m not in preferred.predictors]
    yield from (_why_not_fitted(options.task, m, skipped, preferred) for m in missing)
    if preferred is None:
        if not missing:
            yield "no candidate's law could be fitted"
        return
    for own in preferred.predictors.values():
        if not own.fit.fits_well:
            yield f"the {own.fit.law.name} law does not fit {own.method} (relative error {own.fit.log_rmse:.0%})"
    decision = preferred.decision
    for estimate in filter(None, (decision.chosen, decision.runner_up)):
        own = preferred.predictors[estimate.candidate.method]
        yield from _why_imprecise(own, estimate)
        yield from _why_no_extrapolation(own, estimate.candidate, question.examples)
    best = decision.chosen.probability_best
    if best < CONFIDENT and decision.regret_95 > NEGLIGIBLE:
        yield (
            f"the choice is the best candidate with probability {best:.3g} (below {CONFIDENT}), and the 95 % quantile "
            f"of its regret is {decision.regret_95:.2g} nats (above {NEGLIGIBLE})"
        )
    if other_regret is not None and other_regret > NEGLIGIBLE:
        yield f"the other law makes another choice; by it the regret of this one is {other_regret:.2g} nats"


def _why_not_fitted(task: str, method: str, skipped: Sequence[SkippedFit], preferred: LawDecision | None) -> str:
    law = preferred.law if preferred else MULTIPLICATIVE.name
    own = [s.reason for s in skipped if (s.task, s.method, s.law) == (task, method, law)]
    return f"{method} could not be fitted: {'; '.join(own) or 'its points do not vary the model size'}"


def _why_imprecise(own: LossPredictor, estimate: CandidateEstimate) -> Iterator[str]:
    low, high = estimate.interval.low, estimate.interval.high
    if low is None or high is None or (high - low) / 2 > MAX_LOG_RMSE * estimate.loss:
        yield f"the predicted loss of {own.method} is imprecise: its 90 % interval is wider than ±{MAX_LOG_RMSE:.0%}"


def _why_no_extrapolation(own: LossPredictor, candidate: TuningCandidate, examples: float) -> Iterator[str]:
    """Yield the ranges outside which the prediction relies on an exponent that the points do not determine."""
    for name in own.outside(candidate.size, candidate.pet, examples):
        reason = own.fit.reasons.get(EXPONENTS[name])
        if reason is not None:
            yield (
                f"{own.method} is extrapolated outside the fitted {RANGE_NAMES[name]}, but {EXPONENTS[name]} is poorly "
                f"determined: {reason}"
            )


def _storage(table: PointsTable, options: Options) -> dict[TuningCandidate, Storage | None]:
    runs = table.runs[table.runs["task"] == options.task]
    found: dict[TuningCandidate, Storage | None] = {}
    for method, pet in options.pets.items():
        own = [c for c in options.candidates if c.method == method]
        found |= candidate_storage(runs[runs["method"] == method], pet, own)
    return found


def _score(
    table: PointsTable, options: Options, preferred: LawDecision | None, question: Question
) -> ExpectedScore | None:
    metric = choose_metric(_metrics(table, options.rows), question.metric)
    if metric is None or preferred is None:
        return None
    chosen = preferred.decision.chosen.candidate
    losses = preferred.predictors[chosen.method].loss_replicates(chosen.size, chosen.pet, question.examples)
    own = options.rows[options.rows["method"] == chosen.method]
    return expected_score(own, metric, losses)


def _warnings(
    options: Options, preferred: LawDecision | None, affordable: Sequence[TuningCandidate], question: Question
) -> Iterator[str]:
    if preferred is None:
        return
    chosen = preferred.decision.chosen.candidate
    for estimate in filter(None, (preferred.decision.chosen, preferred.decision.runner_up)):
        c = estimate.candidate
        own = preferred.predictors[c.method]
        for name, distance in own.outside(c.size, c.pet, question.examples).items():
            low, high = own.ranges[name]
            sd = own.extrapolation_sd[name] * distance
            yield (
                f"{c.method}: extrapolated outside the fitted {RANGE_NAMES[name]} ({low:,.0f} to {high:,.0f}), which "
                f"adds a standard deviation of {sd:.2g} nats"
            )
    if chosen.pet is not None and chosen.pet != options.pets[chosen.method].size:
        yield f"{chosen.method}: PET sizes were measured on one model; the same effect is assumed on this one"
    for m, pet in options.pets.items():
        if pet.size is None and (options.rows["method"].eq(m) & options.rows["factor"].eq("pet")).any():
            yield f"{m}: PET sizes are not compared; the model rows need a column pet_size"
    cost = options.costs[chosen]
    if cost is not None and cost.high is not None and not question.affords(cost.high):
        yield "the expected cost is within the budget, but the upper end of its interval is above it"
    if len(options.methods) == 1:
        yield f"{chosen.method} is the only measured method, so no methods are compared"
    if len(affordable) == 1:
        yield "only one candidate is affordable, so no candidates are compared"


def _point_warnings(table: PointsTable, task: str) -> list[str]:
    """Return the table's warnings about this task, and those about no particular task."""
    others = tuple(f"{other}, " for other in table.tasks if other != task)
    return [text.rstrip(".") for text in table.warnings if not text.startswith(others)]


def _next_runs(
    options: Options, preferred: LawDecision | None, affordable: Sequence[TuningCandidate], question: Question
) -> tuple[ProposedRun, ...] | None:
    if not question.next_runs:
        return None
    if preferred is None:
        return ()
    predictors = preferred.predictors
    within = [c for c in affordable if c.method in predictors]
    losses = bootstrap_losses(within, predictors, question.examples)
    runs = list_runs(options.rows, predictors, options.models, question.examples, question.further_sizes)
    return tuple(propose(runs, predictors, losses, preferred.decision.regret, question.next_runs))
