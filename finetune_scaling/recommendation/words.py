"""The answer in words: short aligned lines that a person can act on."""

from collections.abc import Iterator

from finetune_scaling.laws.uncertainty.intervals import Interval
from finetune_scaling.recommendation.advice import CONFIDENT, EITHER, NEGLIGIBLE, NOT_TOLD, Advice
from finetune_scaling.recommendation.candidates import Candidate
from finetune_scaling.recommendation.decision import Decision, Outlook
from finetune_scaling.recommendation.next_run import Proposal
from finetune_scaling.recommendation.record import costs_of
from finetune_scaling.recommendation.scores import ExpectedScore
from finetune_scaling.report.names import human, method_name

WIDTH = 14
SHOWN = 6  # candidates in the table


def describe(advice: Advice) -> str:
    """One task's answer."""
    budget = advice.question.budget
    limit = "" if budget is None else f", budget {budget.text}"
    if budget is not None and budget.chip is not None:
        limit += f" = {budget.flops:.3g} FLOPs of {budget.chip.kind} at {advice.question.rates.utilisation:.0%} of peak"
    head = f"{advice.task}, {advice.question.examples:,.0f} finetuning examples{limit}"
    return "\n".join([head, *(_line(name, text) for name, text in _lines(advice))])


def called(candidate: Candidate) -> str:
    """A candidate in running text: LoRA of rank 4 on 1.01M parameters."""
    kind = {"lora": "rank", "prompt": "length"}.get(candidate.method, "size")
    pet = "" if candidate.pet is None else f" of {kind} {candidate.pet:g}"
    return f"{method_name(candidate.method)}{pet} on {human(candidate.size)} parameters"


def _line(name: str, text: str) -> str:
    return f"  {name:<{WIDTH}}{text}"


def _lines(advice: Advice) -> Iterator[tuple[str, str]]:
    yield "verdict", _verdict(advice)
    for reason in advice.reasons:
        yield "because", reason
    answer = advice.preferred
    if answer is None:
        return
    yield from _choice(advice, answer.decision)
    yield from _risk(advice)
    yield from _table(advice, answer.decision)
    for text in advice.reservations:
        yield "reservation", text
    yield from _next_runs(advice)


def _verdict(advice: Advice) -> str:
    if advice.verdict == NOT_TOLD:
        return f"{NOT_TOLD}; the nearest to a choice is below" if advice.preferred else NOT_TOLD
    if advice.verdict == EITHER:
        return f"{EITHER}: a wrong choice costs less than {NEGLIGIBLE} nats in 95 % of the draws"
    return f"a choice that is right with probability {CONFIDENT} or more"


def _choice(advice: Advice, decision: Decision) -> Iterator[tuple[str, str]]:
    chosen = decision.chosen.candidate
    yield "choose" if advice.verdict != NOT_TOLD else "nearest", called(chosen)
    yield "loss", f"{_short(decision.chosen.loss)} nats per token {_interval(decision.chosen.interval)}"
    if advice.score is not None:
        yield advice.score.metric, _score(advice.score)
    yield "cost", _cost(advice, chosen)
    kept = advice.storage[chosen]
    what = "whole model" if chosen.method == "full" else "adapter"
    if kept is None:
        yield "storage", f"{what}: not told, the points have no trainable_parameters"
    else:
        yield "storage", f"{what} of {'' if kept.measured else 'about '}{kept.bytes:,.0f} bytes in float32"


def _score(score: ExpectedScore) -> str:
    if score.score is None:
        return f"not told: {score.why}"
    return f"{score.score:.3g} {_interval(score.interval)}, by the {score.law} law of the loss"


def _cost(advice: Advice, candidate: Candidate) -> str:
    cost = advice.costs[candidate]
    if cost is None:
        return "not told: the points have no flops; --tokens-per-example would tell it"
    text = f"{cost.flops:.3g} FLOPs"
    if cost.low is not None and cost.high is not None:
        text += f" [{cost.low:.3g}, {cost.high:.3g}]"
    money = costs_of(advice, cost.flops)
    if money["chip"] is not None:
        text += f"; {money['chip_hours']:.3g} chip-hours of {money['chip']} at {money['utilisation']:.0%} of peak"
    if money["usd"] is not None:
        text += f", ${money['usd']:.2f}"
    return text


