"""Styles, axes and files of the report's plots: held-out points hollow, log axes, one colour and marker per method.

Methods have colours of Okabe and Ito, and two of Tol; quantities have viridis. All are distinguishable with colour
blindness and in grey. Each plot is written as PNG, as SVG whose points have tooltips (<title> elements), and as JSON.
"""

import hashlib
import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from finetune_scaling.files import disk_errors, write_atomically, write_json_atomically
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
CURVE_MARGIN = 1.15  # factor by which curves extend beyond the values
POINTS_PER_INCH = 72  # the unit of an SVG is a point
TOOLTIPS = jinja2.Template(
    """<g fill="none" pointer-events="all">
{%- for point in points %}
<circle cx="{{ "%.1f" % point.svg_x }}" cy="{{ "%.1f" % point.svg_y }}" r="5"><title>{{ point.text }}</title></circle>
{%- endfor %}
</g>""",
    autoescape=True,
)
RC: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "figure.labelsize": "medium",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "hatch.linewidth": 0.5,
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "text.parse_math": False,  # names may have $ and backslashes
}
FIGURE_NAME = 36  # characters of a name in a figure


class ReportFigure(Figure):
    """A figure whose points have tooltips: per axes, a frame of x, y (in data units) and text."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.tooltips: list[tuple[Axes, pd.DataFrame]] = []

    def points(self) -> pd.DataFrame:
        """Return the visible points: x, y, text, and their SVG coordinates; the figure must have its final layout."""
        frames = []
        for axes, points in self.tooltips:
            pixels = axes.transData.transform(points[["x", "y"]].to_numpy())
            visible = np.array([axes.bbox.padded(1).contains(*pixel) for pixel in pixels], bool)
            svg_x, height = (pixels / self.dpi * POINTS_PER_INCH).T
            svg_y = self.get_figheight() * POINTS_PER_INCH - height
            frames.append(points.assign(svg_x=svg_x, svg_y=svg_y).loc[visible].sort_values("x", kind="stable"))
        return pd.concat(frames, ignore_index=True)

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
    # Ids are hashes of the salt, so those of different plots differ on one page.
    with disk_errors(folder), mpl.rc_context(RC | {"svg.hashsalt": plot.name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a PNG then has boxes; SVGs contain the text
        folder.mkdir(parents=True, exist_ok=True)
        figure = plot.draw()
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # one layout for all formats
        figure.savefig(folder / f"{plot.name}.png", dpi=130, facecolor="white")
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
        points = figure.points()
        svg, end, _ = file.getvalue().rpartition("</svg>")
        write_atomically(folder / f"{plot.name}.svg", svg + TOOLTIPS.render(points=points.itertuples()) + end + "\n")
        record = {"title": plot.title, "caption": plot.caption, "points": points[["x", "y", "text"]].to_dict("list")}
        write_json_atomically(folder / f"{plot.name}.json", record)


def add_tooltips(axes: Axes, x: Any, y: Any, texts: Sequence[str]) -> None:
    """Give points of an axes, which panels() made, a tooltip each."""
    figure: Any = axes.get_figure(root=True)
    points = {"x": np.asarray(x, float), "y": np.asarray(y, float), "text": texts}
    figure.tooltips.append((axes, pd.DataFrame(points)))


def figure_name(name: str) -> str:
    """Return a name as figures show it: a long one is shortened in the middle, where a digest keeps it distinct."""
    if len(name) <= FIGURE_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:4]
    return f"{name[: FIGURE_NAME - 12]}…{digest}…{name[-6:]}"


def style(method: str, methods: Sequence[str]) -> tuple[str, str]:
    """Return colour and marker of a method, in the registry's order; other methods follow in the order of `methods`."""
    index = [*METHODS, *(name for name in methods if name not in METHODS)].index(method)
    return METHOD_COLOURS[index % len(METHOD_COLOURS)], METHOD_MARKERS[index % len(METHOD_MARKERS)]


