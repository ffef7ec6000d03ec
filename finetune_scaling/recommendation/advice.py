"""The answer for one task: the choice under each law, its costs, and whether the points suffice for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from finetune_scaling.analysis.joint_fits import ordered
from finetune_scaling.analysis.model_selection import select_joint_law
from finetune_scaling.errors import ConfigError
from finetune_scaling.laws.fitting.joint_fit import DESCRIBES, JointFit, Skipped
from finetune_scaling.laws.forms.joint import ADDITIVE, MULTIPLICATIVE
from finetune_scaling.laws.points.table import PointsTable
from finetune_scaling.laws.uncertainty.intervals import Interval
from finetune_scaling.recommendation.candidates import Candidate, drawn_losses, list_candidates, priced
from finetune_scaling.recommendation.cost import Cost, CostModel, cost_models, sources
from finetune_scaling.recommendation.decision import Decision, decide, excess_loss
from finetune_scaling.recommendation.next_run import Proposal, list_runs, propose
from finetune_scaling.recommendation.pet import PetDefault, pet_default
from finetune_scaling.recommendation.question import Question, known_metric
from finetune_scaling.recommendation.scores import ExpectedScore, expected_score
from finetune_scaling.recommendation.storage import Storage, stored
from finetune_scaling.recommendation.surface import Surface, surface
from finetune_scaling.tuning.registry import METHODS

# The choice counts as told from the others at this probability, or where a wrong one costs less than so many nats in
# 95 % of the draws.
CONFIDENT = 0.8
NEGLIGIBLE = 0.005

CHOOSE, EITHER, NOT_TOLD = "choose", "several are as good", "not enough points to tell"
RANGES = {"model": "model sizes", "examples": "numbers of examples", "pet": "PET sizes"}
Fits = Mapping[tuple[str, str, str], JointFit]


@dataclass(frozen=True)
class UnderLaw:
    """What one law says. decision: among the affordable; unlimited: among all, None where all are affordable;
    surfaces: by method.
    """

    law: str
    decision: Decision
    unlimited: Decision | None
    surfaces: Mapping[str, Surface]


@dataclass(frozen=True)
class Advice:
    """The answer for one task.

    verdict: CHOOSE, EITHER or NOT_TOLD; reasons: why not told; preferred, other: the answers by the two laws, None
    where no method could be fitted by it; other_regret: what the preferred law's choice costs by the other law, nats;
    costs, affordable, storage: by candidate; cost_sources: by method; score: the expected metric, None without one;
    reservations: in sentences; next_runs: None where none were asked for.
    """

    task: str
    question: Question
    verdict: str
    reasons: tuple[str, ...]
    preferred: UnderLaw | None
    other: UnderLaw | None
    other_regret: float | None
    costs: Mapping[Candidate, Cost | None]
    affordable: tuple[Candidate, ...]
    storage: Mapping[Candidate, Storage | None]
    cost_sources: Mapping[str, str]
    score: ExpectedScore | None
    reservations: tuple[str, ...]
    next_runs: tuple[Proposal, ...] | None

    @property
    def chosen(self) -> Candidate | None:
        """The preferred law's choice."""
        return self.preferred.decision.chosen.candidate if self.preferred else None

    def __str__(self) -> str:
        """The answer in words, as the command prints it."""
        from finetune_scaling.recommendation.words import describe  # here, since it is about this class

        return describe(self)


@dataclass(frozen=True)
class Grounds:
    """What can be said of a task before any fit. rows: its settings; pets: by method; costs: by method and candidate;
    candidates: of all methods.
    """

    task: str
    rows: pd.DataFrame
    pets: Mapping[str, PetDefault]
    models: Mapping[str, CostModel]
    candidates: tuple[Candidate, ...]
    costs: Mapping[Candidate, Cost | None]

    @property
    def methods(self) -> tuple[str, ...]:
        """Methods with points."""
        return tuple(self.pets)


