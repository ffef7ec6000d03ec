"""The answer to a question for one task, and its text as the command prints it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune_scaling.formatting import FACTOR_NAMES, format_count, method_name
from finetune_scaling.laws.forms.library import SINGLE
from finetune_scaling.laws.points.columns import FACTORS
from finetune_scaling.laws.uncertainty.intervals import Interval
from finetune_scaling.recommendation.candidates import CandidateSet, TuningCandidate
from finetune_scaling.recommendation.decision import CandidateEstimate, Decision, Losses
from finetune_scaling.recommendation.expected_score import ExpectedScore
from finetune_scaling.recommendation.information_value import ProposedRun
from finetune_scaling.recommendation.loss_predictions import LossPredictor
from finetune_scaling.recommendation.more_data import MoreData
from finetune_scaling.recommendation.storage import Storage

CHOOSE, EQUIVALENT, INCONCLUSIVE = "choose", "several equally good", "inconclusive"
# A choice is clear at this probability of being the best, and its regret is negligible if the 95 % quantile (nats per
# token) is at most NEGLIGIBLE.
CONFIDENT = 0.8
NEGLIGIBLE = 0.005

LABEL_WIDTH = 14
RANGE_NAMES = {"model": "model sizes", "examples": "dataset sizes", "pet": "PET sizes"}
SHOWN = 6  # most probable candidates in the table


@dataclass(frozen=True)
class LawDecision:
    """The decision by one law.

    losses: of the affordable candidates; decision: among these; unlimited: among all candidates, None if all are
    affordable; predictors: by method.
    """

    law: str
    losses: Losses
    decision: Decision
    unlimited: Decision | None
    predictors: Mapping[str, LossPredictor]


@dataclass(frozen=True)
class Advice:
    """The answer for one task.

    verdict: CHOOSE, EQUIVALENT or INCONCLUSIVE; reasons: why it is inconclusive; preferred, other: decisions by the two
    laws, None if no method was fitted; other_regret: excess loss of the preferred law's choice by the other law (nats
    per token); storage: by candidate; score: the expected metric score; warnings: sentences; next_runs: None if none
    were requested; more_data: each method's best candidate on multiples of the examples, None if not requested.
    """

    candidates: CandidateSet
    verdict: str
    reasons: tuple[str, ...]
    preferred: LawDecision | None
    other: LawDecision | None
    other_regret: float | None
    storage: Mapping[TuningCandidate, Storage | None]
    score: ExpectedScore | None
    warnings: tuple[str, ...]
    next_runs: tuple[ProposedRun, ...] | None
    more_data: tuple[MoreData, ...] | None

    @property
    def chosen(self) -> TuningCandidate | None:
        """The preferred law's choice."""
        return self.preferred.decision.chosen.candidate if self.preferred else None

    @property
    def measured(self) -> list[dict[str, Any]]:
        """The measured setting of each method with the nearest dataset size, and of these the lowest loss."""
        found = []
        for method, rows in self.candidates.rows.items():
            own = rows[rows["factor"].isin(FACTORS)]
            own = rows if own.empty else own  # a sweep of learning rates only
            distances = (np.log(own["finetune_examples"]) - np.log(self.candidates.question.examples)).abs()
            nearest = own[distances <= distances.min() + 1e-9]
            if len(nearest):
                best = nearest.loc[nearest["loss"].idxmin()]
                numbers = {name: float(best[name]) for name in ("x", "finetune_examples", "loss")}
                found.append({"method": method, "factor": str(best["factor"]), **numbers})
        return sorted(found, key=lambda row: row["loss"])

    def price(self, flops: float) -> dict[str, Any]:
        """Return chip-hours and US dollars of FLOPs on the question's chip; None without a chip or a price."""
        chip, rates = self.candidates.question.chip, self.candidates.question.rates
        if chip is None:
            return {"chip": None, "chip_hours": None, "usd": None, "utilisation": rates.utilisation}
        hours = rates.chip_hours(flops, chip)
        price = rates.prices.get(chip.kind)
        usd = None if price is None or price.on_demand is None else price.on_demand * hours
        return {"chip": chip.kind, "chip_hours": hours, "usd": usd, "utilisation": rates.utilisation}

    def __str__(self) -> str:
        """Return the answer as aligned lines of text."""
        question, budget = self.candidates.question, self.candidates.question.budget
        limit = "" if budget is None else f", budget {budget.text}"
        if budget is not None and budget.chip is not None:
            peak = f"{question.rates.utilisation:.0%} of peak"
            limit += f" = {budget.flops:.3g} FLOPs of {budget.chip.kind} at {peak}"
        head = f"{self.candidates.task}, {question.examples:,.0f} finetuning examples{limit}"
        return "\n".join([head, *(f"  {label:<{LABEL_WIDTH}}{text}" for label, text in _lines(self))])


