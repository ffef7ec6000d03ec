"""The sections of the report: tables (from the CSV tables) and plots; introductions.html has their texts."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd

from finetune_scaling.analysis.analysis import Analysis
from finetune_scaling.analysis.correlation import RESAMPLES, proxy_verdicts
from finetune_scaling.analysis.forgetting import main_factor, shown_columns
from finetune_scaling.formatting import FACTOR_NAMES, format_count, method_name
from finetune_scaling.laws.forms.library import ALL_FACTORS, SINGLE
from finetune_scaling.laws.points.columns import FACTORS, LOSS_PER_BYTE, SENSITIVITY_FACTOR, SETTING, TOKENIZER
from finetune_scaling.report import best_method_plot
from finetune_scaling.report.display import NONE, Table, display, estimates, format_cell, intervals
from finetune_scaling.report.finding_plots import (
    draw_all_factors,
    draw_exponents,
    draw_forgetting,
    draw_metrics,
    draw_pretraining,
    draw_scores,
    shown_parameters,
)
from finetune_scaling.report.law_plots import draw_law, draw_learning_rates, draw_methods, draw_residuals
from finetune_scaling.report.plots import Plot, ReportFigure
from finetune_scaling.report.summary import point_warnings, summary
from finetune_scaling.report.training_runs import CURVES, TIMES, draw_learning_curves

BASELINE = "Copying (a translation's source, a document's first sentence)"
LAW_CAPTION = (
    "Filled: fitted; hollow: held out. Bars: one standard deviation over seeds. Bands: 90 % bootstrap intervals of the "
    "curves; dashed: held out. Laws that do not fit a method's points have no curve."
)
RESIDUALS = {"linear": "predicted minus measured loss", "log": "log predicted minus log measured loss"}
SCORES_CAPTION = "Hollow: held out; dotted: the score of copying the input, where it is known."
MAX_MEASURED, MAX_SHOWN = 40, 1000  # settings in a table that is not folded, and in one on the page
Tables = Mapping[str, pd.DataFrame]


@dataclass(frozen=True)
class Section:
    """A section of the report; introductions.html has the text of its id."""

    id: str
    heading: str
    items: Sequence[str] = ()
    tables: Sequence[Table] = ()
    plots: Sequence[Plot] = ()
    code: str = ""


def report_sections(analysis: Analysis, tables: Tables, command: str) -> list[Section]:
    """Return the sections that the analysis has results for, in order; command: the one that reproduces the report."""
    sections = [
        Section("summary", "Summary", items=summary(analysis)),
        Section("warnings", "Warnings", items=point_warnings(analysis)),
        *(build(analysis, tables) for table, build in SECTIONS if table in tables),
        Section("reproduce", "How to reproduce this report", code=command),
    ]
    return [one for one in sections if one.items or one.tables or one.plots or one.code]


def _task_plot(
    analysis: Analysis, task: str, name: str, title: str, caption: str, draw: Callable[..., ReportFigure], *options: Any
) -> Plot:
    """Return a plot of one task, which draw(analysis, task, *options) draws."""
    tasks = analysis.table.tasks
    tag = f"task{tasks.index(task) + 1}" if len(tasks) > 1 else "study"
    return Plot(
        f"{tag}-{quote(name, safe='')}", f"{task}: {title}", caption, functools.partial(draw, analysis, task, *options)
    )


def _best_method(analysis: Analysis, tables: Tables) -> Section:
    plots = []
    for task in analysis.table.tasks:
        if len(analysis.rows(task, factor="model")):
            caption = (
                f"Loss against finetuning examples at each model size; curves: {analysis.law_of_comparisons(task)} law "
                f"or the {SINGLE.name} law for methods to which it could not be fitted. {LAW_CAPTION}"
            )
            title, curves = "comparison of methods", analysis.curve_fits
            plots.append(_task_plot(analysis, task, "methods", title, caption, draw_methods, curves))
        for found in analysis.best_method_maps:
            if found.task == task:
                title = f"best method over {FACTOR_NAMES[found.factor]}"
                caption = best_method_plot.CAPTION.format(law=found.law)
                draw = best_method_plot.draw_best_method
                plots.append(_task_plot(analysis, task, f"best-{found.factor}", title, caption, draw, found))
    shown = []
    if "best_measured" in tables:
        caption = "Method of lowest measured loss per model size and dataset size"
        columns = ["task", "x", "finetune_examples", "method", "loss", "runner_up", "gap"]
        shown.append(display(tables["best_measured"], "best_measured", caption, columns, folded=True))
    return Section("best", "Best method", tables=shown, plots=plots)


def _laws(analysis: Analysis, tables: Tables) -> Section:
    plots = []
    if shown_parameters(analysis):
        caption = (
            f"{analysis.main_law.capitalize()} law. Bars: 90 % bootstrap intervals, with an arrow where they are "
            "unbounded. Pale: poorly determined. Fits that do not fit their points are omitted."
        )
        draw = functools.partial(draw_exponents, analysis)
        plots.append(Plot("exponents", "Exponents and irreducible loss", caption, draw))
    plots += _law_plots(analysis, [analysis.main_law])
    shown = [_parameter_table(analysis, tables["laws"], analysis.main_law)]
    shown += [_parameter_details(tables["laws"], law) for law in analysis.laws]
    return Section("laws", "Laws", tables=shown, plots=plots)


def _parameter_table(analysis: Analysis, frame: pd.DataFrame, law: str) -> Table:
    """Return a law's estimates, a row per task and method and a column per parameter."""
    frame = frame[frame["law"] == law]
    texts = [
        text if text == NONE or identified else f"{text} *"
        for text, identified in zip(estimates(frame), frame["identified"], strict=True)
    ]
    frame = frame.assign(text=texts, method=frame["method"].map(method_name))
    wide = frame.pivot_table("text", ["task", "method"], "parameter", aggfunc="first", fill_value=NONE, sort=False)
    header = ["task", "method", *frame["parameter"].unique()]
    formula = analysis.fits_of_law(law)[0].law.formula
    caption = f"{law} law: {formula} (* poorly determined)"
    return Table(caption, header, wide.reset_index()[header].to_numpy().tolist(), "laws.csv")