def lay_out(table: PointsTable, task: str, question: Question) -> Grounds:
    """Candidates and costs of a task.

    ConfigError where its costs are needed and unknown, where all are above the budget, or of an unknown metric.
    """
    rows = table.settings[table.settings["task"] == task]
    known_metric(_scores(table, rows), question.metric)
    methods = ordered(rows["method"], METHODS)
    pets = {method: pet_default(rows[rows["method"] == method]) for method in methods}
    models = cost_models(rows, pets, question.tokens_per_example, question.epochs)
    candidates = tuple(list_candidates(rows, pets, question.further_sizes))
    grounds = Grounds(task, rows, pets, models, candidates, priced(candidates, models, question.examples))
    _check_costs(grounds, question)
    return grounds


def advise(
    table: PointsTable,
    fits: Fits,
    skipped: Sequence[Skipped],
    task: str,
    question: Question,
) -> Advice:
    """The answer for a task whose methods were fitted. ConfigError as in lay_out."""
    grounds = lay_out(table, task, question)
    affordable = tuple(c for c in grounds.candidates if _is_affordable(grounds.costs[c], question))
    answers = [_under(law.name, grounds, fits, affordable, question) for law in (MULTIPLICATIVE, ADDITIVE)]
    preferred, other = answers if _leads(grounds, fits) == MULTIPLICATIVE.name else answers[::-1]
    preferred, other = (preferred, other) if preferred else (other, preferred)
    regret = _regret_under(other, preferred, affordable, question)
    reasons = tuple(_reasons(grounds, preferred, skipped, regret, question))
    return Advice(
        task=task,
        question=question,
        verdict=_verdict(preferred, reasons),
        reasons=reasons,
        preferred=preferred,
        other=other,
        other_regret=regret,
        costs=grounds.costs,
        affordable=affordable,
        storage=_storage(table, grounds),
        cost_sources=sources(grounds.models, grounds.methods),
        score=_score(table, grounds, preferred, question),
        reservations=(*_reservations(grounds, preferred, affordable, question), *_doubts(table, task)),
        next_runs=_next_runs(grounds, preferred, affordable, question),
    )


def _scores(table: PointsTable, rows: pd.DataFrame) -> tuple[str, ...]:
    """Metric columns that rows have scores of."""
    return tuple(metric for metric in table.metrics if rows[metric].notna().any())


def _check_costs(grounds: Grounds, question: Question) -> None:
    unknown = [method for method in grounds.methods if method not in grounds.models]
    if unknown and (question.budget or question.next_runs):
        flag = "--budget" if question.budget else "--next-run"
        raise ConfigError(
            f"{flag}: what {', '.join(unknown)} costs on {grounds.task} is not known; give the points a column flops, "
            "or give --tokens-per-example"
        )
    if question.budget is None or not grounds.candidates:
        return
    costs = {c: cost.flops for c, cost in grounds.costs.items() if cost is not None}
    cheapest = min(costs, key=lambda c: costs[c])
    if not question.affords(costs[cheapest]):
        pet = "" if cheapest.pet is None else f", PET size {cheapest.pet:g}"
        raise ConfigError(
            f"--budget={question.budget.text} is {question.budget.flops:.3g} FLOPs; the cheapest candidate on "
            f"{grounds.task} ({cheapest.method} on {cheapest.size:,.0f} parameters{pet}) takes "
            f"{costs[cheapest]:.3g}: raise the budget or give fewer examples"
        )


def _is_affordable(cost: Cost | None, question: Question) -> bool:
    return question.budget is None or (cost is not None and question.affords(cost.flops))


def _leads(grounds: Grounds, fits: Fits) -> str:
    """The law that leads: the additive where the points of some method prefer it and those of none the other."""
    laws = (MULTIPLICATIVE.name, ADDITIVE.name)
    preferred = set()
    for method in grounds.methods:
        own = {law: fits[grounds.task, method, law] for law in laws if (grounds.task, method, law) in fits}
        if len(own) == len(laws):
            preferred.add(select_joint_law(own).preferred)
    return ADDITIVE.name if preferred - {None} == {ADDITIVE.name} else MULTIPLICATIVE.name


