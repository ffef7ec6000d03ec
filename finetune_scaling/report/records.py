"""The findings of an analysis as JSON values: the content of fit.json."""

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

from finetune_scaling.analysis.analysis import Analysis
from finetune_scaling.analysis.claims import Claim
from finetune_scaling.analysis.correlation import bootstrap_record
from finetune_scaling.analysis.critical_sizes import SEARCH_RANGE, CriticalSize, Root
from finetune_scaling.analysis.curve_fits import CurveFit
from finetune_scaling.analysis.metric_laws import MetricFinding
from finetune_scaling.analysis.model_selection import Selection
from finetune_scaling.analysis.pretraining import PretrainingFit
from finetune_scaling.files import finite_or_none
from finetune_scaling.laws.fitting.fitted_law import FittedLaw
from finetune_scaling.laws.fitting.joint_fit import JointFit
from finetune_scaling.laws.forms.declared import Law
from finetune_scaling.report.summary import parameter_warnings, point_warnings


def fit_record(analysis: Analysis) -> dict[str, Any]:
    """Return all findings as one JSON value; an open end of an interval is null."""
    table, settings = analysis.table, analysis.settings
    record = {
        "fits": [joint_record(fit) | {"residual": settings.residual_of(fit.law)} for fit in analysis.fits.values()],
        "single_fits": [single_record(single) for single in analysis.curve_fits],
        "selections": [
            {"task": task, "method": method, **selection_record(found)}
            for (task, method), found in analysis.selections.items()
        ],
        "all_factors": [
            {"task": task, "method": method, **all_factors_record(fit)}
            for (task, method), fit in analysis.all_factors.items()
        ],
        "skipped": analysis.skipped,
        "critical_sizes": [critical_size_record(size) for size in analysis.critical_sizes],
        "regions": [
            _fields(found, "task", "law", "factor", "methods") | {"sure_share_of_measured": found.confident_share()}
            for found in analysis.best_method_maps
        ],
        "claims": [claim_record(claim) for claim in analysis.claims],
        "correlations": [asdict(found) | _fields(found, "verdict", "sentence") for found in analysis.correlations],
        "forgetting": analysis.forgetting.to_dict("records"),
        "metric_laws": [metric_law_record(finding) for finding in analysis.metric_laws],
        "pretraining": [pretraining_record(found) for found in analysis.pretraining],
        "reservations": [*point_warnings(analysis), *parameter_warnings(analysis)],
        "data": {
            "points": table.source,
            "runs": len(table.runs),
            "settings": len(table.settings),
            "fitted_settings": int((~table.settings["held_out"]).sum()),
            "held_out_settings": int(table.settings["held_out"].sum()),
            "ignored_columns": table.ignored,
            **_fields(table, "stopped_by_budget", "repeated", "evaluated_once", "ended_at_best"),
        },
        "settings": {
            "objective": "sum of Huber losses",
            "huber_delta": settings.huber_delta,
            "residual": settings.residual or "the law's own",
            "size": analysis.size,
            "correlation_intervals": bootstrap_record(),
        },
    }
    return {name: _json(value) for name, value in record.items()}


def joint_record(fit: JointFit) -> dict[str, Any]:
    """Return one joint fit."""
    held_out = {factor: fit.held_out_interval(factor) for factor in fit.held_out_replicates}
    record = {
        **_fields(fit, "task", "method"),
        **_law(fit.law),
        "parameters": {name: parameter_record(fit, name) for name in fit.parameters},
        **_fields(fit, "objective", "objective_stage_1", "errors"),
        "describes": fit.fits_well,
        "objective_one_stage": fit.one_stage.objective,
        "misfit": fit.log_rmse,
        "scatter": fit.components,
        "bootstrap": fit.resampling,
        "stage_1_factors": fit.stage_1,
        "points": fit.points_by_factor,
        "error_intervals": {"held_out": held_out},
    }
    return _json(record)


def parameter_record(fit: JointFit, name: str) -> dict[str, Any]:
    """Return a parameter's two-stage and one-stage estimates, 90 % intervals, jackknife error, and determination."""
    one_stage = {"value": fit.one_stage.parameters[name], **vars(fit.one_stage.interval(name))}
    return {
        **fit.record(name),
        "leave_out_standard_error": fit.jackknife(name).standard_error,
        "of_logarithm": fit.parameter(name).is_log,
        "profile": asdict(fit.profiles[name].interval) if name in fit.profiles and fit.fits_well else None,
        "in_one_stage": one_stage if fit.fits_well else dict.fromkeys(one_stage),
    }


