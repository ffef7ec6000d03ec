"""What the analysis says, in plain sentences: the summary of the report and of the command's last lines."""

import math
from collections.abc import Iterator
from itertools import groupby, pairwise

import pandas as pd

from finetune_scaling.analysis.analysis import Analysis, best_runs, main_metric, measured_best
from finetune_scaling.analysis.claims import Claim
from finetune_scaling.analysis.critical_sizes import CriticalSize, best_regions
from finetune_scaling.laws.fitting.joint_fit import JointFit
from finetune_scaling.laws.uncertainty.intervals import Interval
from finetune_scaling.report.names import FACTOR_NAMES, human, method_name
from finetune_scaling.report.phrases import interval_text, parameter_text, share_text
from finetune_scaling.report.score_words import correlation_line, forgetting_lines
from finetune_scaling.report.tables import entropy_rows, present_factors

BASELINE = "copying (a translation's source, a document's first sentence)"
MOST_TASKS = 3  # that the summary names one by one


def overall(analysis: Analysis) -> list[str]:
    """The whole in about ten lines of plain words."""
    table = analysis.table
    held_out = int(table.settings["held_out"].sum())
    methods = ", ".join(map(method_name, analysis.methods))
    lines = [
        f"{len(table.runs)} runs of {len(table.settings)} settings on {len(table.tasks)} "
        f"{'task' if len(table.tasks) == 1 else 'tasks'}, tuned by {methods}; "
        f"{held_out or 'no'} settings were held out to score the laws."
    ]
    lines += [line for task in table.tasks[:MOST_TASKS] for line in _choice_lines(analysis, task)]
    if len(table.tasks) > MOST_TASKS:
        lines.append(f"{len(table.tasks) - MOST_TASKS} more tasks are told below, task by task.")
    lines += [claim_line(claim) for claim in analysis.claims]
    return [*lines, *_preferred_line(analysis), _identified_line(analysis)]


def summary(analysis: Analysis) -> list[tuple[str, list[str]]]:
    """The findings in plain words: (heading, lines) for the whole, then for each task."""
    return [("In short", overall(analysis)), *((t, list(_task_lines(analysis, t))) for t in analysis.table.tasks)]


def claim_line(claim: Claim) -> str:
    """A finding of the paper, its verdict, and the share of the resamples in which it holds."""
    return f"{claim.sentence} — {claim.verdict}: {claim.tally}{_share_words(claim)}."


def _share_words(claim: Claim) -> str:
    if claim.probability is None:
        return ""
    compared = len(claim.replicates)
    share = f"{share_text(claim.probability)} of resamples"
    if len(claim.comparisons) == 1:
        return f"; it does in {share}"
    if compared == 1:
        return f"; the only comparable one does in {share}"
    which = "all" if compared == len(claim.comparisons) else f"the {compared} comparable ones"
    return f"; {which} together in {share}"


def _choice_lines(analysis: Analysis, task: str) -> Iterator[str]:
    """Which methods were best at the fewest and at the most examples, and how sure the laws are of the map."""
    best = measured_best(analysis, task)
    maps = [m for m in analysis.regions if (m.task, m.factor) == (task, "model")]
    sure = "".join(
        "; over model size the resamples agree on the best method on "
        f"{share_text(m.confident_share())} of the "
        "measured map"
        for m in maps
    )
    if best.empty:
        yield f"{task}: no cell was measured with two methods of different loss, so none is best{sure}."
        return
    parts = []
    for method in dict.fromkeys(best.sort_values("finetune_examples")["method"]):
        own = best[best["method"] == method]["finetune_examples"]
        parts.append(f"{method_name(method)} in {len(own)} ({_span(own.min(), own.max())} examples)")
    yield f"{task}: least measured loss, of {len(best)} cells, by {', '.join(parts)}{sure}."


