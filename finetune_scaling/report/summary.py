"""The results of an analysis in sentences: estimates with 90 % intervals, verdicts and warnings."""

from collections.abc import Iterator

from finetune_scaling.analysis.analysis import Analysis, measured_best
from finetune_scaling.analysis.claims import INCONCLUSIVE, Claim, count_verdicts
from finetune_scaling.formatting import (
    FACTOR_NAMES,
    format_count,
    format_estimate,
    format_parameter,
    format_share,
    method_name,
)
from finetune_scaling.messages import count_noun, first_names
from finetune_scaling.report.more_data import more_data_line

MAX_TASKS = 3  # listed one by one
MAX_CURVES = 6
MAX_NAMED = 20  # unused columns


def summary(analysis: Analysis) -> list[str]:
    """Return the main results in about ten sentences."""
    table = analysis.table
    held_out = int(table.settings["held_out"].sum())
    runs, settings = count_noun(len(table.runs), "run"), count_noun(len(table.settings), "setting")
    lines = [
        f"{runs} of {settings} ({held_out} held out); tasks: {', '.join(table.tasks)}; "
        f"methods: {', '.join(map(method_name, analysis.methods))}."
    ]
    lines += [line for task in table.tasks[:MAX_TASKS] for line in _best_method_lines(analysis, task)]
    if len(table.tasks) > MAX_TASKS:
        lines.append(f"{len(table.tasks) - MAX_TASKS} further tasks: see the tables.")
    lines += filter(None, (more_data_line(analysis, task) for task in table.tasks[:MAX_TASKS]))
    lines += map(claim_line, analysis.claims)
    return [*lines, *_selection_lines(analysis), *_determined_lines(analysis)]


def parameter_lines(analysis: Analysis, task: str) -> Iterator[str]:
    """Yield the main law's exponents and E per method, as estimates with 90 % intervals."""
    for method, fit in analysis.fits_by_method(task, analysis.main_law).items():
        names = [n for start in ("alpha", "beta", "E") for n in fit.parameters if n.startswith(start)]
        yield f"{method_name(method)}: {'; '.join(f'{n} = {format_parameter(fit, n)}' for n in names)}."


def claim_line(claim: Claim) -> str:
    """Return a claim with its verdict in every comparison and the share of replicates in which all are true."""
    line = f"{claim.sentence}: {claim.tally}"
    if claim.probability is not None:
        line += f" ({len(claim.replicates)} estimated, all true in {format_share(claim.probability)} of replicates)"
    return f"{line}."


def _best_method_lines(analysis: Analysis, task: str) -> Iterator[str]:
    best = measured_best(analysis, task)
    if analysis.rows(task)["method"].nunique() < 2:
        return
    if best.empty:
        yield f"{task}: no model size and dataset size was measured with two methods of different loss."
        return
    parts = []
    for method, own in best.sort_values("finetune_examples").groupby("method", sort=False)["finetune_examples"]:
        span = "–".join(dict.fromkeys(map(format_count, (own.min(), own.max()))))
        parts.append(f"{method_name(str(method))} in {len(own)} ({span} examples)")
    line = f"{task}: lowest measured loss by {', '.join(parts)} of {len(best)} settings"
    for found in analysis.best_method_maps:
        if (found.task, found.factor) == (task, "model"):
            share = format_share(found.confident_share())
            line += f"; by the {found.law} law at least 90 % of replicates agree on the best method in {share} of the "
            line += "measured range"
    yield f"{line}."


def _selection_lines(analysis: Analysis) -> Iterator[str]:
    if len(analysis.laws) < 2:
        return
    verdicts = [f"the {one.preferred} law" if one.preferred else INCONCLUSIVE for one in analysis.selections.values()]
    tally = count_verdicts(verdicts, [*(f"the {law} law" for law in analysis.laws), INCONCLUSIVE])
    compared = " and ".join(dict.fromkeys(map(analysis.law_of_comparisons, analysis.table.tasks)))
    yield (
        f"Model selection: {tally} cases; parameters are by the {analysis.main_law} law, comparisons of methods, as in "
        f"recommendations, by the {compared} law."
    )


def _determined_lines(analysis: Analysis) -> Iterator[str]:
    fits = analysis.fits_of_law(analysis.main_law)
    if not fits:
        yield "No law over model size, pretraining tokens or PET size was fitted; the warnings say what is missing."
        yield from _curve_lines(analysis)
        return
    exponents = [(fit, n) for fit in fits for n in fit.parameters if n.startswith("alpha") or n == "beta"]
    count = sum(fit.is_well_determined(name) for fit, name in exponents)
    yield f"{count} of {len(exponents)} exponents are well determined by these points."
    missed = sorted({f"{fit.task}, {method_name(fit.method)}" for fit in fits if not fit.fits_well})
    if missed:
        yield f"The {analysis.main_law} law does not fit: {'; '.join(missed)}."


def _curve_lines(analysis: Analysis) -> Iterator[str]:
    """Yield the law over dataset size of each curve that shows its scatter."""
    for curve in analysis.curve_fits[:MAX_CURVES]:
        if curve.shows_scatter:
            values = ", ".join(
                f"{name} = {format_estimate(value, curve.interval(name))}" for name, value in curve.parameters.items()
            )
            where = f"{curve.task}, {method_name(curve.method)}, {FACTOR_NAMES[curve.factor]} {format_count(curve.x)}"
            yield f"{where}: {curve.law.formula} with {values}."


def point_warnings(analysis: Analysis) -> list[str]:
    """Return warnings about the points and about laws that could not be fitted to them."""
    table = analysis.table
    lines = list(table.warnings)
    if table.stopped_by_budget:
        stopped = count_noun(table.stopped_by_budget, "run")
        lines.append(f"{stopped} stopped at the budget before the optimum; no fit uses them.")
    if table.evaluated_once:
        lines.append(
            f"{table.evaluated_once} of {len(table.runs)} used rows have one dev loss, measured after training; it is "
            "unknown whether it was still falling. Set evaluation.times to 2 or more."
        )
    if table.ended_at_best:
        lines.append(
            f"{table.ended_at_best} of {len(table.runs)} used rows had their lowest dev loss at the last step; more "
            "steps might have lowered it."
        )
    if table.repeated:
        lines.append(f"{table.repeated} rows are exact duplicates and are counted once.")
    if table.ignored:
        lines.append(f"Unused columns: {first_names(table.ignored, MAX_NAMED)}.")
    laws: dict[tuple[str, str, str], list[str]] = {}
    for one in analysis.skipped:
        laws.setdefault((one.task, one.method, one.reason), []).append(one.law)
    return lines + [
        f"{task}, {method_name(method)}, {' and '.join(names)} law: {reason}."
        for (task, method, reason), names in laws.items()
    ]


def parameter_warnings(analysis: Analysis) -> Iterator[str]:
    """Yield the poorly determined parameters of the main law, with the reason."""
    for fit in analysis.fits_of_law(analysis.main_law):
        for name in fit.parameters:
            if not fit.is_well_determined(name):
                where = f"{fit.task}, {method_name(fit.method)}, {name}"
                yield f"{where}: poorly determined; {fit.why_poorly_determined(name)} ({fit.law.name} law)."
