"""What a reader must know before trusting a number: doubtful rows, rows left out, laws that could not be fitted."""

from finetune_scaling.analysis.analysis import Analysis
from finetune_scaling.report.names import method_name


def reservations(analysis: Analysis) -> list[str]:
    """What looks wrong, what was left out, and what could not be fitted, and why."""
    table = analysis.table
    lines = list(table.warnings)
    if table.stopped_by_budget:
        lines.append(
            f"{table.stopped_by_budget} runs were stopped by their budget before their optimum; no fit uses them."
        )
    if table.ended_at_best:
        lines.append(
            f"{table.ended_at_best} of the {len(table.runs)} rows used had their least dev loss at their last step: "
            "more steps might have lowered them."
        )
    if table.repeated:
        lines.append(f"{table.repeated} rows repeat another row exactly; they count once.")
    if table.ignored:
        lines.append(f"Columns not used: {', '.join(table.ignored)}.")
    lines += [f"{s.task}, {method_name(s.method)}, {s.law} law: {s.reason}." for s in analysis.skipped]
    return lines


def unidentified(analysis: Analysis) -> list[str]:
    """Which parameters of the main law the points do not hold, and why."""
    lines = []
    for fit in analysis.of_law(analysis.main_law):
        for name in fit.parameters:
            if not fit.is_well_determined(name):
                where = f"{fit.task}, {method_name(fit.method)}, {name.replace('_', ' ')}"
                lines.append(f"{where}: unidentified; {fit.why_poorly_determined(name)} ({fit.law.name} law).")
    return lines
