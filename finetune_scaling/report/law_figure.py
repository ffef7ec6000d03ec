"""The picture of one law over one factor: points, curves, and bands that hold 90 % of the bootstrap's curves.

A law that does not describe a method's points has no curve there, as no value is told by it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from finetune_scaling.analysis.analysis import Analysis
from finetune_scaling.analysis.curve_fits import CurveFit
from finetune_scaling.analysis.joint_fits import JointFits
from finetune_scaling.laws.fitting.joint_fit import JointFit
from finetune_scaling.laws.forms.power import SINGLE
from finetune_scaling.laws.uncertainty.intervals import LEVEL
from finetune_scaling.report.names import human, method_name
from finetune_scaling.report.picture import Picture, picture_of
from finetune_scaling.report.plots import (
    amount_series,
    amounts,
    axis_label,
    held_out_handles,
    legend_of_amounts,
    log_x,
    log_y,
    loss_texts,
    method_handles,
    method_series,
    panels,
    scatter,
    span,
    style,
)

LOSS = "loss (nats per token)"
EXAMPLES = "finetuning examples"
BAND: dict[str, Any] = {"alpha": 0.15, "lw": 0}


class Prediction(NamedTuple):
    """Loss [P] by a law, and the ends [2, P] of its 90 % interval over the bootstrap, None where there is none."""

    loss: np.ndarray
    band: np.ndarray | None


class Curve(Protocol):
    """What a law predicts at factor values and numbers of examples that broadcast to [P]; None: it has no fit there."""

    def __call__(self, x: Any, examples: Any) -> Prediction | None:
        """The prediction."""


def predicted(fit: JointFit, factor: str, x: Any, examples: Any) -> Prediction:
    """A fit's prediction with its interval."""
    return Prediction(fit.predict(factor, x, examples), band_of(fit.predict_replicates(factor, x, examples)))


def band_of(draws: np.ndarray) -> np.ndarray:
    """Ends [2, ...] of the 90 % interval over draws [R, ...]."""
    return np.quantile(draws, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2], axis=0)


def prediction_texts(found: Prediction | None, count: int) -> list[str]:
    """What a law says of each of `count` points; empty where it says nothing."""
    if found is None:
        return [""] * count
    if found.band is None:
        return [f"; law {value:.4g}" for value in found.loss]
    return [
        f"; law {value:.4g} ({low:.4g} to {high:.4g})" for value, low, high in zip(found.loss, *found.band, strict=True)
    ]


