"""The report's section on one law over all factors at once: its parameters, and its picture of what it predicts."""

import functools
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pandas as pd

from finetune_scaling.analysis.all_factors import conditions, factors_of
from finetune_scaling.analysis.analysis import Analysis
from finetune_scaling.files import finite_or_none
from finetune_scaling.laws.fitting.one_stage import LawFit
from finetune_scaling.laws.forms.all_factors import ALL_FACTORS
from finetune_scaling.report import page
from finetune_scaling.report.law_figure import LOSS, Prediction, band_of, prediction_texts
from finetune_scaling.report.names import method_name
from finetune_scaling.report.phrases import interval_text
from finetune_scaling.report.picture import Picture
from finetune_scaling.report.plots import (
    Plot,
    held_out_handles,
    loss_texts,
    method_series,
    panels,
    scatter,
    style,
)


def all_factors_section(analysis: Analysis) -> str:
    """The parameters by task and method; nothing where the points do not carry the whole condition of their runs."""
    fits = analysis.all_factors
    if not fits:
        return ""
    names = list(dict.fromkeys(name for fit in fits.values() for name in fit.layout.names if name not in fit.fixed))
    rows = [
        (task, method_name(method), *(_value(fit, name) for name in names), fit.count)
        for (task, method), fit in fits.items()
    ]
    return page.table(f"{ALL_FACTORS.name}: {ALL_FACTORS.formula}", ("task", "method", *names, "points"), rows)


def all_factors_plots(analysis: Analysis, task: str, tag: str) -> Iterator[Plot]:
    """The task's picture, of the methods that the law describes."""
    fits = {method: fit for (name, method), fit in analysis.all_factors.items() if name == task and fit.describes}
    if fits:
        yield Plot(
            f"{tag}-all-factors",
            f"{task}: one law over all factors at once",
            "Predicted against measured loss of every setting. On the line they are equal; filled: fitted; hollow: "
            "held out. Bars: 90 % intervals of the prediction over the bootstrap.",
            functools.partial(_draw, analysis, task, fits),
        )


def all_factors_records(analysis: Analysis) -> list[dict[str, Any]]:
    """The same for fit.json."""
    return [_record(*key, fit) for key, fit in analysis.all_factors.items()]


def all_factors_table(analysis: Analysis) -> pd.DataFrame:
    """The same as a table: one row a parameter."""
    rows = []
    for record in all_factors_records(analysis):
        shared = {name: value for name, value in record.items() if name != "parameters"}
        rows += [{**shared, "parameter": name, **entry} for name, entry in record["parameters"].items()]
    return pd.DataFrame(rows)


def _draw(analysis: Analysis, task: str, fits: dict[str, LawFit]) -> Picture:
    picture, grid = panels(1, len(fits), share_y=False)
    for axes, (method, fit) in zip(grid.flat, fits.items(), strict=True):
        rows = conditions(analysis.rows(task, method))
        factors = factors_of(rows)
        loss, band = fit.predict(factors), band_of(fit.predict_replicates(factors))
        series, marker = method_series(method, analysis.methods), style(method, analysis.methods)[1]
        ends = (rows["loss"].min(), rows["loss"].max())
        axes.plot(ends, ends, color="#555555", lw=0.8)
        picture.tag(series, axes.vlines(rows["loss"], band[0], band[1], color=series.colour, lw=0.8, alpha=0.6))
        said = [
            a + b for a, b in zip(loss_texts(rows), prediction_texts(Prediction(loss, band), len(rows)), strict=True)
        ]
        scatter(axes, rows["loss"], rows.assign(predicted=loss), "predicted", series, marker, said)
        axes.set_title(method_name(method))
        axes.set_xlabel(f"measured {LOSS}")
    grid[0, 0].set_ylabel("predicted")
    picture.legend(handles=held_out_handles(), loc="outside lower center", ncols=2)
    return picture


def _value(fit: LawFit, name: str) -> str:
    if name not in fit.parameters or name in fit.fixed:
        return "–"
    if not fit.describes:
        return "unidentified, the law does not describe these points"
    text = f"{fit.parameters[name]:.3g} ({interval_text(fit.interval(name))})"
    return f"unidentified, {text}" if fit.why_poorly_determined(name) else text


def _record(task: str, method: str, fit: LawFit) -> dict[str, Any]:
    parameters = {}
    for name in fit.layout.names:
        why = fit.why_poorly_determined(name)
        told = fit.describes and name not in fit.fixed
        ends = asdict(fit.interval(name)) if told else {"low": None, "high": None}
        value = finite_or_none(fit.parameters[name]) if told else None
        parameters[name] = {"value": value, **ends, "identified": not why, "why": why}
    return {
        "task": task,
        "method": method,
        "law": fit.law.name,
        "formula": fit.law.formula,
        "points": fit.count,
        "objective": fit.objective,
        "misfit": finite_or_none(fit.misfit),
        "parameters": parameters,
    }
