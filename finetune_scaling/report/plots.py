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
from matplotlib.lines import Line2D

from finetune_scaling.files import disk_errors, write_json_atomically
from finetune_scaling.report.colours import LIGHTEST_ON_PAPER
from finetune_scaling.report.names import FACTOR_NAMES, X_NAMES, human, method_name
from finetune_scaling.report.picture import Picture, Series, picture_of, series_of

STYLES = {"full": ("#0072B2", "o"), "prompt": ("#D55E00", "s"), "lora": ("#009E73", "^")}
SPARE_STYLES = (("#CC79A7", "D"), ("#56B4E9", "v"), ("#E69F00", "P"), ("#000000", "X"))
LEGEND_ENTRIES = 8
CURVE_POINTS = 32
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


@dataclass(frozen=True)
class Plot:
    """A picture to be drawn: its file name, title, caption, and the function that draws it."""

    name: str
    title: str
    caption: str
    draw: Callable[[], Picture]


def save(plot: Plot, folder: Path) -> None:
    """Writes folder/NAME.png, NAME.svg and NAME.json (what the picture shows); WorkdirError where that fails."""
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
        record = {"title": plot.title, "caption": plot.caption, **figure.record()}
        write_json_atomically(folder / f"{plot.name}.json", record)


def style(method: str, methods: Sequence[str]) -> tuple[str, str]:
    """Colour and marker of a method; those outside the paper take the spare ones in order."""
    if method in STYLES:
        return STYLES[method]
    others = [m for m in methods if m not in STYLES]
    return SPARE_STYLES[others.index(method) % len(SPARE_STYLES)]


def panels(
    rows: int, columns: int, width: float = 3.3, height: float = 2.9, share_y: bool = True
) -> tuple[Picture, Any]:
    """A picture with a grid of axes [rows, columns]."""
    figure = Picture(figsize=(width * columns + 1.2, height * rows + 0.3), layout="constrained")
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


def scatter(
    axes: Axes,
    x: Any,
    rows: pd.DataFrame,
    y: str,
    series: Series,
    marker: str = "o",
    said: Sequence[str] | None = None,
) -> None:
    """Points of settings: filled where fitted, hollow where held out, bars of one standard deviation over seeds.

    said: what each point says beside its setting [P]; the value of y where not given.
    """
    held_out = rows["held_out"].to_numpy(bool)
    x, heights = np.asarray(x, float), rows[y].to_numpy(float)
    picture = picture_of(axes)
    look: dict[str, Any] = {"color": series.colour, "ls": "none"}
    if y == "loss" and rows["loss_sd"].notna().any():
        deviations = rows["loss_sd"].fillna(0)
        bars = axes.errorbar(x, heights, deviations, fmt="none", ecolor=series.colour, elinewidth=0.8, alpha=0.6)
        picture.tag(series, *bars.get_children())
    picture.tag(series, *axes.plot(x[~held_out], heights[~held_out], marker, ms=4.5, **look))
    picture.tag(series, *axes.plot(x[held_out], heights[held_out], marker, mfc="white", mew=1.2, ms=5, **look))
    values = said or [f"{y} {value:.4g}" for value in heights]
    settings = setting_texts(rows)
    picture.read(axes, series, x, heights, [f"{s}: {v}" for s, v in zip(settings, values, strict=True)])


def setting_texts(rows: pd.DataFrame) -> list[str]:
    """What each setting is, in words: method, factor value, examples, whether held out."""
    keys = zip(*(rows[c] for c in ("method", "factor", "x", "finetune_examples", "held_out")), strict=True)
    return [
        f"{method_name(method)}, {FACTOR_NAMES[factor]} {human(x)}, {human(examples)} examples"
        f"{', held out' if held_out else ''}"
        for method, factor, x, examples, held_out in keys
    ]


def loss_texts(rows: pd.DataFrame) -> list[str]:
    """The loss of each setting with its spread over seeds."""
    keys = zip(rows["loss"], rows["loss_sd"], rows["seeds"], strict=True)
    return [
        f"loss {loss:.4g}" + (f" ± {sd:.2g} over {int(seeds)} seeds" if np.isfinite(sd) else "")
        for loss, sd, seeds in keys
    ]


def method_series(method: str, methods: Sequence[str]) -> Series:
    """The series of everything that belongs to a method."""
    return series_of("method", method_name(method), style(method, methods)[0])


def amount_series(group: str, value: float, colour: Any) -> Series:
    """The series of everything at one amount: a factor's value or a number of examples."""
    return series_of(group, human(value), colour)


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
    """A colour for each amount by its logarithm, light to dark, leaving out what is too pale for paper."""
    distinct = np.unique(np.asarray(values, dtype=float))
    logs = np.log(distinct)
    places = LIGHTEST_ON_PAPER * (logs[-1] - logs) / max(logs[-1] - logs[0], 1e-9)
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
