"""Styles, axes and files of the report's plots: held-out points hollow, log axes, one colour and marker per method.

Methods have colours of Okabe and Ito, and two of Tol; quantities have viridis. All are distinguishable with colour
blindness and in grey. Each plot is written as PNG, as SVG whose points have tooltips (<title> elements), and as JSON.
"""

import html
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from finetune_scaling.files import disk_errors, finite_or_none, write_atomically, write_json_atomically
from finetune_scaling.formatting import FACTOR_NAMES, format_count, method_name
from finetune_scaling.tuning.registry import METHODS

LOSS = "loss (nats per token)"
EXAMPLES = "finetuning examples"
METHOD_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#882255", "#999933")
METHOD_MARKERS = "os^DvPX*<>"  # one more than colours, so that 90 methods have distinct pairs
GREY = "#555555"
LIGHTEST = 0.7  # position on viridis; lighter colours are hard to see on white
LEGEND_ENTRIES = 8
CURVE_POINTS = 32
POINTS_PER_INCH = 72  # the unit of an SVG is a point
TOOLTIP_RADIUS = 5
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
    "hatch.linewidth": 0.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "finetune-scaling",
    "font.family": "sans-serif",
}


class Tooltips(NamedTuple):
    """Points x, y [P] of one axes in data units, with a text each."""

    axes: Axes
    x: np.ndarray
    y: np.ndarray
    texts: Sequence[str]


class ReportFigure(Figure):
    """A figure whose points have tooltips."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.tooltips: list[Tooltips] = []

    def points(self) -> pd.DataFrame:
        """Return the visible points: x, y, text, and their SVG coordinates; the figure must have its final layout."""
        frames = []
        for axes, x, y, texts in self.tooltips:
            pixels = axes.transData.transform(np.column_stack([x, y]))
            visible = np.isfinite(pixels).all(axis=1)
            visible[visible] = [axes.bbox.padded(1).contains(*point) for point in pixels[visible]]
            svg_x, svg_y = (pixels / self.dpi * POINTS_PER_INCH).T
            svg_y = self.get_figheight() * POINTS_PER_INCH - svg_y
            frame = pd.DataFrame({"x": x, "y": y, "text": texts, "svg_x": svg_x, "svg_y": svg_y})
            frames.append(frame[visible].sort_values("x", kind="stable"))
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["x", "y", "text"])

    def _repr_png_(self) -> bytes:
        """Return the figure for a notebook."""
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=100, facecolor="white")
        return file.getvalue()


@dataclass(frozen=True)
class Plot:
    """A figure of the report: file name, title, caption, and the function that draws it."""

    name: str
    title: str
    caption: str
    draw: Callable[[], ReportFigure]


def save(plot: Plot, folder: Path) -> None:
    """Write folder/NAME.png, NAME.svg and NAME.json (the points); raises WorkdirError if that fails."""
    with disk_errors(folder), mpl.rc_context(RC):
        folder.mkdir(parents=True, exist_ok=True)
        figure = plot.draw()
        FigureCanvasAgg(figure)
        layout = figure.get_layout_engine()
        if layout is not None:
            layout.execute(figure)
            figure.set_layout_engine("none")  # one layout for all formats
        figure.savefig(folder / f"{plot.name}.png", dpi=130, facecolor="white")
        svg = io.StringIO()
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
        points = figure.points()
        write_atomically(folder / f"{plot.name}.svg", _with_tooltips(svg.getvalue(), points))
        columns = {"x": list(map(finite_or_none, points["x"])), "y": list(map(finite_or_none, points["y"]))}
        record = {"title": plot.title, "caption": plot.caption, "points": columns | {"text": list(points["text"])}}
        write_json_atomically(folder / f"{plot.name}.json", record)


def _with_tooltips(svg: str, points: pd.DataFrame) -> str:
    """Add a transparent circle with a title over every point."""
    circles = "".join(
        f'<circle cx="{p.svg_x:.1f}" cy="{p.svg_y:.1f}" r="{TOOLTIP_RADIUS}">'
        f"<title>{html.escape(p.text)}</title></circle>"
        for p in points.itertuples()
    )
    head, end, _ = svg.rpartition("</svg>")
    return f'{head}<g fill="none" pointer-events="all">{circles}</g>{end}\n'


def add_tooltips(axes: Axes, x: Any, y: Any, texts: Sequence[str]) -> None:
    """Give points of an axes, which panels() made, a tooltip each."""
    figure = axes.get_figure(root=True)
    if not isinstance(figure, ReportFigure):
        raise TypeError(
            f"tooltips need axes of a ReportFigure, not of a {type(figure).__name__}; make it with panels()"
        )
    figure.tooltips.append(Tooltips(axes, np.asarray(x, float), np.asarray(y, float), texts))


def style(method: str, methods: Sequence[str]) -> tuple[str, str]:
    """Return colour and marker of a method, in the registry's order; other methods follow in the order of `methods`."""
    index = [*METHODS, *(name for name in methods if name not in METHODS)].index(method)
    return METHOD_COLOURS[index % len(METHOD_COLOURS)], METHOD_MARKERS[index % len(METHOD_MARKERS)]


