"""Plots of laws over loss: points, curves, and 90 % bands over the bootstrap; and of residuals and learning rates.

A law that does not fit a method's points has no curve there.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from finetune_scaling.analysis.analysis import Analysis
from finetune_scaling.analysis.joint_fits import JointFits
from finetune_scaling.formatting import X_LABELS, format_count, method_name
from finetune_scaling.laws.fitting.joint_fit import JointFit
from finetune_scaling.laws.forms.library import SINGLE
from finetune_scaling.laws.points.columns import SENSITIVITY_FACTOR, SWEPT_SIZE
from finetune_scaling.laws.uncertainty.intervals import interval_ends
from finetune_scaling.report.plots import (
    EXAMPLES,
    GREY,
    LOSS,
    ReportFigure,
    held_out_handles,
    log_span,
    log_x,
    log_y,
    loss_texts,
    method_handles,
    panel_grid,
    panels,
    quantity_colours,
    quantity_legend,
    scatter,
    style,
)
from finetune_scaling.report.tables import predictions_table

BAND: dict[str, Any] = {"alpha": 0.15, "lw": 0}
DASHES = ("-", "--", ":", "-.")


class PredictedLoss(NamedTuple):
    """Loss [P] by a law, and its 90 % interval [2, P] over the bootstrap (None without one)."""

    loss: np.ndarray
    band: np.ndarray | None


# Loss by a law at factor values and dataset sizes that broadcast to [P]; None without a fit.
Curve = Callable[[Any, Any], PredictedLoss | None]


def predicted_loss(fit: JointFit, factor: str, x: Any, examples: Any) -> PredictedLoss:
    """Return a fit's prediction with its interval."""
    return PredictedLoss(
        fit.predict_loss(factor, x, examples), interval_ends(fit.predict_loss_replicates(factor, x, examples))
    )


def point_texts(rows: pd.DataFrame, found: PredictedLoss | None) -> list[str]:
    """Return the tooltips of settings: measured and predicted loss."""
    measured = loss_texts(rows)
    if found is None:
        return measured
    if found.band is None:
        return [f"{m}; law {value:.4g}" for m, value in zip(measured, found.loss, strict=True)]
    ends = zip(measured, found.loss, *found.band, strict=True)
    return [f"{m}; law {value:.4g} ({low:.4g} to {high:.4g})" for m, value, low, high in ends]


def draw_methods(analysis: JointFits, task: str) -> ReportFigure:
    """Compare methods: loss against dataset size, a panel per model size, curves by the main law."""
    rows = analysis.rows(task, factor="model")
    sizes = sorted(rows["x"].unique())
    fits = analysis.fits_by_method(task, analysis.main_law)
    figure, _, grid = panel_grid(len(sizes), len(sizes) if len(sizes) <= 5 else 4, width=2.45, height=2.6)
    for axes, size in zip(grid, sizes, strict=True):
        here = rows[rows["x"] == size]
        for method in analysis.methods:
            own = here[here["method"] == method]
            if len(own):
                curve = _law_curve(fits.get(method), "model")
                colour, marker = style(method, analysis.methods)
                span = log_span(own["finetune_examples"])
                _draw_curve(axes, span, curve(size, span), colour, lw=1.4)
                found = curve(size, own["finetune_examples"].to_numpy(float))
                scatter(axes, own["finetune_examples"], own, "loss", colour, marker, point_texts(own, found))
        axes.set_title(f"{format_count(size)} parameters{' (held out)' if here['held_out'].all() else ''}")
        log_x(axes, rows["finetune_examples"], EXAMPLES)
        log_y(axes, LOSS if axes is grid[0] else "")
    figure.legend(handles=method_handles(analysis.methods), loc="outside lower center", ncols=5)
    return figure


def draw_law(analysis: Analysis, task: str, law: str, factor: str) -> ReportFigure:
    """Draw loss against dataset size, a curve per factor value; and, for joint laws, loss against the factor."""
    methods = [m for m in analysis.methods if len(analysis.rows(task, m, factor))]
    rows = analysis.rows(task, factor=factor)
    by_x, by_examples = quantity_colours(rows["x"]), quantity_colours(rows["finetune_examples"])
    joint = law != SINGLE.name
    figure, grid = panels(2 if joint else 1, len(methods))
    for column, method in enumerate(methods):
        own = analysis.rows(task, method, factor)
        curve = _curve(analysis, task, method, law, factor)
        _draw_curves(grid[0, column], own, ("finetune_examples", "x"), curve, by_x)
        log_x(grid[0, column], own["finetune_examples"], EXAMPLES)
        grid[0, column].set_title(method_name(method))
        if joint:
            _draw_curves(grid[1, column], own, ("x", "finetune_examples"), curve, by_examples)
            log_x(grid[1, column], own["x"], X_LABELS[factor])
    for axes in grid[:, 0]:
        log_y(axes, LOSS)
    quantity_legend(grid[0, -1], by_x, X_LABELS[factor])
    if joint:
        quantity_legend(grid[1, -1], by_examples, "examples")
    figure.legend(handles=held_out_handles(), loc="outside lower center", ncols=2)
    return figure


def _curve(analysis: Analysis, task: str, method: str, law: str, factor: str) -> Curve:
    if law == SINGLE.name:
        return _single_curve(analysis, task, method, factor)
    return _law_curve(analysis.fits_by_method(task, law).get(method), factor)


