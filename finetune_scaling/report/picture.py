"""A figure that knows what it shows: which drawing belongs to which series, and what each of its points says.

The SVG carries the series as ids of its groups (series-NUMBER-COUNT); the record has every point with its values, its
place in the SVG and a line of text. The page's script reads the record to answer a pointer or a keyboard.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from finetune_scaling.files import finite_or_none

POINTS_PER_INCH = 72  # the SVG's unit is a point
SCREEN_DPI = 100


@dataclass(frozen=True)
class Series:
    """What can be shown and hidden together: group ("method"), name in it ("LoRA"), colour as #rrggbb."""

    group: str
    name: str
    colour: str


@dataclass(frozen=True)
class _Readings:
    """Points of one series in one axes: x, y [P] in data units, and what each says [P]."""

    axes: Axes
    series: int
    x: np.ndarray
    y: np.ndarray
    texts: Sequence[str]


class Picture(Figure):
    """A figure with series and readings; draw into it, then take its record once it is laid out."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._series: list[Series] = []
        self._artists = 0
        self._readings: list[_Readings] = []

    def tag(self, series: Series, *artists: Artist) -> None:
        """Says that artists belong to a series."""
        for artist in artists:
            artist.set_gid(f"series-{self._number(series)}-{self._artists}")
            self._artists += 1

    def read(self, axes: Axes, series: Series, x: Any, y: Any, texts: Sequence[str]) -> None:
        """Gives points of a series what they say."""
        x, y = (np.asarray(values, float) for values in (x, y))
        order = np.argsort(x, kind="stable")
        self._readings.append(_Readings(axes, self._number(series), x[order], y[order], [texts[int(i)] for i in order]))

    def record(self) -> dict[str, Any]:
        """Series and points as JSON values, one list a field; svg_x and svg_y: places in the SVG, in its own unit.

        Points that lie outside their axes, where nothing of them is seen, have none and are left out.
        """
        fields: dict[str, list[Any]] = {name: [] for name in ("series", "x", "y", "svg_x", "svg_y", "text")}
        for own in self._readings:
            places = own.axes.transData.transform(np.column_stack([own.x, own.y]))
            inside = np.isfinite(places).all(axis=1)
            inside[inside] = [own.axes.bbox.padded(1).contains(*place) for place in places[inside]]
            for i in np.flatnonzero(inside).tolist():
                svg = places[i] / self.dpi * POINTS_PER_INCH
                height = self.get_figheight() * POINTS_PER_INCH
                values = (
                    own.series,
                    finite_or_none(own.x[i]),
                    finite_or_none(own.y[i]),
                    svg[0],
                    height - svg[1],
                    own.texts[i],
                )
                for name, value in zip(fields, values, strict=True):
                    fields[name].append(round(float(value), 1) if name.startswith("svg") else value)
        series = [{"group": s.group, "name": s.name, "colour": s.colour} for s in self._series]
        return {"series": series, "points": fields}

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=SCREEN_DPI, facecolor="white")
        return file.getvalue()

    def _number(self, series: Series) -> int:
        if series not in self._series:
            self._series.append(series)
        return self._series.index(series)


def picture_of(axes: Axes) -> Picture:
    """The picture that axes lie in; TypeError where it is a plain figure."""
    figure = axes.get_figure(root=True)
    if not isinstance(figure, Picture):
        raise TypeError(f"axes of a {type(figure).__name__}, not of a Picture; make them with panels()")
    return figure


def series_of(group: str, name: str, colour: Any) -> Series:
    """A series; colour: anything that matplotlib takes."""
    return Series(group, name, to_hex(colour))