def draw_methods(analysis: JointFits, task: str) -> Picture:
    """Methods side by side: loss against examples, a panel for each model size, lines by the multiplicative law."""
    rows = analysis.rows(task, factor="model")
    sizes = sorted(rows["x"].unique())
    fits = {m: f for m, f in analysis.of(task, analysis.main_law).items() if "model" in f.factors and f.describes}
    columns = len(sizes) if len(sizes) <= 5 else 4
    picture, grid = panels(-(-len(sizes) // columns), columns, width=2.45, height=2.6, share_y=False)
    for axes in grid.flat[len(sizes) :]:
        axes.set_axis_off()
    for axes, size in zip(grid.flat, sizes, strict=False):
        here = rows[rows["x"] == size]
        for method in analysis.methods:
            own = here[here["method"] == method]
            if len(own):
                _draw_method(axes, own, fits.get(method), analysis.methods)
        axes.set_title(f"{human(size)} parameters{' (held out)' if here['held_out'].all() else ''}")
        log_x(axes, rows["finetune_examples"], EXAMPLES)
        log_y(axes, LOSS if axes is grid.flat[0] else "")
    picture.legend(handles=method_handles(analysis.methods), loc="outside lower center", ncols=5)
    return picture


def _draw_method(axes: Axes, rows: pd.DataFrame, fit: JointFit | None, methods: Sequence[str]) -> None:
    method, size = rows["method"].iloc[0], float(rows["x"].iloc[0])
    series, marker = method_series(method, methods), style(method, methods)[1]
    said = loss_texts(rows)
    if fit is not None:
        examples = span(rows["finetune_examples"])
        curve = predicted(fit, "model", size, examples)
        picture_of(axes).tag(series, *axes.plot(examples, curve.loss, color=series.colour, lw=1.4))
        if curve.band is not None:
            picture_of(axes).tag(series, axes.fill_between(examples, *curve.band, color=series.colour, **BAND))
        at_points = predicted(fit, "model", size, rows["finetune_examples"].to_numpy(float))
        said = [a + b for a, b in zip(said, prediction_texts(at_points, len(rows)), strict=True)]
    scatter(axes, rows["finetune_examples"], rows, "loss", series, marker, said)


def draw_law(analysis: Analysis, task: str, law: str, factor: str) -> Picture:
    """Top: loss against examples, a curve for each factor value; bottom (joint laws): loss against the factor."""
    methods = [m for m in analysis.methods if len(analysis.rows(task, m, factor))]
    everything = analysis.rows(task, factor=factor)
    by_x, by_examples = amounts(everything["x"]), amounts(everything["finetune_examples"])
    joint = law != SINGLE.name
    picture, grid = panels(2 if joint else 1, len(methods))
    for column, method in enumerate(methods):
        rows = analysis.rows(task, method, factor)
        curve = _curve(analysis, task, method, law, factor)
        _draw_curves(grid[0, column], rows, ("finetune_examples", "x"), curve, by_x)
        log_x(grid[0, column], rows["finetune_examples"], EXAMPLES)
        grid[0, column].set_title(method_name(method))
        if joint:
            _draw_curves(grid[1, column], rows, ("x", "finetune_examples"), curve, by_examples)
            log_x(grid[1, column], rows["x"], axis_label(factor))
    for axes in grid[:, 0]:
        log_y(axes, LOSS)
    legend_of_amounts(grid[0, -1], by_x, axis_label(factor))
    if joint:
        legend_of_amounts(grid[1, -1], by_examples, "examples")
    picture.legend(handles=held_out_handles(), loc="outside lower center", ncols=2)
    return picture


def _curve(analysis: Analysis, task: str, method: str, law: str, factor: str) -> Curve:
    if law != SINGLE.name:
        fit = analysis.of(task, law).get(method)
        if fit is None or factor not in fit.factors or not fit.describes:
            return lambda x, examples: None
        return lambda x, examples: predicted(fit, factor, x, examples)
    own = {s.x: s for s in analysis.singles if (s.task, s.method, s.factor) == (task, method, factor)}
    return lambda x, examples: _single(own, x, examples)


def _single(own: dict[float, CurveFit], x: Any, examples: Any) -> Prediction | None:
    """By the single law of the factor value x, or of the one value of x that all points share."""
    values = np.unique(x)
    if len(values) != 1 or float(values[0]) not in own:
        return None
    single = own[float(values[0])]
    return Prediction(
        single.predict(examples), band_of(single.predict_replicates(examples)) if single.shows_scatter else None
    )


def _draw_curves(
    axes: Axes, rows: pd.DataFrame, columns: tuple[str, str], curve: Curve, colours: dict[float, Any]
) -> None:
    """Points and curves of loss along the first of the columns, one colour for each value of the second."""
    along, by = columns
    grid, picture = span(rows[along]), picture_of(axes)
    group = axis_label(rows["factor"].iloc[0]) if by == "x" else "examples"
    for value in sorted(rows[by].unique()):
        own, series = rows[rows[by] == value], amount_series(group, value, colours[float(value)])
        found = curve(value, grid) if by == "x" else curve(grid, value)
        if found is not None:
            dashes = "--" if own["held_out"].all() else "-"
            picture.tag(series, *axes.plot(grid, found.loss, color=series.colour, lw=1.2, ls=dashes))
        if found is not None and found.band is not None:
            picture.tag(series, axes.fill_between(grid, *found.band, color=series.colour, **BAND))
        at_points = curve(own["x"].to_numpy(float), own["finetune_examples"].to_numpy(float))
        said = [a + b for a, b in zip(loss_texts(own), prediction_texts(at_points, len(own)), strict=True)]
        scatter(axes, own[along], own, "loss", series, said=said)
