"""The machine-readable twins of the report: fit.json, and each table as CSV and as LaTeX."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from finetune_scaling.analysis.analysis import Analysis, best_runs, measured_best
from finetune_scaling.analysis.best_method_map import BestMethodMap
from finetune_scaling.analysis.claims import Claim, Comparison
from finetune_scaling.analysis.correlation import Correlation, bootstrap_record
from finetune_scaling.analysis.curve_fits import CurveFit
from finetune_scaling.analysis.joint_fits import JointFits
from finetune_scaling.analysis.model_selection import Selection
from finetune_scaling.files import finite_or_none, write_atomically, write_json_atomically
from finetune_scaling.laws.fitting.joint_fit import JointFit
from finetune_scaling.laws.points.columns import FACTORS
from finetune_scaling.laws.uncertainty.intervals import LEVEL, Interval, percentile_interval
from finetune_scaling.report.all_factors_section import all_factors_records, all_factors_table
from finetune_scaling.report.critical_section import critical_record, critical_table
from finetune_scaling.report.latex import latex_table
from finetune_scaling.report.metric_section import metric_records, metric_table
from finetune_scaling.report.pretraining_section import pretraining_records, pretraining_table
from finetune_scaling.report.reservations import reservations, unidentified

_SINGLE_FIELDS = ("task", "method", "factor", "x", "objective", "fitted_error", "held_out_error", "points")
PREDICTED = ("", "_low", "_high")


def fit_record(analysis: Analysis) -> dict[str, Any]:
    """Everything as one JSON value; an end of an interval that does not close is null."""
    table, settings = analysis.table, analysis.settings
    return {
        "fits": [_joint_record(analysis, fit) for fit in analysis.fits.values()],
        "single_fits": [_single_record(single) for single in analysis.singles],
        "selections": [_selection_record(*key, found) for key, found in analysis.selections.items()],
        "all_factors": all_factors_records(analysis),
        "skipped": [asdict(remark) for remark in analysis.skipped],
        "critical_sizes": [critical_record(size) for size in analysis.critical],
        "regions": [_region_record(found) for found in analysis.regions],
        "claims": [_claim_record(claim) for claim in analysis.claims],
        "correlations": [correlation_record(c) for c in analysis.correlations],
        "forgetting": [asdict(change) for change in analysis.forgetting],
        "metric_laws": metric_records(analysis),
        "pretraining": pretraining_records(analysis),
        "reservations": reservations(analysis) + unidentified(analysis),
        "data": {
            "points": table.source,
            "runs": len(table.runs),
            "settings": len(table.settings),
            "fitted_settings": int((~table.settings["held_out"]).sum()),
            "held_out_settings": int(table.settings["held_out"].sum()),
            "stopped_by_budget": table.stopped_by_budget,
            "repeated": table.repeated,
            "ended_at_best": table.ended_at_best,
            "ignored_columns": list(table.ignored),
        },
        "settings": {
            "objective": "sum of Huber losses",
            "huber_delta": settings.huber_delta,
            "residual": settings.residual or "the law's own",
            "size": analysis.size,
            "correlation_intervals": bootstrap_record(),
        },
    }


def parameter_record(fit: JointFit, name: str) -> dict[str, Any]:
    """One parameter: value, 90 % bootstrap interval, whether identified and if not why, leave-out standard error.

    in_one_stage: value and interval of the fit of all parameters at once.
    """
    spread, interval, together = fit.jackknife(name), fit.interval(name), fit.one_stage_interval(name)
    return {
        "value": finite_or_none(fit.parameters[name]) if fit.describes else None,
        "low": interval.low if fit.describes else None,
        "high": interval.high if fit.describes else None,
        "identified": fit.is_well_determined(name),
        "why": fit.why_poorly_determined(name),
        "leave_out_standard_error": finite_or_none(spread.standard_error),
        "of_logarithm": fit.parameter(name).is_log,
        "profile": asdict(fit.profiles[name].interval) if name in fit.profiles and fit.describes else None,
        "in_one_stage": {
            "value": finite_or_none(fit.one_stage_parameters[name]) if fit.describes else None,
            "low": together.low if fit.describes else None,
            "high": together.high if fit.describes else None,
        },
    }


def tables(analysis: Analysis) -> dict[str, pd.DataFrame]:
    """Name -> table, as they are written and shown."""
    found = {
        "laws": laws_table(analysis),
        "single_laws": pd.DataFrame([_flat_single(s) for s in analysis.singles]),
        "errors": errors_table(analysis),
        "selection": selection_table(analysis),
        "all_factors": all_factors_table(analysis),
        "critical_sizes": critical_table(analysis),
        "regions": pd.concat([r.table() for r in analysis.regions]) if analysis.regions else pd.DataFrame(),
        "claims": claims_table(analysis),
        "best_measured": pd.concat([measured_best(analysis, t).assign(task=t) for t in analysis.table.tasks]),
        "best_runs": pd.concat([best_runs(analysis, task) for task in analysis.table.tasks]),
        "correlation": pd.DataFrame([_flat_correlation(c) for c in analysis.correlations]),
        "forgetting": pd.DataFrame([asdict(change) for change in analysis.forgetting]),
        "metric_laws": metric_table(analysis),
        "pretraining": pretraining_table(analysis),
        "points": predictions_table(analysis),
    }
    return {name: table for name, table in found.items() if len(table)}


def write_tables(analysis: Analysis, out: Path) -> None:
    """Writes fit.json, tables/*.csv and tables/*.tex below `out`."""
    write_json_atomically(out / "fit.json", fit_record(analysis))
    for name, table in tables(analysis).items():
        write_atomically(out / "tables" / f"{name}.csv", table.to_csv(index=False))
        write_atomically(out / "tables" / f"{name}.tex", latex_table(table, name.replace("_", " ")))


def laws_table(analysis: JointFits) -> pd.DataFrame:
    """One row a parameter: task, method, law, parameter, value, standard error, whether identified."""
    rows = []
    for fit in analysis.fits.values():
        key = {"task": fit.task, "method": fit.method, "law": fit.law.name}
        rows += [{**key, "parameter": name, **_flat_parameter(fit, name)} for name in fit.parameters]
    return pd.DataFrame(rows)


def errors_table(analysis: JointFits) -> pd.DataFrame:
    """Mean absolute deviation per task, method, factor and law, on fitted and on held-out points, in nats per token."""
    rows = []
    for fit in analysis.fits.values():
        for factor in fit.factors:
            errors = {f"{kind}_error": fit.errors[kind].get(factor) for kind in ("fitted", "held_out")}
            interval = fit.held_out_interval(factor) or Interval(None, None)
            errors |= {"held_out_low": interval.low, "held_out_high": interval.high}
            rows.append({"task": fit.task, "method": fit.method, "factor": factor, "law": fit.law.name, **errors})
    return pd.DataFrame(rows)


def selection_table(analysis: Analysis) -> pd.DataFrame:
    """One row a task, method and law: what laws are compared by, best first, and whether it is preferred."""
    rows = []
    for (task, method), found in analysis.selections.items():
        for candidate in _selection_record(task, method, found)["candidates"]:
            preferred = candidate["law"] == found.preferred
            rows.append({"task": task, "method": method, **candidate, "preferred": preferred})
    return pd.DataFrame(rows)


def claims_table(analysis: Analysis) -> pd.DataFrame:
    """One row a cell of a claim."""
    return pd.DataFrame(
        [
            {"claim": c.name, "claim_verdict": c.verdict, "claim_probability": c.probability, **_cell_record(cell)}
            for c in analysis.claims
            for cell in c.comparisons
        ]
    )


def predictions_table(analysis: Analysis) -> pd.DataFrame:
    """The settings with every joint law's prediction and its 90 % interval, predicted_LAW, ..._low and ..._high.

    No interval where the law does not describe its points: the draws know nothing of what it misses.
    """
    table = analysis.table.settings.copy()
    for law in dict.fromkeys(law for _, _, law in analysis.fits):
        table[[f"predicted_{law}{end}" for end in PREDICTED]] = np.nan
    for (task, method, law), fit in analysis.fits.items():
        for factor in fit.factors:
            rows = (table["task"] == task) & (table["method"] == method) & (table["factor"] == factor)
            x, examples = (table.loc[rows, c].to_numpy(float) for c in ("x", "finetune_examples"))
            table.loc[rows, f"predicted_{law}"] = fit.predict(factor, x, examples)
            if fit.describes and rows.any():
                ends = np.quantile(
                    fit.predict_replicates(factor, x, examples), [0.5 - LEVEL / 2, 0.5 + LEVEL / 2], axis=0
                )
                table.loc[rows, [f"predicted_{law}{end}" for end in PREDICTED[1:]]] = ends.T
    return table


def entropy_rows(analysis: Analysis) -> list[dict[str, Any]]:
    """Fitted E beside the true entropy per target token, where the points carry it."""
    settings = analysis.table.settings
    if "entropy" not in settings or settings["entropy"].isna().all():
        return []
    floors = settings.groupby("task")["entropy"].mean()
    return [
        {
            "task": f.task,
            "method": f.method,
            "law": f.law.name,
            "E": f.parameters["E"],
            "entropy": float(floors[f.task]),
        }
        for f in analysis.fits.values()
        if np.isfinite(floors[f.task]) and "E" in f.parameters
    ]


def _joint_record(analysis: Analysis, fit: JointFit) -> dict[str, Any]:
    return {
        "task": fit.task,
        "method": fit.method,
        "law": fit.law.name,
        "formula": fit.law.formula,
        "parameters": {name: parameter_record(fit, name) for name in fit.parameters},
        "objective": fit.objective["stage_2"],
        "objective_stage_1": fit.objective["stage_1"],
        "objective_one_stage": fit.one_stage.objective,
        "describes": fit.describes,
        "misfit": finite_or_none(fit.misfit),
        "scatter": asdict(fit.components),
        "bootstrap": asdict(fit.resampling),
        "stage_1_factors": list(fit.stage_1),
        "points": fit.points,
        "residual": analysis.settings.residual_of(fit.law),
        "errors": fit.errors,
        "error_intervals": {
            "held_out": {
                factor: asdict(percentile_interval(draws)) for factor, draws in fit.held_out_replicates.items()
            }
        },
    }


def _selection_record(task: str, method: str, found: Selection) -> dict[str, Any]:
    """Candidates best first, with what they are compared by, and the verdict."""
    candidates = [
        {
            "law": c.law,
            "parameters": c.parameters,
            "left_out_error": c.left_out_error,
            "held_out_error": c.held_out,
            "aicc": finite_or_none(c.criterion),
            "describes": c.describes,
        }
        for c in found.candidates
    ]
    comparisons = [
        {**asdict(c), "margin": finite_or_none(c.margin), "criterion": finite_or_none(c.criterion)}
        for c in found.comparisons
    ]
    return {
        "task": task,
        "method": method,
        "preferred": found.preferred,
        "runner_up": found.runner_up,
        "verdict": found.verdict,
        "candidates": candidates,
        "comparisons": comparisons,
    }


def _region_record(found: BestMethodMap) -> dict[str, Any]:
    """A map in short; tables/regions.csv has its places."""
    return {
        "task": found.task,
        "law": found.law,
        "factor": found.factor,
        "methods": list(found.methods),
        "sure_share_of_measured": found.confident_share(),
    }


def _claim_record(claim: Claim) -> dict[str, Any]:
    return {
        "name": claim.name,
        "sentence": claim.sentence,
        "verdict": claim.verdict,
        "tally": claim.tally,
        "probability": claim.probability,
        "compared_cells": len(claim.replicates),
        "cells": [_cell_record(cell) for cell in claim.comparisons],
    }


def _cell_record(cell: Comparison) -> dict[str, Any]:
    """A cell without its draws."""
    names = ("where", "difference", "low", "high", "probability", "margin", "verdict", "why")
    return {name: getattr(cell, name) for name in names}


def correlation_record(found: Correlation) -> dict[str, Any]:
    """One cell: coefficients with their intervals (null where it cannot be told), verdict and sentence."""
    return {**asdict(found), "verdict": found.verdict, "sentence": found.sentence}


def _flat_correlation(found: Correlation) -> dict[str, Any]:
    record = correlation_record(found)
    flat = {name: record[name] for name in ("task", "method", "factor", "metric", "settings")}
    for name, coefficient in (("pearson", found.pearson), ("spearman", found.spearman)):
        values = asdict(coefficient) if coefficient else dict.fromkeys(("value", "low", "high", "p"))
        flat |= {f"{name}_{key}".removesuffix("_value"): value for key, value in values.items()}
    return flat | {name: record[name] for name in ("verdict", "why")}


def _flat_parameter(fit: JointFit, name: str) -> dict[str, Any]:
    record = parameter_record(fit, name)
    together = {f"one_stage_{key}": value for key, value in record.pop("in_one_stage").items()}
    profile = record.pop("profile") or {"low": None, "high": None}
    return record | together | {f"profile_{key}": value for key, value in profile.items()}


def _single_record(single: CurveFit) -> dict[str, Any]:
    record = {field: getattr(single, field) for field in _SINGLE_FIELDS}
    intervals = {name: asdict(single.interval(name)) for name in single.parameters}
    return record | {"parameters": single.parameters, "intervals": intervals}


def _flat_single(single: CurveFit) -> dict[str, Any]:
    flat = {field: getattr(single, field) for field in _SINGLE_FIELDS}
    for name, value in single.parameters.items():
        interval = single.interval(name)
        flat |= {name: value, f"{name}_low": interval.low, f"{name}_high": interval.high}
    return flat


def present_factors(analysis: Analysis, task: str) -> list[str]:
    """Factors of the laws for which a task has points."""
    have = set(analysis.rows(task)["factor"])
    return [factor for factor in FACTORS if factor in have]
