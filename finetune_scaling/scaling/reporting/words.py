"""What the analysis says, in plain sentences: the summary of the report and of the command's last lines."""

from collections.abc import Iterator
from itertools import groupby

import numpy as np
import pandas as pd

from finetune_scaling.scaling.findings.analysis import Analysis, best_runs, main_metric, measured_best
from finetune_scaling.scaling.findings.critical import best_regions
from finetune_scaling.scaling.fitting.staged_fit import StagedFit
from finetune_scaling.scaling.reporting.names import FACTOR_NAMES, human, method_name
from finetune_scaling.scaling.reporting.score_words import correlation_line, forgetting_lines
from finetune_scaling.scaling.reporting.tables import entropy_rows, errors_table

# Up to this margin of a logarithm, e^±m is 1 ± m to a few percent, and ± reads better than a factor.
LINEAR_MARGIN = 0.2
WIDEST_FACTOR = 10.0  # a margin beyond it says only that the value is unknown
BASELINE = "copying (a translation's source, a document's first sentence)"


def parameter_text(fit: StagedFit, name: str) -> str:
    """A value with its 90 % leave-out margin, or with a mark that there is none."""
    value, margin = fit.parameters[name], fit.spread(name).margin()
    if not np.isfinite(margin):
        return f"{value:.3g} (±?)"
    if name.startswith(("A", "B", "E")) and margin < LINEAR_MARGIN:
        return f"{value:.3g} ± {value * margin:.2g}"
    if name.startswith(("A", "B", "E")):
        factor = f"{np.exp(margin):.2g}" if margin < np.log(WIDEST_FACTOR) else f"> {WIDEST_FACTOR:.0f}"
        return f"{value:.3g} (×/÷ {factor})"
    return f"{value:.3g} ± {margin:.2g}"


def summary(analysis: Analysis) -> list[tuple[str, list[str]]]:
    """The findings in plain words: (heading, lines) for each task, then for the paper's findings."""
    claims = [f"{claim.sentence} — {claim.verdict}: {claim.tally}." for claim in analysis.claims]
    parts = [(task, list(_task_lines(analysis, task))) for task in analysis.table.tasks]
    return [*parts, ("The paper's findings on these points", claims)]


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
        yield "No model size and number of examples was measured with two methods, so none can be called best."
        return
    parts = []
    for x, cells in best.groupby("x"):
        runs = [(m, list(g)) for m, g in groupby(cells.itertuples(), key=lambda c: c.method)]
        spans = [f"{method_name(m)} {_span(g[0].finetune_examples, g[-1].finetune_examples)}" for m, g in runs]
        parts.append(f"at {human(float(str(x)))} parameters {', '.join(spans)}")
    yield f"Least measured loss {'; '.join(parts)} (examples)."


def _region_lines(analysis: Analysis, task: str) -> Iterator[str]:
    """Which method the multiplicative law prefers, over the measured numbers of examples."""
    fits = analysis.of(task, "multiplicative")
    rows = analysis.rows(task, factor="model")
    if rows.empty or len([f for f in fits.values() if "model" in f.factors]) < 2:
        return
    low, high = rows["finetune_examples"].min(), rows["finetune_examples"].max()
    parts = []
    for x in _few(rows["x"]):
        spans = [f"{method_name(m)} {_span(a, b)}" for m, a, b in best_regions(fits, "model", x, low, high)]
        parts.append(f"at {human(x)} {', '.join(spans)}")
    scope = "multiplicative law; smallest and largest model; a guess where a method was not measured"
    yield f"The fitted laws prefer, {'; '.join(parts)} ({scope})."
    inside = [r for c in _crossings(analysis, task) for r in c.roots if not r.extrapolated]
    total = sum(len(c.roots) for c in _crossings(analysis, task))
    yield f"{total} critical finetuning sizes over model size, {len(inside)} inside the measured ranges."


def _crossings(analysis: Analysis, task: str) -> list:
    return [c for c in analysis.critical if (c.task, c.law, c.factor) == (task, "multiplicative", "model")]


def _law_lines(analysis: Analysis, task: str) -> Iterator[str]:
    for method, fit in analysis.of(task, "multiplicative").items():
        names = [n for n in fit.parameters if n.startswith("alpha")] + ["beta", "E"]
        values = ", ".join(f"{n.replace('_', ' ')} = {parameter_text(fit, n)}" for n in names)
        yield f"{method_name(method)}: {values}."


def _error_lines(analysis: Analysis, task: str) -> Iterator[str]:
    errors = errors_table(analysis)
    errors = errors[errors["task"] == task].dropna(subset=["held_out_error"])
    if errors.empty:
        yield "No held-out points, so extrapolation is not scored."
        return
    means = errors.pivot_table(index="factor", columns="law", values="held_out_error", sort=False)
    if {"multiplicative", "additive"} <= set(means.columns):
        parts = [
            f"{FACTOR_NAMES[str(factor)]} {row['multiplicative']:.2g} against {row['additive']:.2g}"
            for factor, row in means.iterrows()
        ]
        what = "Held-out error (mean over methods, nats per token), multiplicative against additive law"
        yield f"{what}: {', '.join(parts)}."


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
    rows = [r for r in entropy_rows(analysis) if r["task"] == task and r["law"] == "multiplicative"]
    if rows:
        values = ", ".join(f"{method_name(r['method'])} {r['E']:.3g}" for r in rows)
        yield f"Fitted floor E: {values}; the true entropy is {rows[0]['entropy']:.3g} nats per token."


def _few(values: pd.Series) -> list[float]:
    return sorted({float(values.min()), float(values.max())})


def _span(low: float, high: float) -> str:
    return f"at {human(low)}" if low == high else f"{human(low)}–{human(high)}"