def _risk(advice: Advice) -> Iterator[tuple[str, str]]:
    assert advice.preferred is not None
    decision = advice.preferred.decision
    yield (
        "right",
        f"with probability {_share(decision.chosen.best)} (its method {_share(decision.method_best)}, its model size "
        f"{_share(decision.size_best)})",
    )
    yield "if wrong", f"expected regret {decision.regret:.2g} nats, {decision.regret_95:.2g} at the 95 % quantile"
    second = decision.runner_up
    if second is not None:
        yield "runner-up", f"{called(second.candidate)}, best with probability {_share(second.best)}"
    yield "laws", _other_law(advice)
    if advice.preferred.unlimited is not None:
        beyond = advice.preferred.unlimited.chosen
        yield "no budget", f"{called(beyond.candidate)}: {_short(beyond.loss)} nats, {_cost(advice, beyond.candidate)}"


def _share(share: float) -> str:
    """A share of the draws as a probability; a few hundred of them do not tell the last half percent."""
    return ">0.99" if share >= 0.995 else "<0.01" if share < 0.005 else f"{share:.2f}"


def _other_law(advice: Advice) -> str:
    assert advice.preferred is not None
    own = advice.preferred.law
    if advice.other is None:
        return f"{own}; the other joint law could not be fitted"
    chosen = advice.other.decision.chosen.candidate
    if chosen == advice.chosen:
        return f"{own}; the {advice.other.law} law chooses the same"
    cost = "" if advice.other_regret is None else f", by it this choice costs {advice.other_regret:.2g} nats"
    return f"{own}; the {advice.other.law} law chooses {called(chosen)}{cost}"


def _table(advice: Advice, decision: Decision) -> Iterator[tuple[str, str]]:
    """The affordable candidates that matter: the most probable ones, and each method's best."""
    ranked = sorted(decision.outlooks, key=lambda o: o.loss)
    firsts = {o.candidate.method: o for o in reversed(ranked)}.values()
    likely = sorted(decision.outlooks, key=lambda o: -o.best)[:SHOWN]
    shown = [o for o in ranked if o in likely or o in firsts]
    width = max(len(called(o.candidate)) for o in shown)
    budget = advice.question.budget
    yield "affordable" if budget else "candidates", f"{len(decision.outlooks)} of {len(advice.costs)}, among them"
    yield from (("", _row(advice, outlook, width)) for outlook in shown)


def _row(advice: Advice, outlook: Outlook, width: int) -> str:
    cost = advice.costs[outlook.candidate]
    flops = "" if cost is None else f"  {cost.flops:>8.2g} FLOPs"
    loss = f"{_short(outlook.loss)} {_interval(outlook.interval)}"
    return f"{called(outlook.candidate):<{width}}  {loss:<22} best {_share(outlook.best):<5}{flops}"


def _next_runs(advice: Advice) -> Iterator[tuple[str, str]]:
    if advice.next_runs is None:
        return
    if not advice.next_runs:
        yield "next run", "none: no single run that was not made yet would lower the expected regret noticeably"
    for place, proposal in enumerate(advice.next_runs, 1):
        yield f"next run {place}", _proposal(proposal)


def _proposal(proposal: Proposal) -> str:
    run = proposal.run
    text = f"{called(Candidate(run.method, run.size, run.pet))}, {run.examples:,.0f} examples: {run.flops:.2g} FLOPs, "
    text += f"expected regret falls by {proposal.gain:.2g} to {proposal.regret:.2g} nats"
    return text


def _short(value: float) -> str:
    """Thousandths of a nat, or three digits of what is smaller than they tell."""
    return f"{value:.3f}" if value == 0 or abs(value) >= 0.1 else f"{value:.3g}"


def _interval(interval: Interval) -> str:
    low, high = ("?" if end is None else _short(end) for end in (interval.low, interval.high))
    return f"[{low}, {high}]"
