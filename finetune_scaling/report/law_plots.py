"""Plots of laws over loss: points, curves, and 90 % bands over the bootstrap; and of residuals and learning rates.

A law that does not fit a method's points has no curve there.
"""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.axes import Axes

from finetune_scaling.analysis.analysis import Analysis
from finetune_scaling.analysis.curve_fits import CurveFit
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
    add_legend,
    draw_curve,
    figure_name,
    log_span,
    log_x,
    log_y,
    loss_texts,
    panels,
    quantity_colours,
    quantity_legend,
    scatter,
    style,
)
from finetune_scaling.report.tables import predictions_table

DASHES = ("-", "--", ":", "-.")


class PredictedLoss(NamedTuple):
    """Loss [P] by a law, and its 90 % interval [2, P] over the bootstrap (None without one)."""

    loss: np.ndarray
    band: np.ndarray | None


# Loss by a law at factor values and dataset sizes that broadcast to [P]; None without a fit that fits the points.
Curve = Callable[[Any, Any], PredictedLoss | None]


def point_texts(rows: pd.DataFrame, found: PredictedLoss | None) -> list[str]:
    """Return the tooltips of settings: measured and predicted loss."""
    measured = loss_texts(rows)
    if found is None:
        return measured
    if found.band is None:
        return [f"{m}; law {value:.4g}" for m, value in zip(measured, found.loss, strict=True)]
    ends = zip(measured, found.loss, *found.band, strict=True)
    return [f"{m}; law {value:.4g} ({low:.4g} to {high:.4g})" for m, value, low, high in ends]


def draw_methods(analysis: JointFits, task: str, curve_fits: Sequence[CurveFit] = ()) -> ReportFigure:
    """Compare methods: loss against dataset size, a panel per model size.

    Curves are by the main law, or by those of `curve_fits` for methods to which it could not be fitted.
    """
    rows = analysis.rows(task, factor="model")
    sizes = sorted(rows["x"].unique())
    fits = analysis.fits_by_method(task, analysis.law_of_comparisons(task))
    figure, grid = panels(len(sizes), len(sizes) if len(sizes) <= 5 else 4, width=2.45, height=2.6)
    for axes, size in zip(grid, sizes, strict=True):
        here = rows[rows["x"] == size]
        for method in analysis.methods:
            own = here[here["method"] == method]
            if len(own):
                look = style(method, analysis.methods)
                joint = functools.partial(_joint_loss, fits.get(method), "model")
                curve = joint if method in fits else _single_curve(curve_fits, task, method, "model")
                _draw_settings(axes, own, "finetune_examples", log_span(own["finetune_examples"]), curve, *look)
        axes.set_title(f"{format_count(size)} parameters{' (held out)' if here['held_out'].all() else ''}")
        log_x(axes, rows["finetune_examples"], EXAMPLES)
        log_y(axes, LOSS if axes is grid[0] else "")
    add_legend(figure, analysis.methods)
    return figure


def draw_law(analysis: Analysis, task: str, law: str, factor: str) -> ReportFigure:
    """Draw loss against dataset size, a curve per factor value; and, for joint laws, loss against the factor."""
    rows = analysis.rows(task, factor=factor)
    methods = [m for m in analysis.methods if (rows["method"] == m).any()]
    views = [("finetune_examples", "x", EXAMPLES, X_LABELS[factor])]
    if law != SINGLE.name:
        views.append(("x", "finetune_examples", X_LABELS[factor], "examples"))
    figure, grid = panels(len(views) * len(methods), len(methods), share_y=True)
    for index, (along, by, label, legend) in enumerate(views):
        line, colours = grid[index * len(methods) :][: len(methods)], quantity_colours(rows[by])
        for axes, method in zip(line, methods, strict=True):
            own, curve = rows[rows["method"] == method], _curve(analysis, task, method, law, factor)
            for value, points in own.groupby(by):
                _draw_settings(axes, points, along, log_span(own[along]), curve, colours[float(value)])
            log_x(axes, own[along], label)
        log_y(line[0], LOSS)
        quantity_legend(line[-1], colours, legend)
    for axes, method in zip(grid, methods, strict=False):
        axes.set_title(figure_name(method_name(method)))
    add_legend(figure)
    return figure


def _curve(analysis: Analysis, task: str, method: str, law: str, factor: str) -> Curve:
    if law != SINGLE.name:
        return functools.partial(_joint_loss, analysis.fits_by_method(task, law).get(method), factor)
    return _single_curve(analysis.curve_fits, task, method, factor)


def _single_curve(curve_fits: Sequence[CurveFit], task: str, method: str, factor: str) -> Curve:
    fits = {s.x: s for s in curve_fits if (s.task, s.method, s.factor) == (task, method, factor)}
    return functools.partial(_single_loss, fits)