def _under(
    law: str, grounds: Grounds, fits: Fits, affordable: Sequence[Candidate], question: Question
) -> UnderLaw | None:
    surfaces = {}
    for method in grounds.methods:
        fit = fits.get((grounds.task, method, law))
        if fit is not None and "model" in fit.factors:
            own = grounds.rows[grounds.rows["method"] == method]
            surfaces[method] = surface(fit, own, grounds.pets[method])
    every = [c for c in grounds.candidates if c.method in surfaces]
    within = [c for c in every if c in affordable]
    if not within:
        return None
    decision = decide(within, drawn_losses(within, surfaces, question.examples))
    unlimited = None
    if len(within) < len(every):
        unlimited = decide(every, drawn_losses(every, surfaces, question.examples))
    return UnderLaw(law, decision, unlimited, surfaces)


def _regret_under(
    other: UnderLaw | None, preferred: UnderLaw | None, affordable: Sequence[Candidate], question: Question
) -> float | None:
    """What the preferred law's choice costs by the other law; None where that cannot be told."""
    if other is None or preferred is None:
        return None
    chosen = preferred.decision.chosen.candidate
    own = [c for c in affordable if c.method in other.surfaces]
    return excess_loss(chosen, own, drawn_losses(own, other.surfaces, question.examples)) if chosen in own else None


def _verdict(answer: UnderLaw | None, reasons: Sequence[str]) -> str:
    if answer is None or reasons:
        return NOT_TOLD
    return CHOOSE if answer.decision.chosen.best >= CONFIDENT else EITHER


def _reasons(
    grounds: Grounds,
    answer: UnderLaw | None,
    skipped: Sequence[Skipped],
    other_regret: float | None,
    question: Question,
) -> list[str]:
    """Why these points are not enough; none where they are."""
    found = [_why_missing(grounds.task, m, skipped, answer) for m in grounds.methods if not _has(answer, m)]
    if answer is None:
        return found or ["no candidate's law could be fitted"]
    found += [_why_no_law(own) for own in answer.surfaces.values() if not own.fit.describes]
    decision = answer.decision
    for outlook in filter(None, (decision.chosen, decision.runner_up)):
        found += _why_not_there(answer.surfaces[outlook.candidate.method], outlook.interval, outlook.loss)
        found += _why_no_spread(answer.surfaces[outlook.candidate.method], outlook.candidate, question.examples)
    if decision.chosen.best < CONFIDENT and decision.regret_95 > NEGLIGIBLE:
        found.append(
            f"the choice is right with probability {decision.chosen.best:.3g}, below {CONFIDENT}, and a wrong one may "
            f"cost {decision.regret_95:.2g} nats (more than {NEGLIGIBLE})"
        )
    if other_regret is not None and other_regret > NEGLIGIBLE:
        found.append(f"the other law would choose otherwise, and by it this choice costs {other_regret:.2g} nats")
    return list(dict.fromkeys(found))


def _has(answer: UnderLaw | None, method: str) -> bool:
    return answer is not None and method in answer.surfaces


def _why_missing(task: str, method: str, skipped: Sequence[Skipped], answer: UnderLaw | None) -> str:
    law = answer.law if answer else MULTIPLICATIVE.name
    own = [s.reason for s in skipped if (s.task, s.method, s.law) == (task, method, law)]
    return f"{method} could not be fitted: {'; '.join(own) or 'its points do not vary the model size'}"


def _why_no_law(own: Surface) -> str:
    return f"the {own.fit.law.name} law does not describe {own.method} (it misses by {own.fit.misfit:.0%})"


def _why_not_there(own: Surface, interval: Interval, loss: float) -> list[str]:
    if interval.low is None or interval.high is None or (interval.high - interval.low) / 2 > DESCRIBES * loss:
        return [f"the loss of {own.method} is not held there: its 90 % interval is wider than ±{DESCRIBES:.0%}"]
    return []


