"""The report's section on which law the points prefer."""

import math

from finetune_scaling.analysis.analysis import Analysis
from finetune_scaling.analysis.model_selection import DECISIVE, LawScore
from finetune_scaling.report import page
from finetune_scaling.report.names import method_name


def selection_section(analysis: Analysis) -> str:
    """Verdict and measures for each task and method."""
    verdicts = [
        (task, method_name(method), found.preferred or "none", found.verdict)
        for (task, method), found in analysis.selections.items()
    ]
    if not verdicts:
        return ""
    body = page.paragraph(
        "Every value of a factor and every number of examples is left out once and predicted by the laws fitted to the "
        "rest. A law is preferred where it predicts what was left out better by more than the 90 % margin of the "
        f"difference, or leads by {DECISIVE:g} in AICc, and neither held-out points nor AICc speak clearly for the "
        "other. Often no law is preferred; then both describe these points, and what they say beyond them differs."
    )
    body += page.table("Verdicts", ("task", "method", "preferred", "in words"), verdicts, wrap=("in words",))
    rows = [
        (task, method_name(method), *_measures(candidate))
        for (task, method), found in analysis.selections.items()
        for candidate in found.candidates
    ]
    header = ("task", "method", "law", "parameters", "left out", "held out", "AICc", "describes the points")
    measures = page.table(
        "Mean absolute deviation, nats per token (held out over all factors, with intervals below); laws best first",
        header,
        rows,
    )
    return body + page.folded("What they are compared by", measures)


def _measures(candidate: LawScore) -> tuple:
    described = "yes" if candidate.describes else "no"
    criterion = candidate.criterion if math.isfinite(candidate.criterion) else "unknown"
    errors = (candidate.left_out_error, candidate.held_out)
    return (candidate.law, candidate.parameters, *errors, criterion, described)