def _preferred_line(analysis: Analysis) -> Iterator[str]:
    """Which laws the points prefer where, and by which one the sentences are; nothing where there is one law only."""
    if len(analysis.laws) < 2:
        return
    cases: dict[str, list[str]] = {}
    for (task, method), found in analysis.selections.items():
        if found.preferred is not None:
            cases.setdefault(found.preferred, []).append(f"{task} with {method_name(method)}")
    parts = [f"the {law} law for {', '.join(own)}" for law, own in cases.items() if len(own) <= MOST_TASKS]
    parts += [f"the {law} law in {len(own)} cases" for law, own in cases.items() if len(own) > MOST_TASKS]
    rest, all_of_them = len(analysis.selections) - sum(map(len, cases.values())), len(analysis.selections)
    parts += [f"no law in {rest} of the {all_of_them} cases" if parts else "no law"] if rest else []
    yield (
        f"Task by task and method by method the points prefer {'; '.join(parts)}. Sentences and maps are by the "
        f"{analysis.main_law} law."
    )


def _identified_line(analysis: Analysis) -> str:
    """How many of the exponents the points hold."""
    fits = analysis.of_law(analysis.main_law)
    names = [(fit, n) for fit in fits for n in fit.parameters if n.startswith("alpha") or n == "beta"]
    held = sum(fit.is_well_determined(name) for fit, name in names)
    strays = sorted({f"{fit.task} with {method_name(fit.method)}" for fit in fits if not fit.describes})
    misfit = f" The law does not describe {', '.join(strays)}." if strays else ""
    return f"The points identify {held} of the {len(names)} exponents of the {analysis.main_law} law.{misfit}"


def _task_lines(analysis: Analysis, task: str) -> Iterator[str]:
    yield from _measured_lines(analysis, task)
    yield from _region_lines(analysis, task)
    yield from _law_lines(analysis, task)
    yield from _error_lines(analysis, task)
    yield from _score_lines(analysis, task)
    yield from forgetting_lines(analysis.forgetting, task, main_metric(analysis, task))
    yield from _entropy_lines(analysis, task)


def _measured_lines(analysis: Analysis, task: str) -> Iterator[str]:
    """Which method had the least measured loss, by model size."""
    best = measured_best(analysis, task)
    if best.empty:
        yield "No model size and number of examples was measured with two methods of different loss, so none is best."
        return
    parts = []
    for x, cells in best.groupby("x"):
        runs = [(m, list(g)) for m, g in groupby(cells.itertuples(), key=lambda c: c.method)]
        spans = [f"{method_name(m)} {_span(g[0].finetune_examples, g[-1].finetune_examples)}" for m, g in runs]
        parts.append(f"at {human(float(str(x)))} parameters {', '.join(spans)}")
    yield f"Least measured loss {'; '.join(parts)} (examples)."


def _region_lines(analysis: Analysis, task: str) -> Iterator[str]:
    """Which method the main law prefers over the measured numbers of examples, and how sure the borders are."""
    fits = {m: fit for m, fit in analysis.of(task, analysis.main_law).items() if fit.describes}
    rows = analysis.rows(task, factor="model")
    if rows.empty or len([f for f in fits.values() if "model" in f.factors]) < 2:
        return
    low, high = rows["finetune_examples"].min(), rows["finetune_examples"].max()
    crossed = _crossings(analysis, task)
    parts = [
        f"at {human(x)} {_regions_text(best_regions(fits, 'model', x, low, high), [c for c in crossed if c.x == x])}"
        for x in _few(rows["x"])
    ]
    borders = "; in brackets the border's 90 % interval" if any("(" in part for part in parts) else ""
    scope = (
        f"{analysis.main_law} law, {_span(low, high)} examples, smallest and largest model{borders}; a guess where a "
        "method was not measured"
    )
    yield f"The fitted laws prefer, {'; '.join(parts)} ({scope})."
    inside = [r for c in crossed for r in c.roots if not r.extrapolated]
    total = sum(len(c.roots) for c in crossed)
    yield f"{total} critical finetuning sizes over model size, {len(inside)} inside the measured ranges."