def _lines(advice: Advice) -> Iterator[tuple[str, str]]:
    yield "verdict", _verdict_text(advice)
    for reason in advice.reasons:
        yield "reason", reason
    if advice.preferred is not None:
        yield from _choice_lines(advice, advice.preferred.decision)
        yield from _risk_lines(advice, advice.preferred)
        yield from _candidate_lines(advice, advice.preferred.decision)
        for text in advice.warnings:
            yield "warning", text
        yield from _more_data_lines(advice)
        yield from _next_run_lines(advice)
        return
    for number, row in enumerate(advice.measured):  # instead of predictions
        name, x = FACTOR_NAMES[row["factor"]], format_count(row["x"])
        where = f"{method_name(row['method'])}, {name} {x}, {row['finetune_examples']:,.0f} examples"
        yield "" if number else "measured", f"{where}: {_short(row['loss'])} nats per token"


def _verdict_text(advice: Advice) -> str:
    if advice.verdict == INCONCLUSIVE:
        return f"{INCONCLUSIVE}; the best estimate follows" if advice.preferred else INCONCLUSIVE
    if advice.verdict == EQUIVALENT:
        return f"{EQUIVALENT}: the regret is below {NEGLIGIBLE} nats in 95 % of the replicates"
    return f"{CHOOSE}: the choice is the best candidate with probability {CONFIDENT} or more"


def _choice_lines(advice: Advice, decision: Decision) -> Iterator[tuple[str, str]]:
    chosen = decision.chosen.candidate
    yield "best estimate" if advice.verdict == INCONCLUSIVE else "choice", str(chosen)
    yield "loss", f"{_loss(decision.chosen)} nats per token"
    if advice.score is not None:
        yield advice.score.metric, _score_text(advice.score)
    yield "cost", _cost_text(advice, chosen)
    storage = advice.storage[chosen]
    what = "complete model" if chosen.method == "full" else "adapter"
    if storage is None:
        yield "storage", f"{what}: unknown, the points have no column trainable_parameters"
    else:
        yield "storage", f"{what} of {'' if storage.measured else 'about '}{storage.bytes:,.0f} bytes in float32"


def _score_text(score: ExpectedScore) -> str:
    if score.score is None:
        return f"not predicted: {score.why}"
    return f"{score.score:.3g} {_interval(score.interval)}, by the {score.law} law of the loss"


def _cost_text(advice: Advice, candidate: TuningCandidate) -> str:
    cost = advice.candidates.costs[candidate]
    if cost is None:
        return "unknown, the points have no column flops; --tokens-per-example gives an analytic cost"
    text = f"{cost.flops:.3g} FLOPs"
    if cost.low is not None and cost.high is not None:
        text += f" [{cost.low:.3g}, {cost.high:.3g}]"
    price = advice.price(cost.flops)
    if price["chip"] is not None:
        text += f"; {price['chip_hours']:.3g} chip-hours of {price['chip']} at {price['utilisation']:.0%} of peak"
    if price["usd"] is not None:
        text += f", ${price['usd']:.2f}"
    return text


def _risk_lines(advice: Advice, preferred: LawDecision) -> Iterator[tuple[str, str]]:
    decision = preferred.decision
    method, size = (_probability(p) for p in (decision.method_best, decision.size_best))
    yield "P(best)", f"{_probability(decision.chosen.probability_best)} (method {method}, model size {size})"
    yield "regret", f"{decision.regret:.2g} nats expected, {decision.regret_95:.2g} at the 95 % quantile"
    second = decision.runner_up
    if second is not None:
        yield "runner-up", f"{second.candidate}, P(best) {_probability(second.probability_best)}"
    yield "laws", _law_text(advice, preferred)
    if preferred.unlimited is not None:
        best = preferred.unlimited.chosen
        cost = _cost_text(advice, best.candidate)
        yield "no budget", f"{best.candidate}: {_short(best.loss)} nats per token, {cost}"


