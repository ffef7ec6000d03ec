"""Pictures of every law with its points, as PNG and SVG: held-out points hollow, log axes, one look per method.

Colours are Okabe and Ito's for methods and viridis for amounts, both readable with colour-blindness and in grey;
markers tell methods apart as well.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from finetune_scaling.files import disk_errors
from finetune_scaling.scaling.reporting.names import X_NAMES, human, method_name

STYLES = {"full": ("#0072B2", "o"), "prompt": ("#D55E00", "s"), "lora": ("#009E73", "^")}
SPARE_STYLES = (("#CC79A7", "D"), ("#56B4E9", "v"), ("#E69F00", "P"), ("#000000", "X"))
LEGEND_ENTRIES = 8
CURVE_POINTS = 60
RC: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.fonttype": "none",
    "svg.hashsalt": "finetune-scaling",
    "font.family": "sans-serif",
}


@dataclass(frozen=True)
class Plot:
    """A picture to be drawn: its file name, title, caption, and the function that draws it."""

    name: str
    title: str
    caption: str
    draw: Callable[[], Figure]


def save(plot: Plot, folder: Path) -> None:
    """Writes folder/NAME.png and folder/NAME.svg; WorkdirError where that cannot be done."""
    with disk_errors(folder), mpl.rc_context(RC):
        folder.mkdir(parents=True, exist_ok=True)
        figure = plot.draw()
        FigureCanvasAgg(figure)
        layout = figure.get_layout_engine()
        if layout is not None:
            layout.execute(figure)
            figure.set_layout_engine("none")  # laying out again for each format would double the time
        figure.savefig(folder / f"{plot.name}.png", dpi=130, facecolor="white")
        figure.savefig(folder / f"{plot.name}.svg", transparent=True, metadata={"Date": None})


def style(method: str, methods: Sequence[str]) -> tuple[str, str]:
    """Colour and marker of a method; those outside the paper take the spare ones in order."""
    if method in STYLES:
        return STYLES[method]
    others = [m for m in methods if m not in STYLES]
    return SPARE_STYLES[others.index(method) % len(SPARE_STYLES)]


def panels(
    rows: int, columns: int, width: float = 3.3, height: float = 2.9, share_y: bool = True
) -> tuple[Figure, Any]:
    """A figure with a grid of axes [rows, columns]."""
    figure = Figure(figsize=(width * columns + 1.2, height * rows + 0.3), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, sharey="row" if share_y else False)


def log_x(axes: Axes, values: Any, label: str) -> None:
    """Log x axis whose ticks are the values themselves where they are few, in human units."""
    axes.set_xscale("log")
    distinct = np.unique(np.asarray(values, dtype=float))
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda v, _: human(v)))
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    if len(distinct) <= 5 and _are_apart(distinct):
        axes.xaxis.set_major_locator(ticker.FixedLocator(list(distinct)))
        axes.xaxis.set_minor_locator(ticker.NullLocator())
    else:
        axes.xaxis.set_major_locator(ticker.LogLocator(subs=_subdivisions(distinct[-1] / distinct[0])))
    axes.set_xlabel(label)


def log_y_counts(axes: Axes, label: str) -> None:
    """Log y axis of counts in human units."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda v, _: human(v)))
    axes.yaxis.set_minor_formatter(ticker.NullFormatter())
    axes.set_ylabel(label)


def log_y(axes: Axes, label: str) -> None:
    """Log y axis with plain numbers, also where it spans less than a decade."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(ticker.MaxNLocator(6))
    axes.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axes.yaxis.set_minor_locator(ticker.NullLocator())
    axes.set_ylabel(label)


def scatter(axes: Axes, x: Any, rows: pd.DataFrame, y: str, colour: Any, marker: str = "o") -> None:
    """Points of settings: filled where fitted, hollow where held out, bars of one standard deviation over seeds."""
    held_out = rows["held_out"].to_numpy(bool)
    x, heights = np.asarray(x, float), rows[y].to_numpy(float)
    if y == "loss" and rows["loss_sd"].notna().any():
        axes.errorbar(x, heights, rows["loss_sd"].fillna(0), fmt="none", ecolor=colour, elinewidth=0.8, alpha=0.6)
    axes.plot(x[~held_out], heights[~held_out], marker, color=colour, ms=4.5, ls="none")
    axes.plot(x[held_out], heights[held_out], marker, color=colour, mfc="white", mew=1.2, ms=5, ls="none")


def span(values: Any, margin: float = 1.15, points: int = CURVE_POINTS) -> np.ndarray:
    """A fine log grid over the values and a little beyond."""
    values = np.asarray(values, dtype=float)
    return np.geomspace(values.min() / margin, values.max() * margin, points)


def method_handles(methods: Sequence[str], held_out: bool = True) -> list[Line2D]:
    """Legend entries: one a method, and what hollow points are."""
    handles = [
        Line2D([], [], color=style(m, methods)[0], marker=style(m, methods)[1], ms=5, label=method_name(m))
        for m in methods
    ]
    return handles + (held_out_handles() if held_out else [])


def held_out_handles() -> list[Line2D]:
    """Legend entries for filled and hollow points."""
    return [
        Line2D([], [], color="#555555", marker="o", ls="none", ms=4.5, label="fitted"),
        Line2D([], [], color="#555555", marker="o", mfc="white", ls="none", ms=5, label="held out"),
    ]


def amounts(values: Any) -> dict[float, Any]:
    """A colour for each amount by its logarithm, light to dark, leaving out the palest yellow."""
    distinct = np.unique(np.asarray(values, dtype=float))
    logs = np.log(distinct)
    places = 0.88 * (logs[-1] - logs) / max(logs[-1] - logs[0], 1e-9)
    return {float(v): mpl.colormaps["viridis"](place) for v, place in zip(distinct, places, strict=True)}


def legend_of_amounts(axes: Axes, colours: dict[float, Any], title: str) -> None:
    """A legend right of the axes; of many amounts it names some, evenly spread."""
    values = list(colours)
    if len(values) > LEGEND_ENTRIES:
        values = [values[i] for i in np.linspace(0, len(values) - 1, LEGEND_ENTRIES).round().astype(int)]
    handles = [Line2D([], [], color=colours[v], marker="o", ms=4, lw=1.2, label=human(v)) for v in values]
    axes.legend(handles=handles, title=title, loc="upper left", bbox_to_anchor=(1.0, 1.02), alignment="left")


def axis_label(factor: str) -> str:
    """What the x of a factor counts."""
    return X_NAMES[factor]


def _subdivisions(ratio: float) -> tuple[float, ...]:
    """Which multiples of powers of ten to label on a log axis that spans `ratio`."""
    if ratio > 150:
        return (1.0,)
    return (1.0, 3.0) if ratio > 10 else (1.0, 2.0, 5.0)


def _are_apart(values: np.ndarray) -> bool:
    """Whether tick labels at these values would not overlap on an axis of usual width."""
    if len(values) < 2:
        return True
    gaps = np.diff(np.log(values))
    return bool(gaps.min() > 0.14 * gaps.sum())
