"""The report's section on pretraining: loss of the bases against their size and their tokens, with the fitted laws."""

import functools
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from finetune_scaling.analysis.analysis import Analysis
from finetune_scaling.analysis.pretraining import FEWEST, SIZE, TOKENS, PretrainingFit
from finetune_scaling.files import finite_or_none
from finetune_scaling.report import page
from finetune_scaling.report.names import human
from finetune_scaling.report.picture import Picture, picture_of, series_of
from finetune_scaling.report.plots import Plot, held_out_handles, log_x, panels, span

COLUMNS = 3  # panels side by side
COLOUR = "#0072B2"
X_LABELS = {SIZE: "parameters", TOKENS: "pretraining tokens"}


def pretraining_section(analysis: Analysis) -> str:
    """What the laws of pretraining say, with intervals; nothing where the study has no bases."""
    if not analysis.pretraining:
        return ""
    body = page.paragraph(
        "Loss of the bases on held-out text of their own pretraining (its objective's, nats per target token): over "
        "size L = A / N^alpha + E at the family's whole number of tokens, over tokens D of one size L = A / D^beta + "
        "E. Losses before the end of one run are those of its intermediate checkpoints, whose learning rate had not "
        f"decayed yet. Intervals: 90 %, by profile likelihood. With fewer than {FEWEST} points no law "
        "is told; ? is an end that does not close; * marks what these points do not hold."
    )
    header = ("family", "over", "at", "points", "A", "exponent", "E", "fitted error", "held-out error", "remark")
    rows = [_row(found) for found in analysis.pretraining]
    return body + page.table("Laws of pretraining", header, rows, wrap=("remark",))


def pretraining_plots(analysis: Analysis) -> Iterator[Plot]:
    """One picture with a panel a family and factor, where there is a family."""
    if analysis.pretraining:
        yield Plot(
            "pretraining",
            "Pretraining: loss of the bases",
            "Line and band: law with its 90 % interval, where points suffice. Filled: fitted; hollow: held out.",
            functools.partial(_draw, analysis.pretraining),
        )


def pretraining_records(analysis: Analysis) -> list[dict[str, Any]]:
    """The same for fit.json."""
    return [_record(found) for found in analysis.pretraining]


def pretraining_table(analysis: Analysis) -> pd.DataFrame:
    """The same as a table: one row a law and parameter, or one that says why there is none."""
    rows: list[dict[str, Any]] = []
    for record in pretraining_records(analysis):
        parameters = record.pop("parameters")
        record |= {f"{kind}_error": record["errors"].get(kind) for kind in ("fitted", "held_out")}
        del record["errors"]
        rows += [{**record, "parameter": name, **entry} for name, entry in parameters.items()] or [record]
    return pd.DataFrame(rows)


def _record(found: PretrainingFit) -> dict[str, Any]:
    fitted = found.fitted
    parameters: dict[str, Any] = {}
    if fitted is not None and fitted.describes:
        for name, value in fitted.parameters.items():
            why = found.why_poorly_determined(name)
            parameters[name] = {
                "value": finite_or_none(value),
                **asdict(found.interval(name)),
                "identified": not why,
                "why_unidentified": why,
            }
    return {
        "family": found.family,
        "over": found.factor,
        "at": found.at,
        "law": found.law.name,
        "formula": found.law.formula,
        "points": int((~found.rows["held_out"]).sum()),
        "parameters": parameters,
        "errors": found.errors(),
        "why": _why(found),
    }


def _why(found: PretrainingFit) -> str:
    if found.fitted is None:
        return found.why
    return "" if found.fitted.describes else "the law does not describe these points"


def _row(found: PretrainingFit) -> tuple:
    record = _record(found)
    entries = list(record["parameters"].items())
    by_place = {name if name in ("A", "E") else "exponent": (name, entry) for name, entry in entries}
    texts = [_text(*by_place[place]) if place in by_place else "–" for place in ("A", "exponent", "E")]
    at = human(found.at) if isinstance(found.at, float) else found.at
    loose = [f"{name}: {entry['why_unidentified']}" for name, entry in entries if entry["why_unidentified"]]
    errors = (record["errors"].get(kind) for kind in ("fitted", "held_out"))
    remark = record["why"] or "; ".join(loose) or "–"
    return (found.family, X_LABELS[found.factor], at, record["points"], *texts, *errors, remark)


def _text(name: str, entry: dict[str, Any]) -> str:
    low, high = ("?" if end is None else f"{end:.3g}" for end in (entry["low"], entry["high"]))
    label = "" if name in ("A", "E") else f"{name} = "
    return f"{label}{entry['value']:.3g} ({low} to {high}){' *' if entry['why_unidentified'] else ''}"


def _draw(found: list[PretrainingFit]) -> Picture:
    across = min(COLUMNS, len(found))
    figure, grid = panels(-(-len(found) // across), across, share_y=False)
    for axes in grid.flat[len(found) :]:
        axes.set_axis_off()
    for axes, one in zip(grid.flat, found, strict=False):
        _draw_one(axes, one)
    for row in grid:
        row[0].set_ylabel("loss (nats per token)")
    figure.legend(handles=held_out_handles(), loc="outside lower center", ncols=2)
    return figure


def _draw_one(axes: Axes, found: PretrainingFit) -> None:
    rows = found.rows
    x, loss, held_out = (rows[c].to_numpy() for c in ("x", "loss", "held_out"))
    if found.fitted is not None and found.fitted.describes:
        line = span(x)
        low, high = found.band(line)
        axes.fill_between(line, low, high, color=COLOUR, alpha=0.15, lw=0)
        axes.plot(line, found.predict(line), color=COLOUR, lw=1.2)
    axes.plot(x[~held_out], loss[~held_out], "o", color=COLOUR, ms=4.5)
    axes.plot(x[held_out], loss[held_out], "o", color=COLOUR, mfc="white", mew=1.2, ms=5)
    margin = 0.25 * max(float(np.ptp(loss)), 0.05)  # a band may be much wider than the points
    axes.set_ylim(loss.min() - margin, loss.max() + margin)
    log_x(axes, x, X_LABELS[found.factor])
    at = f"{human(found.at)} tokens" if isinstance(found.at, float) else found.at
    axes.set_title(f"{found.family}, {at}")
    said = [
        f"{found.family}, {human(place)} {X_LABELS[found.factor]}: loss {value:.4g}{', held out' if out else ''}"
        for place, value, out in zip(x, loss, held_out, strict=True)
    ]
    picture_of(axes).read(axes, series_of("bases", found.family, COLOUR), x, loss, said)