def _probability(share: float) -> str:
    """Format a probability; a few hundred replicates do not resolve the last half percent."""
    return ">0.99" if share >= 0.995 else "<0.01" if share < 0.005 else f"{share:.2f}"


def _law_text(advice: Advice, preferred: LawDecision) -> str:
    if preferred.law == SINGLE.name:
        return f"{SINGLE.name}, over dataset size at each model size; no joint law could be fitted"
    if advice.other is None:
        return f"{preferred.law}; the other joint law could not be fitted"
    chosen = advice.other.decision.chosen.candidate
    if chosen == advice.chosen:
        return f"{preferred.law}; the {advice.other.law} law makes the same choice"
    cost = "" if advice.other_regret is None else f", by which the regret is {advice.other_regret:.2g} nats"
    return f"{preferred.law}; the {advice.other.law} law chooses {chosen}{cost}"


def _candidate_lines(advice: Advice, decision: Decision) -> Iterator[tuple[str, str]]:
    """Yield the most probable affordable candidates and each method's best one, by loss."""
    ranked = sorted(decision.estimates, key=lambda e: e.loss)
    firsts = {e.candidate.method: e for e in reversed(ranked)}.values()
    likely = sorted(decision.estimates, key=lambda e: -e.probability_best)[:SHOWN]
    shown = [e for e in ranked if e in likely or e in firsts]
    width = max(len(str(e.candidate)) for e in shown)
    label = "affordable" if advice.candidates.question.budget else "candidates"
    yield label, f"{len(decision.estimates)} of {len(advice.candidates.costs)}, {len(shown)} shown"
    for e in shown:
        cost = advice.candidates.costs[e.candidate]
        flops = "" if cost is None else f"  {cost.flops:>8.2g} FLOPs"
        yield "", f"{e.candidate!s:<{width}}  {_loss(e):<22} P(best) {_probability(e.probability_best):<5}{flops}"


def _more_data_lines(advice: Advice) -> Iterator[tuple[str, str]]:
    rows = advice.more_data or ()
    for number, row in enumerate(rows):
        if not number or row.candidate != rows[number - 1].candidate:
            yield "" if number else "more data", str(row.candidate)
        loss = f"{_short(row.loss)} {_interval(row.interval)}"
        less = f"lower by {_short(row.reduction)} {_interval(row.reduction_interval)}" if row.multiple > 1 else ""
        score = "" if row.score is None or row.score.score is None else f"{row.score.metric} {_score_text(row.score)}"
        flops = "" if row.cost is None else f"{row.cost.flops:.2g} FLOPs"
        outside = f"outside the fitted {', '.join(RANGE_NAMES[name] for name in row.outside)}" if row.outside else ""
        notes = "; ".join(filter(None, (less, score, flops, outside)))
        yield "", f"  x{row.multiple:<3} {row.examples:>12,.0f} examples  {loss:<22}  {notes}"


def _next_run_lines(advice: Advice) -> Iterator[tuple[str, str]]:
    if advice.next_runs == ():
        yield "next run", "none: no single run would reduce the expected regret noticeably"
    for number, proposal in enumerate(advice.next_runs or (), 1):
        run = proposal.run
        candidate = TuningCandidate(run.method, run.size, run.pet)
        gain = f"the expected regret falls by {proposal.gain:.2g} to {proposal.regret:.2g} nats"
        yield f"next run {number}", f"{candidate}, {run.examples:,.0f} examples: {run.flops:.2g} FLOPs, {gain}"


def _loss(estimate: CandidateEstimate) -> str:
    return f"{_short(estimate.loss)} {_interval(estimate.interval)}"


def _short(value: float) -> str:
    """Format with three decimals, or three digits below 0.1."""
    return f"{value:.3f}" if value == 0 or abs(value) >= 0.1 else f"{value:.3g}"


def _interval(interval: Interval) -> str:
    low, high = ("?" if end is None else _short(end) for end in (interval.low, interval.high))
    return f"[{low}, {high}]"
