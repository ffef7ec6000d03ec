"""One law of the library fitted to a CSV whose columns are the law's factors and loss."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from finetune_scaling.errors import DataError
from finetune_scaling.files import finite, write_atomically, write_json_atomically
from finetune_scaling.scaling.fitting.program import FitPoints, FitSettings, fit, refit
from finetune_scaling.scaling.fitting.stages import is_pinned
from finetune_scaling.scaling.laws.declared import Law, Layout, predict
from finetune_scaling.scaling.points.checks import to_flags, to_numbers
from finetune_scaling.scaling.points.text import read_text
from finetune_scaling.scaling.uncertainty import jackknife

# Blocks that the jackknife leaves out in turn; their members are drawn by a fixed seed.
BLOCKS = 20


def fit_one_law(
    law: Law, path: Path, out: Path, settings: FitSettings, progress: Callable[[str], None] = print
) -> dict[str, Any]:
    """Fits `law` to the CSV at `path`, writes out/fit.json and out/predictions.csv, returns the record of the fit.

    A column held_out (0/1) keeps its rows out of the fit. Raises DataError that names file, line, column and mend.
    """
    started = time.perf_counter()
    table = read_factors(path, law)
    layout, fitted = Layout(law), table[~table["held_out"]]
    if len(fitted) < len(layout.names):
        raise DataError(
            f"{path}: {len(fitted)} rows to fit, the {law.name} law has {len(layout.names)} parameters; add rows"
        )
    points = FitPoints(
        {name: np.log(fitted[name].to_numpy(float)) for name in law.factors},
        fitted["loss"].to_numpy(float),
        np.zeros(len(fitted), int),
    )
    starts, free = layout.starts(), np.ones(len(layout.names), bool)
    vectors, objectives = fit(layout, points, np.ones((1, len(fitted))), starts, free, settings)
    weights, families = jackknife.leave_out_weights([_blocks(len(fitted))])
    refits, _ = refit(layout, points, weights, np.tile(vectors[0], (len(weights), 1)), free, settings)
    parameters = layout.to_natural(vectors[0])
    table["predicted"] = predict(law, parameters, {name: table[name].to_numpy(float) for name in law.factors})
    record = {
        "task": None,
        "method": None,
        "law": law.name,
        "formula": law.formula,
        "parameters": _parameters(layout, vectors[0], refits, families),
        "objective": float(objectives[0]),
        "points": len(fitted),
        "starts": len(starts),
        "residual": settings.residual_of(law),
        "huber_delta": settings.huber_delta,
        "errors": {kind: {"all": error} for kind, error in _errors(table).items()},
    }
    write_json_atomically(out / "fit.json", {"fits": [record], "critical_sizes": [], "claims": []})
    write_atomically(out / "predictions.csv", table.to_csv(index=False))
    for line in _lines(record, time.perf_counter() - started):
        progress(line)
    return record


def read_factors(path: Path, law: Law) -> pd.DataFrame:
    """The law's factors and the loss as positive floats, held_out as bool (False where the column is absent)."""
    text = read_text(path, (*law.factors, "loss"))
    table = pd.DataFrame({name: to_numbers(text, name, positive=True) for name in (*law.factors, "loss")})
    return table.assign(held_out=to_flags(text, "held_out") if "held_out" in text.cells else False)


def _blocks(count: int) -> np.ndarray:
    """A label for each point, in as equal random blocks as can be."""
    return np.random.default_rng(0).permutation(count) % min(BLOCKS, count)


def _parameters(layout: Layout, vector: np.ndarray, refits: np.ndarray, families: list[slice]) -> dict[str, Any]:
    natural = layout.to_natural(vector)
    records = {}
    for column, (name, (parameter, _)) in enumerate(zip(layout.names, layout.slots, strict=True)):
        spread = jackknife.spread(refits[:, column], families)
        records[name] = {
            "value": finite(natural[name]),
            "low": None,
            "high": None,
            "identified": is_pinned(parameter, vector[column], spread),
            "standard_error": finite(spread.standard_error),
            "of_logarithm": parameter.is_log,
        }
    return records


def _errors(table: pd.DataFrame) -> dict[str, float]:
    deviation = (table["predicted"] - table["loss"]).abs()
    kinds = {"fitted": deviation[~table["held_out"]], "held_out": deviation[table["held_out"]]}
    return {kind: float(values.mean()) for kind, values in kinds.items() if len(values)}


def _lines(record: dict[str, Any], seconds: float) -> list[str]:
    lines = [f"{record['law']}: {record['formula']}, residual {record['residual']}, {record['points']} points"]
    for name, entry in record["parameters"].items():
        kind = "standard error of log" if entry["of_logarithm"] else "standard error"
        lines.append(f"  {name:6} {entry['value']:.6g}  ({kind} {entry['standard_error']:.2g})")
    return [*lines, f"  objective {record['objective']:.6e} from {record['starts']} starts in {seconds:.1f} s"]