def panels(
    rows: int, columns: int, width: float = 3.3, height: float = 2.9, share_y: bool = True
) -> tuple[ReportFigure, Any]:
    """Return a figure with a grid of axes [rows, columns]."""
    figure = ReportFigure(figsize=(width * columns + 1.2, height * rows + 0.3), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, sharey="row" if share_y else False)


def panel_grid(count: int, columns: int, **options: Any) -> tuple[ReportFigure, Any, list[Axes]]:
    """Return a figure with `count` axes in rows of at most `columns`: figure, grid, axes in order."""
    across = min(columns, count)
    figure, grid = panels(-(-count // across), across, share_y=False, **options)
    for axes in grid.flat[count:]:
        axes.set_axis_off()
    return figure, grid, list(grid.flat[:count])


def log_x(axes: Axes, values: Any, label: str) -> None:
    """Set a log x axis with counts as labels; few values are the ticks themselves."""
    axes.set_xscale("log")
    distinct = np.unique(np.asarray(values, dtype=float))
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda v, _: format_count(v)))
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    if len(distinct) <= 5 and _labels_fit(distinct):
        axes.xaxis.set_major_locator(ticker.FixedLocator(list(distinct)))
        axes.xaxis.set_minor_locator(ticker.NullLocator())
    else:
        axes.xaxis.set_major_locator(ticker.LogLocator(subs=_subdivisions(distinct[-1] / distinct[0])))
    axes.set_xlabel(label)


def log_y_counts(axes: Axes, label: str) -> None:
    """Set a log y axis of counts."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda v, _: format_count(v)))
    axes.yaxis.set_minor_formatter(ticker.NullFormatter())
    axes.set_ylabel(label)


def log_y(axes: Axes, label: str) -> None:
    """Set a log y axis with plain numbers, also where it spans less than a decade."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(ticker.MaxNLocator(6))
    axes.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axes.yaxis.set_minor_locator(ticker.NullLocator())
    axes.set_ylabel(label)


def scatter(
    axes: Axes, x: Any, rows: pd.DataFrame, y: str, colour: Any, marker: str = "o", texts: Sequence[str] | None = None
) -> None:
    """Draw settings: filled if fitted, hollow if held out, with bars of one standard deviation over seeds.

    texts: the tooltip of each setting, after its factor values; by default the value of column y.
    """
    held_out = rows["held_out"].to_numpy(bool)
    x, heights = np.asarray(x, float), rows[y].to_numpy(float)
    if y == "loss" and rows["loss_sd"].notna().any():
        bars = rows["loss_sd"].fillna(0)
        axes.errorbar(x, heights, bars, fmt="none", ecolor=colour, elinewidth=0.8, alpha=0.6)
    axes.plot(x[~held_out], heights[~held_out], marker, ms=4.5, color=colour, ls="none")
    axes.plot(x[held_out], heights[held_out], marker, mfc="white", mew=1.2, ms=5, color=colour, ls="none")
    values = texts or [f"{y} {value:.4g}" for value in heights]
    add_tooltips(axes, x, heights, [f"{s}: {v}" for s, v in zip(setting_texts(rows), values, strict=True)])


