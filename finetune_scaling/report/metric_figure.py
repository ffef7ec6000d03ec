"""The picture of scores against loss, with the law that describes the main metric of each method, if one does."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from finetune_scaling.analysis.analysis import Analysis
from finetune_scaling.report.law_figure import BAND, LOSS, band_of
from finetune_scaling.report.picture import Picture, Series, picture_of
from finetune_scaling.report.plots import method_handles, method_series, panels, scatter, style

CURVE_POINTS = 32


def draw_metrics(analysis: Analysis, task: str, metrics: list[str]) -> Picture:
    """A panel for each metric; lines and bands where a law describes it."""
    figure, grid = panels(1, len(metrics), share_y=False)
    for axes, metric in zip(grid.flat, metrics, strict=True):
        for method in analysis.methods:
            own = analysis.rows(task, method).dropna(subset=[metric])
            if len(own):
                series, marker = method_series(method, analysis.methods), style(method, analysis.methods)[1]
                _draw_law(analysis, axes, series, (task, method, metric), own["loss"])
                said = [f"loss {x:.4g}, {metric} {y:.4g}" for x, y in zip(own["loss"], own[metric], strict=True)]
                scatter(axes, own["loss"], own, metric, series, marker, said)
        baseline = analysis.facts.get("baselines", {}).get(task, {}).get(metric)
        if isinstance(baseline, int | float):
            axes.axhline(baseline, color="#555555", lw=1, ls=":", label="copy baseline")
            axes.legend(loc="upper right")
        axes.set_xlabel(LOSS)
        axes.set_ylabel(metric)
    figure.legend(handles=method_handles(analysis.methods), loc="outside lower center", ncols=5)
    return figure


def _draw_law(analysis: Analysis, axes: Axes, series: Series, key: tuple[str, str, str], losses: Any) -> None:
    """The metric by its law with the 90 % band, over the losses that were measured."""
    found = next((f for f in analysis.metric_laws if (f.task, f.method, f.metric) == key and f.used), None)
    if found is None:
        return
    grid, picture = np.linspace(losses.min(), losses.max(), CURVE_POINTS), picture_of(axes)
    picture.tag(series, *axes.plot(grid, found.predict(grid), color=series.colour, lw=1.2))
    picture.tag(series, axes.fill_between(grid, *band_of(found.predict_replicates(grid)), color=series.colour, **BAND))
