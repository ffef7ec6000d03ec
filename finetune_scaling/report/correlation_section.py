"""The report's section on which metrics may stand in for the loss."""

from finetune_scaling.analysis.analysis import Analysis
from finetune_scaling.analysis.correlation import (
    FEWEST,
    RESAMPLES,
    TRACKING_THRESHOLD,
    Coefficient,
    Correlation,
    proxy_verdicts,
)
from finetune_scaling.report import page
from finetune_scaling.report.names import FACTOR_NAMES, method_name
from finetune_scaling.report.score_words import stand_in_sentence


def correlation_section(analysis: Analysis) -> str:
    """Verdicts for each task and metric, then every cell; nothing where there are no metrics."""
    found = analysis.correlations
    if not found:
        return ""
    verdicts = [(s.task, s.metric, s.verdict, stand_in_sentence(s)) for s in proxy_verdicts(found)]
    body = page.paragraph(
        "The loss is log-perplexity in nats a token. In a cell, one method and factor, a metric tracks it where the "
        f"whole 90 % interval of Pearson's r is beyond {TRACKING_THRESHOLD:g} in the right direction: at or below "
        f"-{TRACKING_THRESHOLD:g} for scores, at or above {TRACKING_THRESHOLD:g} for errors such as TER. It does not "
        f"track it where the whole interval falls short of that. Otherwise, or with fewer than {FEWEST} settings, the "
        "verdict is inconclusive. A metric is a proxy for the loss on a task where it tracks it in every cell, and not "
        "where it does not in one."
    )
    body += page.table("Verdicts", ("task", "metric", "verdict", "in words"), verdicts, wrap=("in words",))
    for task in analysis.table.tasks:
        own = [cell for cell in found if cell.task == task]
        if own:
            body += page.folded(f"{task}: every method and factor", _cells(own))
    return body


def _cells(cells: list[Correlation]) -> str:
    interval = "90 % interval"
    header = ("metric", "factor", "method", "settings", "Pearson r", interval, "p", "Spearman rho", interval, "p")
    rows = [
        (
            cell.metric,
            FACTOR_NAMES[cell.factor],
            method_name(cell.method),
            cell.settings,
            *_coefficient(cell.pearson),
            *_coefficient(cell.spearman),
            cell.verdict,
            cell.why or "–",
        )
        for cell in cells
    ]
    caption = (
        f"Correlation with loss over settings (means over seeds); BCa bootstrap, {RESAMPLES} resamples; p-values test "
        "r = 0, not adjusted for the number of cells"
    )
    return page.table(caption, (*header, "verdict", "why"), rows)


def _coefficient(found: Coefficient | None) -> tuple[float | None, str, float | None]:
    if found is None:
        return None, "–", None
    return found.value, f"{found.low:.3f} to {found.high:.3f}", found.p
