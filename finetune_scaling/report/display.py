"""Tables of formatted cells, made from columns of the CSV tables."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from finetune_scaling.formatting import (
    FACTOR_NAMES,
    format_count,
    format_estimate,
    format_interval,
    format_share,
    method_name,
    score_name,
)
from finetune_scaling.laws.points.columns import LOSS_PER_BYTE
from finetune_scaling.laws.uncertainty.intervals import Interval

NONE = "–"
HEADINGS = {
    "x": "X",
    "finetune_examples": "examples",
    "identified": "well determined",
    "why": "reason",
    "interval": "90 % interval",
    "E": "fitted E",
    "gap": "difference to runner-up",
    "leave_out_standard_error": "jackknife error",
    "margin": "jackknife margin",
    "aicc": "AICc",
    "describes": "fits well",
    "r_squared": "R²",
    "r": "Pearson r",
    "pearson_p": "p(r)",
    "rho": "Spearman rho",
    "spearman_p": "p(rho)",
    "probability": "share above zero",
    "where": "comparison",
    "column": "score",
    "baseline": "copy baseline",
    "entropy": "true entropy",
}
CELL_FORMATS: dict[str, Callable[[Any], str]] = {
    **dict.fromkeys(("method", "runner_up", "better_below", "better_above"), method_name),
    **dict.fromkeys(("x", "finetune_examples"), format_count),
    **dict.fromkeys(("probability", "share"), format_share),
    **dict.fromkeys(("loss", "loss_sd", LOSS_PER_BYTE), "{:.4g}".format),
    "at": lambda value: value if isinstance(value, str) else format_count(value),
    "factor": FACTOR_NAMES.__getitem__,
    "column": score_name,
}


@dataclass(frozen=True)
class Table:
    """A table of formatted cells.

    source: the CSV table that holds its numbers; folded: shown in a <details> element.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    source: str
    folded: bool = False


def display(frame: pd.DataFrame, source: str, caption: str, columns: Sequence[str], folded: bool = False) -> Table:
    """Return the named columns of a CSV table as formatted cells."""
    rows = frame.reindex(columns=columns).itertuples(index=False, name=None)
    cells = [[format_cell(name, value) for name, value in zip(columns, row, strict=True)] for row in rows]
    header = [HEADINGS.get(name, name.replace("_", " ")) for name in columns]
    return Table(caption, header, cells, f"{source}.csv", folded)


def format_cell(column: str, value: Any) -> str:
    """Format a value of a CSV column for reading."""
    if value is None or value == "" or (isinstance(value, float) and np.isnan(value)):
        return NONE
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if column in CELL_FORMATS:
        return CELL_FORMATS[column](value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def estimates(
    frame: pd.DataFrame, name: str = "value", prefix: str = "", show: Callable[[float], str] = "{:.3g}".format
) -> list[str]:
    """Format columns NAME, PREFIXlow and PREFIXhigh as estimates with intervals."""
    columns = zip(*(frame[column] for column in (name, f"{prefix}low", f"{prefix}high")), strict=True)
    return [
        NONE if pd.isna(value) else format_estimate(value, _interval(low, high), show) for value, low, high in columns
    ]


def intervals(frame: pd.DataFrame, prefix: str = "", show: Callable[[float], str] = "{:.3g}".format) -> list[str]:
    """Format columns PREFIXlow and PREFIXhigh as intervals."""
    return [
        NONE if pd.isna(low) and pd.isna(high) else format_interval(_interval(low, high), show)
        for low, high in zip(frame[f"{prefix}low"], frame[f"{prefix}high"], strict=True)
    ]


def _interval(*ends: float | None) -> Interval:
    """Return the interval between two ends, which may be NaN."""
    return Interval(*(None if pd.isna(end) else end for end in ends))