def setting_texts(rows: pd.DataFrame) -> list[str]:
    """Return each setting as text: method, factor value, examples, and whether it is held out."""
    keys = zip(*(rows[c] for c in ("method", "factor", "x", "finetune_examples", "held_out")), strict=True)
    return [
        f"{method_name(method)}, {FACTOR_NAMES[factor]} {format_count(x)}, {format_count(examples)} examples"
        f"{', held out' if held_out else ''}"
        for method, factor, x, examples, held_out in keys
    ]


def loss_texts(rows: pd.DataFrame) -> list[str]:
    """Return the loss of each setting with its standard deviation over seeds."""
    keys = zip(rows["loss"], rows["loss_sd"], rows["seeds"], strict=True)
    return [
        f"loss {loss:.4g}" + (f" ± {sd:.2g} over {int(seeds)} seeds" if np.isfinite(sd) else "")
        for loss, sd, seeds in keys
    ]


def log_span(values: Any, margin: float = 1.15) -> np.ndarray:
    """Return a fine log grid over the values and a little beyond."""
    values = np.asarray(values, dtype=float)
    return np.geomspace(values.min() / margin, values.max() * margin, CURVE_POINTS)


def method_handles(methods: Sequence[str], held_out: bool = True) -> list[Line2D]:
    """Return legend entries for methods, and for fitted and held-out points."""
    handles = [
        Line2D([], [], color=style(m, methods)[0], marker=style(m, methods)[1], ms=5, label=method_name(m))
        for m in methods
    ]
    return handles + (held_out_handles() if held_out else [])


def held_out_handles() -> list[Line2D]:
    """Return legend entries for fitted and held-out points."""
    return [
        Line2D([], [], color=GREY, marker="o", ls="none", ms=4.5, label="fitted"),
        Line2D([], [], color=GREY, marker="o", mfc="white", ls="none", ms=5, label="held out"),
    ]


def quantity_colours(values: Any) -> dict[float, Any]:
    """Return a colour for each distinct value by its logarithm, from light to dark."""
    distinct = np.unique(np.asarray(values, dtype=float))
    logs = np.log(distinct)
    positions = LIGHTEST * (logs[-1] - logs) / max(logs[-1] - logs[0], 1e-9)
    return {float(v): mpl.colormaps["viridis"](p) for v, p in zip(distinct, positions, strict=True)}


def quantity_legend(axes: Axes, colours: dict[float, Any], title: str) -> None:
    """Add a legend right of the axes, with a selection of entries if there are many values."""
    values = list(colours)
    if len(values) > LEGEND_ENTRIES:
        values = [values[i] for i in np.linspace(0, len(values) - 1, LEGEND_ENTRIES).round().astype(int)]
    handles = [Line2D([], [], color=colours[v], marker="o", ms=4, lw=1.2, label=format_count(v)) for v in values]
    axes.legend(handles=handles, title=title, loc="upper left", bbox_to_anchor=(1.0, 1.02), alignment="left")


def _subdivisions(ratio: float) -> tuple[float, ...]:
    """Return which multiples of powers of ten to label on a log axis that spans `ratio`."""
    if ratio > 150:
        return (1.0,)
    return (1.0, 3.0) if ratio > 10 else (1.0, 2.0, 5.0)


def _labels_fit(values: np.ndarray) -> bool:
    """Return whether tick labels at these values would not overlap."""
    if len(values) < 2:
        return True
    gaps = np.diff(np.log(values))
    return bool(gaps.min() > 0.14 * gaps.sum())
