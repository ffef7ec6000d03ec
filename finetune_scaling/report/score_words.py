"""What the scores say, in plain sentences: which metrics follow the loss, and what tuning changes outside its task."""

import re
from collections.abc import Iterator, Sequence

from finetune_scaling.analysis.claims import INCONCLUSIVE
from finetune_scaling.analysis.correlation import DOES_NOT_TRACK, TRACKS_LOSS, Correlation, ProxyVerdict, proxy_verdicts
from finetune_scaling.analysis.forgetting import ScoreChange, main_factor, shown_columns
from finetune_scaling.report.names import FACTOR_NAMES, human, method_name

LEAVES = "leaves within the spread of its runs"
STAND_IN_WORDS = {
    TRACKS_LOSS: "may stand in for the loss",
    DOES_NOT_TRACK: "cannot stand in for the loss",
    INCONCLUSIVE: "cannot be told to stand in for the loss",
}


def correlation_line(found: list[Correlation], task: str, metric: str) -> Iterator[str]:
    """The verdict on a task's main metric, where it was measured."""
    yield from (stand_in_sentence(s) for s in proxy_verdicts(found) if (s.task, s.metric) == (task, metric))


def stand_in_sentence(stand_in: ProxyVerdict) -> str:
    """Whether a metric may stand in for the loss: the tally of its cells, and the cells that speak against it."""
    against = [cell for cell in stand_in.cells if cell.verdict == DOES_NOT_TRACK]
    where = ", ".join(f"{cell_name(cell)} (r {cell.pearson.value:.2f})" for cell in against if cell.pearson)
    plain = f"{stand_in.metric} {STAND_IN_WORDS[stand_in.verdict]}: {stand_in.tally} cells"
    return f"{plain}; it does not over {where}." if 0 < len(against) < len(stand_in.cells) else f"{plain}."


def cell_name(cell: Correlation) -> str:
    """Method and factor of a cell."""
    return f"{FACTOR_NAMES[cell.factor]} with {method_name(cell.method)}"


def forgetting_lines(found: list[ScoreChange], task: str, metric: str | None) -> Iterator[str]:
    """A sentence for each method: what its most examples change, in one column of each evaluator."""
    factor = main_factor(found, task)
    own = [c for c in found if (c.task, c.factor, c.x) == (task, factor, None)]
    columns = told_columns(found, task, metric)
    for method in dict.fromkeys(change.method for change in own):
        most = max(c.finetune_examples for c in own if c.method == method)
        cells = [[c for c in own if (c.method, c.column) == (method, column)] for column in columns]
        name = method_name(method)
        said = _change_words([cell for cell in cells if cell])
        yield f"{name[:1].upper()}{name[1:]} at {human(most)} examples {said} (mean; range over runs)."


def told_columns(found: list[ScoreChange], task: str, metric: str | None) -> list[str]:
    """One of each evaluator's shown columns: of a loss and a score the score, which comes second."""
    return list({column.partition(".")[0]: column for column in shown_columns(found, task, metric)}.values())


def column_name(column: str) -> str:
    """An evaluator's column in running text: "the loss on pretraining text", "1-shot bleu"."""
    evaluator, _, metric = column.partition(".")
    if shots := re.fullmatch(r"few_shot_(\d+)", evaluator):
        return f"{shots[1]}-shot {metric}"
    if evaluator == "pretraining":
        return f"the {metric.replace('_', ' ')} on pretraining text"
    return f"{evaluator.replace('_', '-')} {metric}"


def _change_words(columns: Sequence[Sequence[ScoreChange]]) -> str:
    """What one method's most examples raise, lower and leave, a sequence of changes for each column."""
    kinds: dict[str, list[str]] = {"raises": [], "lowers": [], LEAVES: []}
    for cells in columns:
        few, most = (pick(cells, key=lambda c: c.finetune_examples) for pick in (min, max))
        reach = f"{most.low:+.2g} to {most.high:+.2g}" if most.runs > 1 else "one run"
        reach += f", {few.mean:+.2g} at {human(few.finetune_examples)}" if few is not most else ""
        if most.low <= 0 <= most.high:
            kinds[LEAVES].append(f"{column_name(most.column)} ({most.mean:+.2g}; {reach})")
        else:
            amount = f"{column_name(most.column)} by {abs(most.mean):.2g} ({reach})"
            kinds["raises" if most.mean > 0 else "lowers"].append(amount)
    return "; ".join(f"{kind} {', '.join(said)}" for kind, said in kinds.items() if said)
