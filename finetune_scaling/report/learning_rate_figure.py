"""The picture of how loss depends on the learning rate: a panel for each method, a line for each size of model."""

import itertools
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from finetune_scaling.analysis.analysis import Analysis
from finetune_scaling.laws.points.columns import SENSITIVITY_FACTOR, SWEPT_SIZE
from finetune_scaling.report.law_figure import LOSS
from finetune_scaling.report.names import human, method_name
from finetune_scaling.report.picture import Picture, Series, picture_of
from finetune_scaling.report.plots import (
    amount_series,
    amounts,
    legend_of_amounts,
    log_y,
    loss_texts,
    method_series,
    panels,
    scatter,
)

DASHES = ("-", "--", ":", "-.")


def draw_learning_rates(analysis: Analysis, task: str) -> Picture:
    """Loss against learning rate, a line for each size of model (by colour) and number of examples (by its dashes)."""
    rows = analysis.rows(task, factor=SENSITIVITY_FACTOR)
    methods = [method for method in analysis.methods if (rows["method"] == method).any()]
    colours = amounts(rows[SWEPT_SIZE].clip(lower=1))
    dashes = dict(zip(sorted(rows["finetune_examples"].unique()), itertools.cycle(DASHES), strict=False))
    picture, grid = panels(1, len(methods))
    for axes, method in zip(grid.flat, methods, strict=True):
        for (size, examples), own in rows[rows["method"] == method].groupby([SWEPT_SIZE, "finetune_examples"]):
            known = size > 0
            series = amount_series("parameters", size, colours[size]) if known else method_series(method, methods)
            _draw_line(axes, own.sort_values("x"), series, dashes[examples])
        axes.set_xscale("log")
        axes.set_xlabel("learning rate")
        axes.set_title(method_name(method))
    log_y(grid[0, 0], LOSS)
    if (rows[SWEPT_SIZE] > 0).any():
        known = {size: colours[size] for size in rows[SWEPT_SIZE] if size > 0}
        legend_of_amounts(grid[0, -1], dict(sorted(known.items())), "parameters")
    if len(dashes) > 1:
        handles = [grid[0, 0].plot([], [], color="#555555", ls=ls, label=human(n))[0] for n, ls in dashes.items()]
        picture.legend(handles=handles, title="finetuning examples", loc="outside lower center", ncols=len(dashes))
    return picture


def _draw_line(axes: Axes, rows: pd.DataFrame, series: Series, dashes: str) -> None:
    picture = picture_of(axes)
    picture.tag(series, *axes.plot(rows["x"], rows["loss"], color=series.colour, lw=1.0, ls=dashes))
    said = [f"{series.name}, rate {rate:g}, {text}" for rate, text in zip(rows["x"], loss_texts(rows), strict=True)]
    scatter(axes, rows["x"], rows, "loss", series, said=said)
    best = rows.loc[rows["loss"].idxmin()]
    ring: dict[str, Any] = {"mfc": "none", "mec": series.colour, "ms": 10, "mew": 1.2, "ls": "none"}
    picture.tag(series, *axes.plot([best["x"]], [best["loss"]], "o", **ring))
