"""Tables of formatted cells, made from columns of the CSV tables."""

from collections.abc import Sequence
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
from finetune_scaling.laws.uncertainty.intervals import Interval

NONE = "–"
HEADINGS = {
    "x": "X",
    "finetune_examples": "examples",
    "identified": "well determined",
    "why": "reason if not",
    "interval": "90 % interval",
    "two_stage": "two stages",
    "runner_up": "runner-up",
    "held_out_settings": "held out",
    "E_text": "fitted E",
    "gap": "difference to runner-up",
    "leave_out_standard_error": "jackknife error",
    "margin": "jackknife margin",
    "aicc": "AICc",
    "describes": "fits the points",
    "r_squared": "R²",
    "r": "Pearson r",
    "pearson_p": "p(r)",
    "rho": "Spearman rho",
    "spearman_p": "p(rho)",
    "probability": "share above zero",
    "where": "comparison",
    "column": "score",
    "baseline": "copying",
    "change": "change (range)",
    "entropy": "true entropy",
}


@dataclass(frozen=True)
class Table:
    """A table of formatted cells; source: the CSV table that holds its numbers; folded: shown on a click."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    source: str
    folded: bool = False


def display(frame: pd.DataFrame, source: str, caption: str, columns: Sequence[str], folded: bool = False) -> Table:
    """Return the named columns of a CSV table as formatted cells."""
    rows = frame.reindex(columns=columns).itertuples(index=False, name=None)
    cells = [[format_cell(name, value) for name, value in zip(columns, row, strict=True)] for row in rows]
    header = [HEADINGS.get(name, name.removesuffix("_text").replace("_", " ")) for name in columns]
    return Table(caption, header, cells, f"{source}.csv", folded)


def format_cell(column: str, value: Any) -> str:
    """Format a value of a CSV column for reading."""
    if value is None or value == "" or (isinstance(value, float) and np.isnan(value)):
        return NONE
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if column in ("method", "runner_up"):
        return method_name(value)
    if column == "factor":
        return FACTOR_NAMES[value]
    if column == "column":
        return score_name(value)
    if column in ("x", "at", "finetune_examples") and isinstance(value, int | float):
        return format_count(value)
    if column.endswith(("probability", "share")) and isinstance(value, float):
        return format_share(value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def estimates(frame: pd.DataFrame, name: str = "value", prefix: str = "") -> list[str]:
    """Format columns NAME, PREFIXlow and PREFIXhigh as estimates with intervals."""
    ends = (frame[f"{prefix}{end}"] for end in ("low", "high"))
    return [
        NONE if pd.isna(value) else format_estimate(value, interval_of(low, high))
        for value, low, high in zip(frame[name], *ends, strict=True)
    ]


def intervals(frame: pd.DataFrame, prefix: str = "") -> list[str]:
    """Format columns PREFIXlow and PREFIXhigh as intervals."""
    ends = (frame[f"{prefix}{end}"] for end in ("low", "high"))
    return [
        NONE if pd.isna(low) and pd.isna(high) else format_interval(interval_of(low, high))
        for low, high in zip(*ends, strict=True)
    ]


def interval_of(low: float | None, high: float | None) -> Interval:
    """Return the interval of two ends, which may be NaN or None."""
    return Interval(*(None if pd.isna(end) else end for end in (low, high)))