def _joint_loss(fit: JointFit | None, factor: str, x: Any, examples: Any) -> PredictedLoss | None:
    if fit is None or factor not in fit.factors or not fit.fits_well:
        return None
    ends = interval_ends(fit.predict_loss_replicates(factor, x, examples))
    return PredictedLoss(fit.predict_loss(factor, x, examples), ends)


def _single_loss(fits: Mapping[float, CurveFit], x: Any, examples: Any) -> PredictedLoss | None:
    """Return the loss by the fit at the factor value that all points share."""
    single = fits.get(float(np.ravel(x)[0]))
    if single is None:
        return None
    ends = interval_ends(single.predict_replicates({"D": examples})) if single.shows_scatter else None
    return PredictedLoss(single.predict({"D": examples}), ends)


def _draw_settings(
    axes: Axes, rows: pd.DataFrame, along: str, grid: np.ndarray, curve: Curve, colour: Any, marker: str = "o"
) -> None:
    """Draw settings that differ in one column, and a curve and band over values of that column (grid)."""
    x, examples = (grid if column == along else rows[column].iloc[0] for column in ("x", "finetune_examples"))
    found = curve(x, examples)
    if found is not None:
        draw_curve(axes, grid, *found, colour, "--" if rows["held_out"].all() else "-")
    at_points = curve(rows["x"].to_numpy(float), rows["finetune_examples"].to_numpy(float))
    scatter(axes, rows[along], rows, "loss", point_texts(rows, at_points), colour, marker)


def draw_residuals(analysis: Analysis, task: str) -> ReportFigure:
    """Draw predicted minus measured loss against measured loss, a panel per law."""
    table = predictions_table(analysis)
    table = table[table["task"] == task]
    laws = [law for law in analysis.laws if table[f"predicted_{law}"].notna().any()]
    figure, grid = panels(len(laws), width=3.6, height=2.6, share_y=True)
    for axes, law in zip(grid, laws, strict=True):
        axes.axhline(0, color=GREY, lw=0.8)
        for method in analysis.methods:
            own = table[(table["method"] == method) & table[f"predicted_{law}"].notna()]
            own = own.assign(residual=own[f"predicted_{law}"] - own["loss"])
            pairs = zip(own["loss"], own["residual"], strict=True)
            texts = [f"loss {loss:.4g}, {law} law {residual:+.2g}" for loss, residual in pairs]
            scatter(axes, own["loss"], own, "residual", texts, *style(method, analysis.methods))
        axes.set_title(f"{figure_name(law)} law")
        axes.set_xlabel(f"measured {LOSS}")
    grid[0].set_ylabel("predicted - measured")
    add_legend(figure, analysis.methods)
    return figure


def draw_learning_rates(analysis: Analysis, task: str) -> ReportFigure:
    """Draw loss against learning rate: a panel per method, a colour per model size, dashes per dataset size."""
    rows = analysis.rows(task, factor=SENSITIVITY_FACTOR)
    methods = [method for method in analysis.methods if (rows["method"] == method).any()]
    colours = quantity_colours(rows[SWEPT_SIZE].clip(lower=1))
    dashes = dict(zip(sorted(rows["finetune_examples"].unique()), itertools.cycle(DASHES), strict=False))
    figure, grid = panels(len(methods), share_y=True)
    for axes, method in zip(grid, methods, strict=True):
        for (size, examples), own in rows[rows["method"] == method].groupby([SWEPT_SIZE, "finetune_examples"]):
            colour = colours[size] if size > 0 else style(method, methods)[0]
            _draw_learning_rate(axes, own.sort_values("x"), colour, dashes[examples])
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        axes.set_xlabel("learning rate")
        axes.set_title(figure_name(method_name(method)))
    log_y(grid[0], LOSS)
    known = {size: colours[size] for size in sorted(rows[SWEPT_SIZE].unique()) if size > 0}
    if known:
        quantity_legend(grid[-1], known, "parameters")
    if len(dashes) > 1:
        handles = [grid[0].plot([], [], color=GREY, ls=ls, label=format_count(n))[0] for n, ls in dashes.items()]
        figure.legend(handles=handles, title=EXAMPLES, loc="outside lower center", ncols=len(dashes))
    return figure


def _draw_learning_rate(axes: Axes, rows: pd.DataFrame, colour: Any, dashes: str) -> None:
    axes.plot(rows["x"], rows["loss"], color=colour, lw=1.0, ls=dashes)
    size = rows[SWEPT_SIZE].iloc[0]
    model = f"{format_count(size)} parameters, " if size > 0 else ""
    texts = [f"{model}rate {rate:g}, {text}" for rate, text in zip(rows["x"], loss_texts(rows), strict=True)]
    scatter(axes, rows["x"], rows, "loss", texts, colour)
    best = rows.loc[rows["loss"].idxmin()]
    axes.plot([best["x"]], [best["loss"]], "o", mfc="none", mec=colour, ms=10, mew=1.2, ls="none")
