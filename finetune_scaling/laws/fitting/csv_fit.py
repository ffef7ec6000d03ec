"""Fit of one law to a CSV whose columns are the law's factors and the loss (or metric)."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from finetune_scaling.errors import DataError
from finetune_scaling.files import Location, finite_or_none, write_atomically, write_json_atomically
from finetune_scaling.laws.fitting.fitted_law import FittedLaw, mean_errors
from finetune_scaling.laws.fitting.huber_fit import FitSettings
from finetune_scaling.laws.fitting.one_stage import fit_law
from finetune_scaling.laws.forms.declared import Law
from finetune_scaling.laws.points.cells import parse_flags, parse_groups, parse_numbers
from finetune_scaling.laws.points.text import read_text
from finetune_scaling.laws.uncertainty.bootstrap import Resampling
from finetune_scaling.laws.uncertainty.intervals import interval_ends


def fit_csv(
    law: Law,
    path: Location,
    out: Path,
    settings: FitSettings,
    progress: Callable[[str], None] = print,
    *,
    by: str | None = None,
    resampling: Resampling | None = None,
) -> list[dict[str, Any]]:
    """Fit `law` to the CSV at `path`, write out/fit.json and out/predictions.csv, and return the records of the fits.

    predictions.csv has the rows with the law's predictions and 90 % intervals, which are empty where the law does not
    fit them. by: a column whose values are fitted separately; resampling: as in fit_law. A column held_out (0/1)
    excludes its rows from the fit. Raises DataError that names file, line, column and the fix.
    """
    table = _read_factors(path, law, by).assign(predicted=np.nan, low=np.nan, high=np.nan)
    records = []
    for value, rows in table.groupby(by, sort=False) if by else [(None, table)]:
        started = time.perf_counter()
        group = {by: value} if by else {}
        label = "".join(f"{column}={value}" for column, value in group.items())
        try:
            fitted = _fit(law, rows[~rows["held_out"]], settings, resampling, pad_to=min(len(table), 256))
        except DataError as error:
            raise DataError(f"{path}{', ' if label else ''}{label}: {error}") from None
        factors = {name: rows[name].to_numpy(float) for name in law.factors}
        table.loc[rows.index, "predicted"] = fitted.predict(factors)
        if fitted.fits_well:
            table.loc[rows.index, ["low", "high"]] = interval_ends(fitted.predict_replicates(factors)).T
        records.append({**group, **_record(fitted, settings, table.loc[rows.index])})
        for line in _lines(records[-1], label, time.perf_counter() - started):
            progress(line)
    write_json_atomically(out / "fit.json", {"fits": records, "critical_sizes": [], "claims": []})
    write_atomically(out / "predictions.csv", table.to_csv(index=False))
    return records


def _read_factors(path: Location, law: Law, by: str | None = None) -> pd.DataFrame:
    """Return the law's factors and response as positive floats, and held_out as bool (False without that column)."""
    columns = (*law.factors, law.response)
    text = read_text(path, (*columns, *([by] if by else [])))
    table = pd.DataFrame({name: parse_numbers(text, name, positive=True) for name in columns})
    if by:
        table[by] = parse_groups(text, by)
    return table.assign(held_out=parse_flags(text, "held_out") if "held_out" in text.cells else False)


def _fit(
    law: Law, points: pd.DataFrame, settings: FitSettings, resampling: Resampling | None, pad_to: int
) -> FittedLaw:
    """Fit a law. Raises DataError where the points cannot determine it, since many curves pass through them."""
    needed, distinct = len(law.parameters), len(points.drop_duplicates([*law.factors]))
    if len(points) >= needed:  # otherwise fit_law raises
        for name in (*law.factors, law.response):
            if points[name].nunique() < 2:
                raise DataError(f"{name} is {points[name].iloc[0]:g} in all {len(points)} points to fit; it must vary")
        if distinct < needed:
            raise DataError(
                f"{distinct} different {' and '.join(law.factors)} to fit, the {law.name} law has {needed} parameters; "
                "add points"
            )
    factors = {name: points[name].to_numpy(float) for name in law.factors}
    return fit_law(law, factors, points[law.response].to_numpy(float), settings, resampling, pad_to=pad_to)


def _record(fitted: FittedLaw, settings: FitSettings, rows: pd.DataFrame) -> dict[str, Any]:
    law = fitted.law
    return {
        "task": None,
        "method": None,
        "law": law.name,
        "formula": law.formula,
        "source": law.source,
        "describes": fitted.fits_well,
        "misfit": finite_or_none(fitted.log_rmse),
        "parameters": {name: _parameter(fitted, name) for name in fitted.layout.names},
        "objective": fitted.objective,
        "objective_is": "sum of Huber losses",
        "points": fitted.points,
        "starts": len(fitted.layout.starts()),
        "resamples": len(fitted.replicates),
        "residual": settings.residual_of(law),
        "huber_delta": settings.huber_delta,
        "errors": {kind: {"all": error} for kind, error in mean_errors(rows["predicted"], rows, law.response).items()},
    }


def _parameter(fitted: FittedLaw, name: str) -> dict[str, Any]:
    error = finite_or_none(np.std(fitted.replicate_parameters[name], ddof=1)) if fitted.fits_well else None
    return {**fitted.record(name), "standard_error": error}


def _lines(record: dict[str, Any], label: str, seconds: float) -> Iterator[str]:
    name = f"{label}, " if label else ""
    yield f"{name}{record['law']}: {record['formula']}, residual {record['residual']}, {record['points']} points"
    if not record["describes"]:
        yield f"  the law does not fit these points (relative error {record['misfit']:.0%})"
    for parameter, entry in record["parameters"].items() if record["describes"] else ():
        ends = " to ".join("?" if end is None else f"{end:.4g}" for end in (entry["low"], entry["high"]))
        mark = f"; poorly determined, {entry['why']}" if entry["why"] else ""
        yield f"  {parameter:6} {entry['value']:.6g}  (90 % {ends}, standard error {entry['standard_error']:.2g}{mark})"
    yield (
        f"  objective {record['objective']:.6e} from {record['starts']} starts, {record['resamples']} bootstrap "
        f"replicates, in {seconds:.1f} s"
    )
