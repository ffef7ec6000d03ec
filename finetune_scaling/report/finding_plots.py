"""Plots of findings: exponents, metrics, forgetting, the law over all factors, and pretraining."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from finetune_scaling.analysis.all_factors import distinct_settings, factors_of
from finetune_scaling.analysis.analysis import Analysis
from finetune_scaling.analysis.forgetting import main_factor, shown_columns
from finetune_scaling.analysis.pretraining import SIZE, PretrainingFit
from finetune_scaling.formatting import X_LABELS, format_count, format_parameter, method_name, score_name
from finetune_scaling.laws.fitting.fitted_law import FittedLaw
from finetune_scaling.laws.fitting.joint_fit import JointFit
from finetune_scaling.laws.points.columns import lower_is_better
from finetune_scaling.laws.uncertainty.intervals import interval_ends
from finetune_scaling.report.law_plots import PredictedLoss, point_texts
from finetune_scaling.report.plots import (
    CURVE_POINTS,
    EXAMPLES,
    GREY,
    LOSS,
    ReportFigure,
    add_legend,
    add_tooltips,
    draw_curve,
    draw_points,
    figure_name,
    log_span,
    log_x,
    panels,
    scatter,
    style,
)

PARAMETERS = ("alpha_model", "alpha_pretrain", "alpha_pet", "beta", "E")
PALE = 0.4
FORGETTING_COLUMNS, PRETRAINING_COLUMNS = 4, 3
PRETRAINING_COLOUR = "#0072B2"


def shown_parameters(analysis: Analysis) -> list[str]:
    """Return the parameters that the plot of exponents shows."""
    return [n for n in PARAMETERS if any(n in f.parameters for f in _good_fits(analysis))]


def _good_fits(analysis: Analysis) -> list[JointFit]:
    return [fit for fit in analysis.fits_of_law(analysis.main_law) if fit.fits_well]


def draw_exponents(analysis: Analysis) -> ReportFigure:
    """Draw a panel per parameter with one row per task and method; poorly determined values are pale."""
    fits, names = _good_fits(analysis), shown_parameters(analysis)
    figure, grid = panels(len(names), width=2.2, height=0.9 + 0.28 * len(fits), share_y=True)
    for axes, name in zip(grid, names, strict=True):
        axes.set_title(name)
        axes.set_yticks(range(len(fits)), [f"{figure_name(f.task)}, {figure_name(f.method)}" for f in fits])
        axes.margins(x=0.15)
        if name == "E":  # E is below every loss, so larger upper ends are cut
            offsets = [f.parameters["E"] for f in fits]
            axes.set_xlim(0, 1.1 * max(analysis.table.settings["loss"].min(), *offsets))
        for row, fit in enumerate(fits):
            if name in fit.parameters:
                _draw_parameter(axes, row, name, fit, style(fit.method, analysis.methods))
    grid[0].set_ylim(len(fits) - 0.5, -0.5)
    return figure


def _draw_parameter(axes: Axes, row: int, name: str, fit: JointFit, look: tuple[str, str]) -> None:
    value, interval = fit.parameters[name], fit.interval(name)
    options: dict[str, Any] = {"color": look[0], "alpha": 1.0 if fit.is_well_determined(name) else PALE}
    low, high = (value if end is None else end for end in (interval.low, interval.high))
    axes.plot([low, high], [row] * 2, lw=1.6, **options)
    axes.plot(value, row, look[1], ms=6, **options)
    if interval.low is None:
        axes.plot(low, row, marker=r"$\leftarrow$", ms=12, ls="none", **options)
    if interval.high is None:
        axes.plot(high, row, marker=r"$\rightarrow$", ms=12, ls="none", **options)
    text = f"{fit.task}, {method_name(fit.method)}: {name} {format_parameter(fit, name)}"
    add_tooltips(axes, [value], [row], [text])


def draw_metrics(analysis: Analysis, task: str, metrics: list[str]) -> ReportFigure:
    """Draw a panel per metric against loss, with curves and bands of laws that fit it."""
    figure, grid = panels(len(metrics))
    for axes, metric in zip(grid, metrics, strict=True):
        for method in analysis.methods:
            own = analysis.rows(task, method).dropna(subset=[metric])
            if len(own):
                colour, marker = style(method, analysis.methods)
                _draw_metric_law(analysis, axes, colour, (task, method, metric), own["loss"])
                pairs = zip(own["loss"], own[metric], strict=True)
                texts = [f"loss {x:.4g}, {metric} {y:.4g}" for x, y in pairs]
                scatter(axes, own["loss"], own, metric, texts, colour, marker)
        baseline = analysis.facts.get("baselines", {}).get(task, {}).get(metric)
        if isinstance(baseline, int | float):
            axes.axhline(baseline, color=GREY, lw=1, ls=":", label="copy baseline")
            axes.legend(loc="upper right")
        axes.set_xlabel(LOSS)
        axes.set_ylabel(figure_name(metric))
    add_legend(figure, analysis.methods)
    return figure


def draw_scores(analysis: Analysis, task: str, metric: str, factor: str) -> ReportFigure:
    """Draw a metric against dataset size, a panel per value of a factor and a line per method."""
    rows = analysis.rows(task, factor=factor).dropna(subset=[metric])
    values = sorted(rows["x"].unique())
    figure, grid = panels(len(values), FORGETTING_COLUMNS, width=2.7, height=2.6, share_y=True)
    baseline = analysis.facts.get("baselines", {}).get(task, {}).get(metric)
    for axes, value in zip(grid, values, strict=True):
        for method in analysis.methods:
            own = rows[(rows["method"] == method) & (rows["x"] == value)].sort_values("finetune_examples")
            if len(own):
                colour, marker = style(method, analysis.methods)
                axes.plot(own["finetune_examples"], own[metric], color=colour, lw=0.8, alpha=0.6)
                texts = [f"{metric} {score:.4g}" for score in own[metric]]
                scatter(axes, own["finetune_examples"], own, metric, texts, colour, marker)
        if isinstance(baseline, int | float):
            axes.axhline(baseline, color=GREY, lw=1, ls=":")
        axes.set_title(f"{format_count(value)} {X_LABELS[factor].partition(' (')[0]}")
        log_x(axes, rows["finetune_examples"], EXAMPLES)
    grid[0].set_ylabel(figure_name(metric))
    add_legend(figure, analysis.methods)
    return figure


def _draw_metric_law(analysis: Analysis, axes: Axes, colour: str, key: tuple[str, str, str], losses: Any) -> None:
    fit = next((f.used for f in analysis.metric_laws if (f.task, f.method, f.metric) == key), None)
    if fit is not None:
        grid = np.linspace(losses.min(), losses.max(), CURVE_POINTS)
        values = {"L": grid}
        draw_curve(axes, grid, fit.predict(values), interval_ends(fit.predict_replicates(values)), colour)


def draw_forgetting(analysis: Analysis, task: str) -> ReportFigure:
    """Draw tuned minus untuned scores against dataset size: a panel per column, a line per method."""
    changes = analysis.forgetting
    factor = main_factor(changes, task)
    columns = shown_columns(changes, task, analysis.main_metrics[task])
    changes = changes[(changes["task"] == task) & (changes["factor"] == factor) & changes["x"].isna()]
    figure, grid = panels(len(columns), FORGETTING_COLUMNS, width=2.7, height=2.6)
    for axes, column in zip(grid, columns, strict=True):
        own = changes[changes["column"] == column].sort_values("finetune_examples")
        for method, found in own.groupby("method"):
            _draw_changes(axes, found, *style(str(method), analysis.methods))
        axes.axhline(0, color=GREY, lw=1, ls=":")
        low, high = axes.get_ylim()
        worse = (0, max(high, 0)) if lower_is_better(column) else (min(low, 0), 0)
        axes.axhspan(*worse, color="#D55E00", alpha=0.07, lw=0)
        axes.set_ylim(low, high)
        log_x(axes, own["finetune_examples"], EXAMPLES)
        axes.set_title(figure_name(score_name(column)))
    figure.supylabel("tuned - untuned")
    add_legend(figure, analysis.methods, held_out=False)
    return figure


def _draw_changes(axes: Axes, changes: pd.DataFrame, colour: str, marker: str) -> None:
    examples, means = changes["finetune_examples"], changes["mean"]
    bars = [means - changes["low"], changes["high"] - means]
    axes.errorbar(examples, means, bars, color=colour, marker=marker, ms=4.5, lw=1.2, elinewidth=0.8, capsize=2)
    texts = [
        f"{method_name(c.method)}, {format_count(c.finetune_examples)} examples: {score_name(c.column)} {c.mean:+.3g} "
        f"({c.low:+.3g} to {c.high:+.3g} over {c.runs} runs)"
        for c in changes.itertuples()
    ]
    add_tooltips(axes, examples, means, texts)


def draw_all_factors(analysis: Analysis, task: str, fits: dict[str, FittedLaw]) -> ReportFigure:
    """Draw predicted against measured loss by the law over all factors, a panel per method."""
    figure, grid = panels(len(fits))
    for axes, (method, fit) in zip(grid, fits.items(), strict=True):
        rows = distinct_settings(analysis.rows(task, method))
        factors = factors_of(rows)
        ends = interval_ends(fit.predict_replicates(factors))
        found = PredictedLoss(fit.predict(factors), ends)
        colour, marker = style(method, analysis.methods)
        diagonal = (rows["loss"].min(), rows["loss"].max())
        axes.plot(diagonal, diagonal, color=GREY, lw=0.8)
        axes.vlines(rows["loss"], *ends, color=colour, lw=0.8, alpha=0.6)
        own = rows.assign(predicted=found.loss)
        scatter(axes, rows["loss"], own, "predicted", point_texts(rows, found), colour, marker)
        axes.set_title(figure_name(method_name(method)))
        axes.set_xlabel(f"measured {LOSS}")
    grid[0].set_ylabel("predicted")
    add_legend(figure)
    return figure


def draw_pretraining(found: list[PretrainingFit]) -> ReportFigure:
    """Draw the loss of base models against their size and tokens, a panel per family and factor."""
    figure, grid = panels(len(found), PRETRAINING_COLUMNS)
    for axes, one in zip(grid, found, strict=True):
        _draw_pretraining_fit(axes, one)
    figure.supylabel(LOSS)
    add_legend(figure)
    return figure


def _draw_pretraining_fit(axes: Axes, found: PretrainingFit) -> None:
    x, loss, held_out = (found.rows[c].to_numpy() for c in ("x", "loss", "held_out"))
    label = X_LABELS["model" if found.factor == SIZE else "pretrain"]
    if found.fitted is not None and found.fitted.fits_well:
        line = log_span(x)
        predicted = found.fitted.predict({found.law.factors[0]: line})
        draw_curve(axes, line, predicted, found.fitted.region.predictions(line), PRETRAINING_COLOUR)
    draw_points(axes, x, loss, held_out, PRETRAINING_COLOUR)
    margin = 0.25 * max(float(np.ptp(loss)), 0.05)  # a band may be much wider than the points
    axes.set_ylim(loss.min() - margin, loss.max() + margin)
    log_x(axes, x, label)
    at = f"{format_count(found.at)} tokens" if isinstance(found.at, float) else figure_name(found.at)
    axes.set_title(f"{figure_name(found.family)}, {at}")
    texts = [
        f"{found.family}, {format_count(value)} {label}: loss {y:.4g}{', held out' if out else ''}"
        for value, y, out in zip(x, loss, held_out, strict=True)
    ]
    add_tooltips(axes, x, loss, texts)
