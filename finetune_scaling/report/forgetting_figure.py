"""The picture of what tuning changes outside its task: change against finetuning examples, a line for each method."""

import functools
from collections.abc import Iterator
from typing import Any

from matplotlib.axes import Axes

from finetune_scaling.analysis.analysis import Analysis, main_metric
from finetune_scaling.analysis.forgetting import ScoreChange, main_factor, shown_columns
from finetune_scaling.laws.points.columns import lower_is_better
from finetune_scaling.report.names import FACTOR_NAMES, human, method_name
from finetune_scaling.report.picture import Picture, Series, picture_of
from finetune_scaling.report.plots import Plot, log_x, method_handles, method_series, panels, style
from finetune_scaling.report.score_words import column_name

COLUMNS = 4  # panels side by side


def forgetting_plots(analysis: Analysis, task: str, tag: str) -> Iterator[Plot]:
    """The task's picture, where the untuned bases were scored."""
    factor = main_factor(analysis.forgetting, task)
    if factor is not None:
        yield Plot(
            f"{tag}-forgetting",
            f"{task}: what tuning changes elsewhere",
            "Tuned minus untuned: mean over runs, bars their range over all values of "
            f"{FACTOR_NAMES[factor]}. The dotted line is the untuned base; on the shaded side it was better.",
            functools.partial(_draw, analysis, task, factor),
        )


def _draw(analysis: Analysis, task: str, factor: str) -> Picture:
    found = [c for c in analysis.forgetting if (c.task, c.factor, c.x) == (task, factor, None)]
    columns = shown_columns(analysis.forgetting, task, main_metric(analysis, task))
    across = min(COLUMNS, len(columns))
    figure, grid = panels(-(-len(columns) // across), across, width=2.7, height=2.6, share_y=False)
    for axes in grid.flat[len(columns) :]:
        axes.set_axis_off()
    for axes, column in zip(grid.flat, columns, strict=False):
        own = [c for c in found if c.column == column]
        for method in analysis.methods:
            cells = [c for c in own if c.method == method]
            _draw_method(axes, cells, method_series(method, analysis.methods), style(method, analysis.methods)[1])
        _shade_worse(axes, lower_is_better(column))
        log_x(axes, [c.finetune_examples for c in own], "finetuning examples")
        axes.set_title(column_name(column))
    for row in grid:
        row[0].set_ylabel("tuned - untuned")
    figure.legend(handles=method_handles(analysis.methods, held_out=False), loc="outside lower center", ncols=5)
    return figure


def _draw_method(axes: Axes, cells: list[ScoreChange], series: Series, marker: str) -> None:
    cells = sorted(cells, key=lambda c: c.finetune_examples)
    if cells:
        means = [c.mean for c in cells]
        bars = [[c.mean - c.low for c in cells], [c.high - c.mean for c in cells]]
        examples = [c.finetune_examples for c in cells]
        look: dict[str, Any] = {
            "color": series.colour,
            "marker": marker,
            "ms": 4.5,
            "lw": 1.2,
            "elinewidth": 0.8,
            "capsize": 2,
        }
        picture_of(axes).tag(series, *axes.errorbar(examples, means, bars, **look).get_children())
        said = [
            f"{method_name(c.method)}, {human(c.finetune_examples)} examples: {column_name(c.column)} {c.mean:+.3g} "
            f"({c.low:+.3g} to {c.high:+.3g} over {c.runs} runs)"
            for c in cells
        ]
        picture_of(axes).read(axes, series, examples, means, said)


def _shade_worse(axes: Axes, above: bool) -> None:
    """Marks zero, and tints the side on which the untuned base was better."""
    axes.axhline(0, color="#555555", lw=1, ls=":")
    low, high = axes.get_ylim()
    axes.axhspan(*((0, max(high, 0)) if above else (min(low, 0), 0)), color="#D55E00", alpha=0.07, lw=0)
    axes.set_ylim(low, high)
