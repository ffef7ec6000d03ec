"""Warnings about an analysis: suspicious or unused rows, laws that were not fitted, poorly determined parameters."""

from collections.abc import Iterator

from finetune_scaling.analysis.analysis import Analysis
from finetune_scaling.formatting import method_name


def point_warnings(analysis: Analysis) -> list[str]:
    """Return warnings about the points and about laws that could not be fitted to them."""
    table = analysis.table
    lines = list(table.warnings)
    if table.stopped_by_budget:
        lines.append(f"{table.stopped_by_budget} runs stopped at their budget before their optimum; no fit uses them.")
    if table.ended_at_best:
        lines.append(
            f"{table.ended_at_best} of {len(table.runs)} used rows had their lowest dev loss at the last step; more "
            "steps might have lowered it."
        )
    if table.repeated:
        lines.append(f"{table.repeated} rows are exact duplicates and are counted once.")
    if table.ignored:
        lines.append(f"Unused columns: {', '.join(table.ignored)}.")
    return lines + [f"{s.task}, {method_name(s.method)}, {s.law} law: {s.reason}." for s in analysis.skipped]


def parameter_warnings(analysis: Analysis) -> Iterator[str]:
    """Yield the poorly determined parameters of the main law, with the reason."""
    for fit in analysis.fits_of_law(analysis.main_law):
        for name in fit.parameters:
            if not fit.is_well_determined(name):
                where = f"{fit.task}, {method_name(fit.method)}, {name}"
                yield f"{where}: poorly determined; {fit.why_poorly_determined(name)} ({fit.law.name} law)."