def _why_no_spread(own: Surface, candidate: Candidate, examples: float) -> list[str]:
    """A direction that is extrapolated along an exponent whose spread cannot be told."""
    exponents = {"examples": "beta", "model": "alpha_model", "pet": "alpha_pet"}
    return [
        f"{own.method} is asked beyond the fitted {RANGES[name]}, and their exponent is not held: "
        f"{own.fit.reasons[exponents[name]]}"
        for name in own.beyond(candidate.size, candidate.pet, examples)
        if exponents[name] in own.fit.reasons
    ]


def _storage(table: PointsTable, grounds: Grounds) -> dict[Candidate, Storage | None]:
    runs = table.runs[table.runs["task"] == grounds.task]
    found: dict[Candidate, Storage | None] = {}
    for method, pet in grounds.pets.items():
        own = [c for c in grounds.candidates if c.method == method]
        found |= stored(runs[runs["method"] == method], pet, own)
    return found


def _score(table: PointsTable, grounds: Grounds, answer: UnderLaw | None, question: Question) -> ExpectedScore | None:
    metric = known_metric(_scores(table, grounds.rows), question.metric)
    if metric is None or answer is None:
        return None
    chosen = answer.decision.chosen.candidate
    losses = answer.surfaces[chosen.method].draws(chosen.size, chosen.pet, question.examples)
    own = grounds.rows[grounds.rows["method"] == chosen.method]
    return expected_score(own, metric, losses)


def _reservations(
    grounds: Grounds, answer: UnderLaw | None, affordable: Sequence[Candidate], question: Question
) -> list[str]:
    if answer is None:
        return []
    chosen = answer.decision.chosen.candidate
    found = []
    for outlook in filter(None, (answer.decision.chosen, answer.decision.runner_up)):
        c = outlook.candidate
        own = answer.surfaces[c.method]
        found += [
            f"{c.method}: beyond the fitted {RANGES[name]} ({own.ranges[name][0]:,.0f} to {own.ranges[name][1]:,.0f}); "
            f"{own.allowances[name] * beyond:.2g} nats are allowed for that"
            for name, beyond in own.beyond(c.size, c.pet, question.examples).items()
        ]
    if chosen.pet is not None and chosen.pet != grounds.pets[chosen.method].size:
        found.append(
            f"{chosen.method}: PET sizes were measured on one model and are taken to act alike on this one "
            "(the law over PET size times, or plus, the law over model size)"
        )
    found += [
        f"{m}: PET size is not part of the choice, since the points do not tell that of their model rows; give them "
        "a column pet_size"
        for m, pet in grounds.pets.items()
        if pet.size is None and (grounds.rows["method"].eq(m) & grounds.rows["factor"].eq("pet")).any()
    ]
    cost = grounds.costs[chosen]
    if cost is not None and cost.high is not None and not question.affords(cost.high):
        found.append("the cost is within the budget as expected, and may be above it (its interval reaches beyond)")
    if len(grounds.methods) == 1:
        found.append(f"{chosen.method} is the only method that was measured, so no other is compared with it")
    if len(affordable) == 1:
        found.append("one candidate alone is affordable, so there is nothing to choose")
    return list(dict.fromkeys(found))


def _doubts(table: PointsTable, task: str) -> list[str]:
    """What looks wrong in the rows of a task, and in those that no task is named for."""
    others = tuple(f"{other}, " for other in table.tasks if other != task)
    return [doubt.rstrip(".") for doubt in table.warnings if not doubt.startswith(others)]


def _next_runs(
    grounds: Grounds, answer: UnderLaw | None, affordable: Sequence[Candidate], question: Question
) -> tuple[Proposal, ...] | None:
    if not question.next_runs:
        return None
    if answer is None:
        return ()
    within = [c for c in affordable if c.method in answer.surfaces]
    losses = drawn_losses(within, answer.surfaces, question.examples)
    runs = list_runs(grounds.rows, answer.surfaces, grounds.models, question.examples, question.further_sizes)
    return tuple(propose(runs, answer.surfaces, losses, answer.decision.regret, question.next_runs))