def _parameter_details(frame: pd.DataFrame, law: str) -> Table:
    frame = frame[frame["law"] == law]
    frame = frame.assign(
        two_stage=estimates(frame),
        one_stage=estimates(frame, "one_stage_value", "one_stage_"),
        profile=intervals(frame, "profile_"),
    )
    columns = ["task", "method", "parameter", "two_stage", "one_stage", "profile", "leave_out_standard_error"]
    columns += ["identified", "why"]
    return display(frame, "laws", f"Parameters of the {law} law in detail", columns, folded=True)


def _law_plots(analysis: Analysis, laws: Sequence[str]) -> Iterator[Plot]:
    fitted = {(fit.task, fit.law.name, factor) for fit in analysis.fits.values() for factor in fit.factors}
    rows = analysis.table.settings[["task", "factor"]].itertuples(index=False)
    fitted |= {(task, SINGLE.name, factor) for task, factor in rows}
    for task, law, factor in product(analysis.table.tasks, laws, FACTORS):
        if (task, law, factor) in fitted:
            title = f"{law} law over {FACTOR_NAMES[factor]}"
            yield _task_plot(analysis, task, f"{law}-{factor}", title, LAW_CAPTION, draw_law, law, factor)


def _selection(analysis: Analysis, tables: Tables) -> Section:
    verdicts = [
        [task, method_name(method), found.preferred or "none", found.verdict]
        for (task, method), found in analysis.selections.items()
    ]
    columns = ["task", "method", "law", "parameters", "left_out_error", "held_out_error", "aicc", "describes"]
    caption = "Mean absolute errors (nats per token) and AICc; best law first"
    shown = [
        Table("Verdicts", ["task", "method", "preferred", "verdict"], verdicts, "selection.csv"),
        display(tables["selection"], "selection", caption, columns, folded=True),
    ]
    return Section("selection", "Model selection", tables=shown)


def _errors(analysis: Analysis, tables: Tables) -> Section:
    frame = tables["errors"].assign(held_out=estimates(tables["errors"], "held_out_error", "held_out_"))
    columns = ["task", "factor", "method", "law", "fitted_error", "held_out"]
    caption = "Mean absolute error (nats per token), on held-out settings with its 90 % bootstrap interval"
    shown = [display(frame, "errors", caption, columns)]
    caption = "Predicted minus measured loss of every setting; hollow: held out."
    plots = [
        _task_plot(analysis, task, "residuals", "residuals of the laws", caption, draw_residuals)
        for task in frame["task"].unique()
    ]
    return Section("errors", "Prediction errors", tables=shown, plots=plots)