def panels(
    count: int, columns: int | None = None, width: float = 3.3, height: float = 2.9, share_y: bool = False
) -> tuple[ReportFigure, list[Axes]]:
    """Return a figure with `count` axes in rows of at most `columns` (None: one row), and the axes in order."""
    across = min(columns or count, count)
    rows = -(-count // across)
    figure = ReportFigure(figsize=(width * across + 1.2, height * rows + 0.3), layout="constrained")
    grid = figure.subplots(rows, across, squeeze=False, sharey="row" if share_y else False)
    for axes in grid.flat[count:]:
        axes.set_axis_off()
    return figure, list(grid.flat[:count])


def log_x(axes: Axes, values: Any, label: str) -> None:
    """Set a log x axis with counts as labels; few values are the ticks themselves."""
    axes.set_xscale("log")
    axes.set_xlabel(label)
    label_counts(axes.xaxis)
    distinct = np.unique(np.asarray(values, dtype=float))
    ratio, gaps = distinct[-1] / distinct[0], np.diff(np.log(distinct))
    if len(distinct) == 1 or (len(distinct) <= 5 and gaps.min() > 0.14 * gaps.sum()):  # labels do not overlap
        axes.xaxis.set_major_locator(ticker.FixedLocator(list(distinct)))
        axes.xaxis.set_minor_locator(ticker.NullLocator())
    else:
        multiples = (1.0,) if ratio > 150 else (1.0, 3.0) if ratio > 10 else (1.0, 2.0, 5.0)
        axes.xaxis.set_major_locator(ticker.LogLocator(subs=multiples))


def label_counts(axis: Axis) -> None:
    """Label the major ticks of a log axis with counts."""
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: format_count(value)))
    axis.set_minor_formatter(ticker.NullFormatter())


def log_y(axes: Axes, label: str) -> None:
    """Set a log y axis with plain numbers, also where it spans less than a decade."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(ticker.MaxNLocator(6))
    axes.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axes.yaxis.set_minor_locator(ticker.NullLocator())
    axes.set_ylabel(label)


def scatter(
    axes: Axes, x: Any, rows: pd.DataFrame, y: str, texts: Sequence[str], colour: Any, marker: str = "o"
) -> None:
    """Draw column y of settings with tooltips that end in `texts`; losses with one standard deviation over seeds."""
    if y == "loss" and rows["loss_sd"].notna().any():
        axes.errorbar(x, rows[y], rows["loss_sd"].fillna(0), fmt="none", ecolor=colour, elinewidth=0.8, alpha=0.6)
    draw_points(axes, x, rows[y], rows["held_out"], colour, marker)
    add_tooltips(axes, x, rows[y], [f"{s}: {t}" for s, t in zip(setting_texts(rows), texts, strict=True)])


def draw_curve(axes: Axes, x: np.ndarray, y: np.ndarray, band: Any, colour: Any, dashes: str = "-") -> None:
    """Draw a curve and the ends [2, P] of its 90 % intervals (None without them)."""
    axes.plot(x, y, color=colour, lw=1.2, ls=dashes)
    if band is not None:
        axes.fill_between(x, *band, color=colour, alpha=0.15, lw=0)


def draw_points(axes: Axes, x: Any, y: Any, held_out: Any, colour: Any, marker: str = "o") -> None:
    """Draw points: filled if fitted, hollow if held out."""
    x, y, held_out = np.asarray(x, float), np.asarray(y, float), np.asarray(held_out, bool)
    axes.plot(x[~held_out], y[~held_out], marker, ms=4.5, color=colour, ls="none")
    axes.plot(x[held_out], y[held_out], marker, mfc="white", mew=1.2, ms=5, color=colour, ls="none")


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


def log_span(values: Any) -> np.ndarray:
    """Return a fine log grid over the values and a little beyond."""
    values = np.asarray(values, dtype=float)
    return np.geomspace(values.min() / CURVE_MARGIN, values.max() * CURVE_MARGIN, CURVE_POINTS)


def add_legend(figure: Figure, methods: Sequence[str] = (), held_out: bool = True) -> None:
    """Add a legend of methods, and of fitted and held-out points, below the axes."""
    handles = [
        Line2D([], [], color=style(m, methods)[0], marker=style(m, methods)[1], ms=5, label=figure_name(method_name(m)))
        for m in methods
    ]
    if held_out:
        handles += [
            Line2D([], [], color=GREY, marker="o", ls="none", ms=4.5, label="fitted"),
            Line2D([], [], color=GREY, marker="o", mfc="white", ls="none", ms=5, label="held out"),
        ]
    figure.legend(handles=handles, loc="outside lower center", ncols=5)


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