def single_record(single: CurveFit) -> dict[str, Any]:
    """Return one fit over dataset size at a fixed factor value."""
    names = ("task", "method", "factor", "x", "objective", "fitted_error", "held_out_error", "points", "parameters")
    return _fields(single, *names) | {"intervals": {name: single.interval(name) for name in single.parameters}}


def selection_record(found: Selection) -> dict[str, Any]:
    """Return the verdict, the candidate laws (best first) and their comparisons."""
    return {
        **_fields(found, "preferred", "runner_up", "verdict", "comparisons"),
        "candidates": [
            {
                **_fields(c, "law", "parameters", "left_out_error"),
                "held_out_error": c.held_out,
                "aicc": c.criterion,
                "describes": c.fits_well,
            }
            for c in found.candidates
        ],
    }


def all_factors_record(fit: FittedLaw) -> dict[str, Any]:
    """Return one fit of the law over all factors."""
    return {
        **_law(fit.law),
        "points": fit.points,
        "objective": fit.objective,
        "misfit": fit.log_rmse,
        "parameters": {name: fit.record(name) for name in fit.layout.names},
    }


def critical_size_record(size: CriticalSize) -> dict[str, Any]:
    """Return the crossings of two methods at one factor value; H, gamma: of the closed form."""
    form = size.closed_form
    return {
        **_fields(size, "task", "law", "factor", "x", "methods"),
        "crossings": len(size.roots),
        "roots": [_root_record(root) for root in size.roots],
        **_fields(size, "better_everywhere", "why"),
        "search_range": SEARCH_RANGE,
        "uncrossed_share": size.share_without_crossing,
        "closed_form": form
        and {
            "H": form.H,
            "H_low": form.H_interval.low,
            "H_high": form.H_interval.high,
            "gamma": form.gamma,
            "gamma_low": form.gamma_interval.low,
            "gamma_high": form.gamma_interval.high,
            "examples": form.at(size.x),
        },
    }


def _root_record(root: Root) -> dict[str, Any]:
    return {
        "finetune_examples": root.examples,
        **asdict(root.interval),
        "probability": root.share,
        "leave_out_low": root.jackknife.low,
        "leave_out_high": root.jackknife.high,
        "better_below": root.below,
        "better_above": root.above,
        "inside_measured_range": not root.extrapolated,
        "extrapolated_methods": " ".join(root.extrapolated),
    }


def claim_record(claim: Claim) -> dict[str, Any]:
    """Return one claim of the paper with its comparisons, without their replicates."""
    numbers = ("where", "difference", "low", "high", "probability", "margin", "verdict", "why")
    return {
        **_fields(claim, "name", "sentence", "verdict", "tally", "probability"),
        "compared_cells": len(claim.replicates),
        "cells": [_fields(comparison, *numbers) for comparison in claim.comparisons],
    }


def metric_law_record(finding: MetricFinding) -> dict[str, Any]:
    """Return the laws fitted to one metric, and the one that is used."""
    return {
        **_fields(finding, "task", "method", "metric", "settings", "verdict", "preferred"),
        "used": finding.used.law.name if finding.used else None,
        "fits": [
            {
                **_law(one.law),
                "describes": one.fits_well,
                **_fields(one, "r_squared", "error"),
                "left_out_error": float(one.left_out.mean()),
                "held_out_error": one.held_out_error,
                "parameters": _curve_parameters(one),
            }
            for one in finding.fits
        ],
    }


def pretraining_record(found: PretrainingFit) -> dict[str, Any]:
    """Return one pretraining law of a family of base models."""
    fitted = found.fitted
    fits_well = fitted is not None and fitted.fits_well
    return {
        "family": found.family,
        "over": found.factor,
        "at": found.at,
        **_law(found.law),
        "points": int((~found.rows["held_out"]).sum()),
        "parameters": _curve_parameters(fitted) if fitted else {},
        "errors": found.errors(),
        "why": found.why if fitted is None or fits_well else "the law does not fit these points",
    }


def _law(law: Law) -> dict[str, str]:
    return {"law": law.name, "formula": law.formula}


def _curve_parameters(fit: FittedLaw) -> dict[str, Any]:
    record = {}
    for name, value in (fit.parameters if fit.fits_well else {}).items():
        why = fit.why_poorly_determined(name)
        record[name] = {"value": value, **vars(fit.interval(name)), "identified": not why, "why_unidentified": why}
    return record


def _fields(found: Any, *names: str) -> dict[str, Any]:
    return {name: getattr(found, name) for name in names}


def _json(value: Any) -> Any:
    """Return a value as JSON: dataclasses as objects, and numbers that are not finite as null."""
    if is_dataclass(value) and not isinstance(value, type):
        return _json(vars(value))
    if isinstance(value, Mapping):
        return {name: _json(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_json(entry) for entry in value]
    return finite_or_none(value) if isinstance(value, float) else value