def _regions_text(regions: list[tuple[str, float, float]], crossed: list[CriticalSize]) -> str:
    """LoRA, from 442 (88.5 to 852) on full tuning: methods in order, each border with its interval."""
    parts = [method_name(regions[0][0])]
    for (below, _, _), (above, border, _) in pairwise(regions):
        roots = [root for c in crossed for root in c.roots if (root.below, root.above) == (below, above)]
        root = min(roots, key=lambda r: abs(math.log(r.examples / border)), default=None)
        ends = "interval unknown" if root is None else interval_text(Interval(root.low, root.high), human)
        parts.append(f"from {human(border)} ({ends}) on {method_name(above)}")
    return ", ".join(parts)


def _crossings(analysis: Analysis, task: str) -> list[CriticalSize]:
    return [c for c in analysis.critical if (c.task, c.law, c.factor) == (task, analysis.main_law, "model")]


def _law_lines(analysis: Analysis, task: str) -> Iterator[str]:
    for method, fit in analysis.of(task, analysis.main_law).items():
        names = [n for start in ("alpha", "beta", "E") for n in fit.parameters if n.startswith(start)]
        values = "; ".join(f"{n.replace('_', ' ')} {parameter_text(fit, n)}" for n in names)
        yield f"{method_name(method)}: {values}."


def _error_lines(analysis: Analysis, task: str) -> Iterator[str]:
    """The errors of extrapolation by factor and law, over the methods that all laws were fitted to."""
    laws = [law for law in analysis.laws if analysis.of(task, law)]
    fits = {law: analysis.of(task, law) for law in laws}
    methods = [m for m in analysis.methods if laws and all(m in fits[law] for law in laws)]
    parts = []
    for factor in present_factors(analysis, task):
        scored = [m for m in methods if all(factor in fits[law][m].held_out_replicates for law in laws)]
        if scored:
            texts = [f"{law} {_error_range([fits[law][m] for m in scored], factor)}" for law in laws]
            parts.append(f"{FACTOR_NAMES[factor]} {', '.join(texts)}")
    if parts:
        yield f"Held-out error (nats per token; over methods, intervals in errors.csv): {'; '.join(parts)}."
    elif analysis.rows(task)["held_out"].any():
        yield "No method with held-out points was fitted by every law, so extrapolation is not scored."
    else:
        yield "No held-out points, so extrapolation is not scored."


def _error_range(fits: list[JointFit], factor: str) -> str:
    """The least and the greatest error over methods."""
    errors = [fit.errors["held_out"][factor] for fit in fits]
    low, high = (f"{error:.2g}" for error in (min(errors), max(errors)))
    return low if len(errors) == 1 else f"{low} to {high}"


def _score_lines(analysis: Analysis, task: str) -> Iterator[str]:
    metric = main_metric(analysis, task)
    if metric is None:
        return
    best = best_runs(analysis, task)
    parts = [f"{method_name(r['method'])} {r[metric]:.3g}" for _, r in best.iterrows()]
    baseline = analysis.facts.get("baselines", {}).get(task, {}).get(metric)
    copy = f"; {BASELINE} scores {baseline:.3g}" if isinstance(baseline, int | float) else ""
    yield f"Best {metric} by method: {', '.join(parts)}{copy}."
    yield from correlation_line(analysis.correlations, task, metric)


def _entropy_lines(analysis: Analysis, task: str) -> Iterator[str]:
    rows = [r for r in entropy_rows(analysis) if r["task"] == task and r["law"] == analysis.main_law]
    if rows:
        fits = analysis.of(task, analysis.main_law)
        values = "; ".join(f"{method_name(r['method'])} {parameter_text(fits[r['method']], 'E')}" for r in rows)
        yield f"Fitted floor E: {values}; the true entropy is {rows[0]['entropy']:.3g} nats per token."


def _few(values: pd.Series) -> list[float]:
    return sorted({float(values.min()), float(values.max())})


def _span(low: float, high: float) -> str:
    return f"at {human(low)}" if low == high else f"{human(low)}–{human(high)}"