def _critical_sizes(analysis: Analysis, tables: Tables) -> Section:
    frame = tables["critical_sizes"]
    crossed = frame["crossings"] > 0
    frame = frame.assign(
        methods=frame["first"] + " / " + frame["second"],
        critical_size=estimates(frame, "finetune_examples", show=format_count),
        share=np.where(crossed, frame["probability"], frame["uncrossed_share"]),
        jackknife_range=intervals(frame, "leave_out_", format_count),
        better_below=np.where(crossed, frame["better_below"], frame["better_everywhere"]),
        better_above=np.where(crossed, frame["better_above"], frame["better_everywhere"]),
        H=estimates(frame, "H", "H_"),
        gamma=estimates(frame, "gamma", "gamma_"),
    )
    columns = ["task", "factor", "x", "methods", "critical_size", "share", "jackknife_range"]
    columns += ["better_below", "better_above", "extrapolated_methods", "H", "gamma", "why"]
    compared = set(map(analysis.law_of_comparisons, analysis.table.tasks))
    shown = [
        display(rows, "critical_sizes", f"{law} law", columns, folded=law not in compared)
        for law, rows in frame.groupby("law", sort=False)
    ]
    return Section("critical", "Critical finetuning sizes", tables=shown)


def _claims(analysis: Analysis, tables: Tables) -> Section:
    frame = tables["claims"].assign(interval=intervals(tables["claims"]))
    columns = ["where", "difference", "interval", "probability", "margin", "verdict", "why"]
    verdicts = [
        [c.sentence, c.verdict, str(len(c.comparisons)), format_cell("probability", c.probability)]
        for c in analysis.claims
    ]
    shown = [
        display(frame[frame["claim"] == claim.name], "claims", claim.sentence, columns, folded=True)
        for claim in analysis.claims
    ]
    header = ["claim", "verdict", "comparisons", "all true"]
    return Section("claims", "Claims of the paper", tables=[Table("Verdicts", header, verdicts, "claims.csv"), *shown])


def _scores(analysis: Analysis, tables: Tables) -> Section:
    shown, plots = [], []
    for task in analysis.table.tasks:
        metrics = [m for m in analysis.table.metrics if analysis.rows(task)[m].notna().any()]
        if metrics:
            shown.append(_best_runs(analysis, tables["best_runs"], task, metrics))
            caption = "One mark per setting, all factors. Curves with 90 % bands: the law of the main metric."
            plot = _task_plot(analysis, task, "metrics", "scores against loss", caption, draw_metrics, metrics[:3])
            plots.append(plot)
        if len(analysis.rows(task, factor=SENSITIVITY_FACTOR)):
            title = "sensitivity to the learning rate"
            caption = "A line per model size and dataset size; circled: its best learning rate. No law is fitted."
            plots.append(_task_plot(analysis, task, "learning-rate", title, caption, draw_learning_rates))
    return Section("scores", "Scores", tables=shown, plots=plots)


def _best_runs(analysis: Analysis, frame: pd.DataFrame, task: str, metrics: Sequence[str]) -> Table:
    caption = f"{task}: setting of each method with the best test score"
    baseline = analysis.facts.get("baselines", {}).get(task, {})
    known = [f"{m} {baseline[m]:.3g}" for m in metrics if isinstance(baseline.get(m), int | float)]
    caption += f". {BASELINE} scores {', '.join(known)}" if known else ""
    columns = ["method", "factor", "x", "finetune_examples", "loss", *metrics]
    return display(frame[frame["task"] == task], "best_runs", caption, columns)


def _correlation(analysis: Analysis, tables: Tables) -> Section:
    frame = tables["correlation"]
    frame = frame.assign(r=estimates(frame, "pearson", "pearson_"), rho=estimates(frame, "spearman", "spearman_"))
    verdicts = list(map(list, proxy_verdicts(analysis.correlations)))
    columns = ["task", "metric", "factor", "method", "settings", "r", "pearson_p", "rho", "spearman_p"]
    columns += ["verdict", "why"]
    caption = (
        f"Correlation with the loss over settings (means over seeds); 90 % BCa bootstrap intervals ({RESAMPLES} "
        "replicates); p-values of r = 0 without correction for multiple comparisons"
    )
    shown = [
        Table("Verdicts", ["task", "metric", "verdict", "comparisons"], verdicts, "correlation.csv"),
        display(frame, "correlation", caption, columns, folded=True),
    ]
    return Section("correlation", "Correlation of metrics with the loss", tables=shown)


def _metric_laws(analysis: Analysis, tables: Tables) -> Section:
    frame = tables["metric_laws"].assign(estimate=estimates(tables["metric_laws"]))
    key = ["task", "metric", "method"]
    columns = [*key, "law", "parameter", "estimate", "identified"]
    columns += ["r_squared", "error", "left_out_error", "held_out_error"]
    shown = [
        display(frame.drop_duplicates(key), "metric_laws", "Verdicts", [*key, "settings", "verdict"]),
        display(frame, "metric_laws", "Parameters and errors", columns, folded=True),
    ]
    return Section("metric-laws", "Laws of metrics over loss", tables=shown)