def _law_curve(fit: JointFit | None, factor: str) -> Curve:
    if fit is None or factor not in fit.factors or not fit.fits_well:
        return lambda x, examples: None
    return lambda x, examples: predicted_loss(fit, factor, x, examples)


def _single_curve(analysis: Analysis, task: str, method: str, factor: str) -> Curve:
    """Return the single law of the factor value that all points share."""
    fits = {s.x: s for s in analysis.curve_fits if (s.task, s.method, s.factor) == (task, method, factor)}

    def curve(x: Any, examples: Any) -> PredictedLoss | None:
        values = np.unique(x)
        if len(values) != 1 or float(values[0]) not in fits:
            return None
        single = fits[float(values[0])]
        ends = interval_ends(single.predict_replicates({"D": examples})) if single.shows_scatter else None
        return PredictedLoss(single.predict({"D": examples}), ends)

    return curve


def _draw_curves(
    axes: Axes, rows: pd.DataFrame, columns: tuple[str, str], curve: Curve, colours: dict[float, Any]
) -> None:
    """Draw points and curves of loss along the first column, one colour per value of the second."""
    along, by = columns
    grid = log_span(rows[along])
    for value in sorted(rows[by].unique()):
        own, colour = rows[rows[by] == value], colours[float(value)]
        found = curve(value, grid) if by == "x" else curve(grid, value)
        _draw_curve(axes, grid, found, colour, lw=1.2, ls="--" if own["held_out"].all() else "-")
        at_points = curve(own["x"].to_numpy(float), own["finetune_examples"].to_numpy(float))
        scatter(axes, own[along], own, "loss", colour, texts=point_texts(own, at_points))


def _draw_curve(axes: Axes, grid: np.ndarray, found: PredictedLoss | None, colour: Any, **line: Any) -> None:
    if found is not None:
        axes.plot(grid, found.loss, color=colour, **line)
        if found.band is not None:
            axes.fill_between(grid, *found.band, color=colour, **BAND)


def draw_residuals(analysis: Analysis, task: str) -> ReportFigure:
    """Draw predicted minus measured loss against measured loss, a panel per law."""
    table = predictions_table(analysis)
    table = table[table["task"] == task]
    laws = [law for law in analysis.laws if table[f"predicted_{law}"].notna().any()]
    figure, grid = panels(1, len(laws), width=3.6, height=2.6)
    for axes, law in zip(grid.flat, laws, strict=True):
        axes.axhline(0, color=GREY, lw=0.8)
        for method in analysis.methods:
            own = table[(table["method"] == method) & table[f"predicted_{law}"].notna()]
            own = own.assign(residual=own[f"predicted_{law}"] - own["loss"])
            pairs = zip(own["loss"], own["residual"], strict=True)
            texts = [f"loss {loss:.4g}, {law} law {residual:+.2g}" for loss, residual in pairs]
            scatter(axes, own["loss"], own, "residual", *style(method, analysis.methods), texts)
        axes.set_title(f"{law} law")
        axes.set_xlabel(f"measured {LOSS}")
    grid[0, 0].set_ylabel("predicted - measured")
    figure.legend(handles=method_handles(analysis.methods), loc="outside lower center", ncols=5)
    return figure


def draw_learning_rates(analysis: Analysis, task: str) -> ReportFigure:
    """Draw loss against learning rate: a panel per method, a colour per model size, dashes per dataset size."""
    rows = analysis.rows(task, factor=SENSITIVITY_FACTOR)
    methods = [method for method in analysis.methods if (rows["method"] == method).any()]
    colours = quantity_colours(rows[SWEPT_SIZE].clip(lower=1))
    dashes = dict(zip(sorted(rows["finetune_examples"].unique()), itertools.cycle(DASHES), strict=False))
    figure, grid = panels(1, len(methods))
    for axes, method in zip(grid.flat, methods, strict=True):
        for (size, examples), own in rows[rows["method"] == method].groupby([SWEPT_SIZE, "finetune_examples"]):
            colour = colours[size] if size > 0 else style(method, methods)[0]
            _draw_learning_rate(axes, own.sort_values("x"), colour, dashes[examples])
        axes.set_xscale("log")
        axes.set_xlabel("learning rate")
        axes.set_title(method_name(method))
    log_y(grid[0, 0], LOSS)
    known = {size: colours[size] for size in sorted(rows[SWEPT_SIZE].unique()) if size > 0}
    if known:
        quantity_legend(grid[0, -1], known, "parameters")
    if len(dashes) > 1:
        handles = [grid[0, 0].plot([], [], color=GREY, ls=ls, label=format_count(n))[0] for n, ls in dashes.items()]
        figure.legend(handles=handles, title=EXAMPLES, loc="outside lower center", ncols=len(dashes))
    return figure


def _draw_learning_rate(axes: Axes, rows: pd.DataFrame, colour: Any, dashes: str) -> None:
    axes.plot(rows["x"], rows["loss"], color=colour, lw=1.0, ls=dashes)
    size = rows[SWEPT_SIZE].iloc[0]
    model = f"{format_count(size)} parameters, " if size > 0 else ""
    texts = [f"{model}rate {rate:g}, {text}" for rate, text in zip(rows["x"], loss_texts(rows), strict=True)]
    scatter(axes, rows["x"], rows, "loss", colour, texts=texts)
    best = rows.loc[rows["loss"].idxmin()]
    axes.plot([best["x"]], [best["loss"]], "o", mfc="none", mec=colour, ms=10, mew=1.2, ls="none")