def _forgetting(analysis: Analysis, tables: Tables) -> Section:
    frame = tables["forgetting"]
    frame = frame.assign(change=estimates(frame, "mean", show="{:+.3g}".format))
    shown, plots = [], []
    for task in frame["task"].unique():
        factor = main_factor(analysis.forgetting, task)
        wanted = shown_columns(analysis.forgetting, task, analysis.main_metrics[task])
        own = frame[(frame["task"] == task) & (frame["factor"] == factor) & frame["column"].isin(wanted)]
        own = own.sort_values(["column", "method", "finetune_examples"], kind="stable")
        columns = ["column", "method", "finetune_examples", "baseline", "untuned", "change", "runs"]
        name = FACTOR_NAMES[own["factor"].iloc[0]]
        caption = f"{task}: tuned minus untuned, over all values of {name}"
        shown.append(display(own[own["x"].isna()], "forgetting", caption, columns))
        caption = f"{task}: tuned minus untuned, at each {name}"
        shown.append(display(own[own["x"].notna()], "forgetting", caption, ["x", *columns], folded=True))
        caption = (
            f"Tuned minus untuned: mean and range over runs and values of {name}. Dotted: no change; shaded: worse "
            "than the untuned base model."
        )
        plots.append(_task_plot(analysis, task, "forgetting", "forgetting and transfer", caption, draw_forgetting))
    return Section("forgetting", "Forgetting and transfer", tables=shown, plots=plots)


def _further_laws(analysis: Analysis, tables: Tables) -> Section:
    others = [law for law in analysis.laws if law != analysis.main_law]
    shown = [_parameter_table(analysis, tables["laws"], law) for law in others]
    return Section("more", "Further laws", tables=shown, plots=list(_law_plots(analysis, others)))


def _measured(analysis: Analysis, tables: Tables) -> Section:
    metrics = list(dict.fromkeys(filter(None, analysis.main_metrics.values())))
    untuned = [c.name for c in analysis.table.evaluations if c.untuned and c.metric in ("loss", *metrics)]
    columns = ["task", "method", "factor", "x", "finetune_examples", "held_out", "seeds", "loss", "loss_sd"]
    frame, notes = tables["points"], []
    if _count_tokenizers(analysis) > 1:
        notes = ["Tasks differ in their tokenizer, and losses per token of different tokenizers are not comparable."]
        columns += [LOSS_PER_BYTE] if LOSS_PER_BYTE in frame else []
    columns += metrics
    if TIMES in tables:
        frame = frame.merge(tables[TIMES], "left", on=SETTING)
    columns += [c for c in (*untuned, "flops", "seconds") if c in frame and frame[c].notna().any()]
    caption = "Means over seeds, with scores of the untuned base model, and FLOPs and seconds of a run"
    if len(frame) > MAX_SHOWN:
        caption += f"; the first {MAX_SHOWN} of {len(frame)}"
    shown = [display(frame[:MAX_SHOWN], "points", caption, columns, folded=len(frame) > MAX_MEASURED)]
    if "single_laws" in tables:
        frame = tables["single_laws"]
        names = list(analysis.curve_fits[0].parameters)
        frame = frame.assign(**{name: estimates(frame, name, f"{name}_") for name in names})
        columns = ["task", "method", "factor", "x", "points", *names, "fitted_error", "held_out_error"]
        caption = f"{SINGLE.name} law over dataset size at each factor value: {SINGLE.formula}"
        shown.append(display(frame, "single_laws", caption, columns, folded=True))
    return Section("measured", "Measured settings", notes, shown, plots=list(_measured_plots(analysis)))


def _count_tokenizers(analysis: Analysis) -> int:
    runs = analysis.table.runs
    return runs.loc[runs[TOKENIZER] != "", TOKENIZER].nunique() if TOKENIZER in runs else 0


def _learning_curves(analysis: Analysis, tables: Tables) -> Section:
    frame = tables[CURVES]
    caption = "Dev loss of every run by step, coloured by dataset size."
    plots = [
        _task_plot(analysis, task, "learning-curves", "learning curves", caption, draw_learning_curves, frame)
        for task in analysis.table.tasks
        if (frame["task"] == task).any()
    ]
    return Section("curves", "Learning curves", plots=plots)


def _measured_plots(analysis: Analysis) -> Iterator[Plot]:
    """Yield loss and main metric over dataset size, the loss with the law over dataset size where it was fitted."""
    yield from _law_plots(analysis, [SINGLE.name])
    for task, metric in analysis.main_metrics.items():
        if metric is None:
            continue
        rows = analysis.rows(task).dropna(subset=[metric])
        factor = next((factor for factor in FACTORS if (rows["factor"] == factor).any()), None)
        if factor is not None:
            title = f"{metric} over finetuning examples"
            caption = f"A panel per {FACTOR_NAMES[factor]}. {SCORES_CAPTION}"
            yield _task_plot(analysis, task, "scores-by-data", title, caption, draw_scores, metric, factor)


def _all_factors(analysis: Analysis, tables: Tables) -> Section:
    frame = tables["all_factors"].assign(estimate=estimates(tables["all_factors"]))
    columns = ["task", "method", "parameter", "estimate", "identified", "why", "points"]
    shown = [display(frame, "all_factors", f"{ALL_FACTORS.name}: {ALL_FACTORS.formula}", columns)]
    plots = []
    for task in frame["task"].unique():
        fits = {m: fit for (name, m), fit in analysis.all_factors.items() if name == task and fit.fits_well}
        if fits:
            caption = "Predicted against measured loss, with 90 % bootstrap intervals; hollow: held out."
            title = "law over all factors"
            plots.append(_task_plot(analysis, task, "all-factors", title, caption, draw_all_factors, fits))
    return Section("all-factors", "Law over all factors", tables=shown, plots=plots)


def _pretraining(analysis: Analysis, tables: Tables) -> Section:
    frame = tables["pretraining"]
    reasons = frame["why"] + frame.get("why_unidentified", pd.Series("", frame.index)).fillna("")
    frame = frame.assign(estimate=estimates(frame), why=reasons)
    columns = ["family", "over", "at", "points", "parameter", "estimate", "fitted_error", "held_out_error", "why"]
    shown = [display(frame, "pretraining", "Laws of pretraining", columns)]
    caption = "Curve and band: law with its 90 % interval. Filled: fitted; hollow: held out."
    draw = functools.partial(draw_pretraining, analysis.pretraining)
    plots = [Plot("pretraining", "Pretraining: loss of base models", caption, draw)]
    return Section("pretraining", "Pretraining", tables=shown, plots=plots)


def _data(analysis: Analysis, tables: Tables) -> Section:
    settings, frame = analysis.settings, tables["factors"]
    kinds = sorted({settings.residual_of(fit.law) for fit in analysis.fits.values()})
    residual = " or ".join(f"{kind} ({RESIDUALS[kind]})" for kind in kinds)
    frame = frame.assign(X=frame["x"].map(_levels), examples=frame["finetune_examples"].map(_levels))
    columns = ["task", "method", "factor", "settings", "held_out_settings", "X", "examples", "mean_seeds"]
    shown = [display(frame, "factors", "Settings by factor", columns)]
    if "entropy" in tables:
        entropy = tables["entropy"].assign(E=estimates(tables["entropy"], "E"))
        caption = "Irreducible loss E and true entropy (nats per token)"
        shown.append(display(entropy, "entropy", caption, ["task", "method", "law", "E", "entropy"]))
    items = [
        f"Points: {Path(analysis.table.source).name}. Settings are means over seeds; held-out ones are not fitted.",
        f"Objective: sum of Huber losses with delta {settings.huber_delta:g}; residual: {residual}.",
        f"Model size: {analysis.size.replace('_', '-')} parameters.",
    ]
    return Section("data", "Data and settings", [*items, *analysis.facts.get("notes", ())], shown)


def _levels(text: str) -> str:
    """Format the levels of a factor; many are given as a range."""
    values = [format_count(float(value)) for value in text.split()]
    return ", ".join(values) if len(values) <= 12 else f"{values[0]} … {values[-1]}"


# The table that each section needs.
SECTIONS: tuple[tuple[str, Callable[[Analysis, Tables], Section]], ...] = (
    ("points", _best_method),
    ("laws", _laws),
    ("selection", _selection),
    ("errors", _errors),
    ("critical_sizes", _critical_sizes),
    ("claims", _claims),
    ("points", _measured),
    (CURVES, _learning_curves),
    ("best_runs", _scores),
    ("correlation", _correlation),
    ("metric_laws", _metric_laws),
    ("forgetting", _forgetting),
    ("laws", _further_laws),
    ("all_factors", _all_factors),
    ("pretraining", _pretraining),
    ("factors", _data),
)
