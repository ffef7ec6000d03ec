"""The findings of an analysis as JSON values: the content of fit.json."""

from dataclasses import asdict
from typing import Any

from finetune_scaling.analysis.analysis import Analysis
from finetune_scaling.analysis.claims import Claim, Comparison
from finetune_scaling.analysis.correlation import Correlation, bootstrap_record
from finetune_scaling.analysis.critical_sizes import SEARCH_RANGE, ClosedForm, CriticalSize, Root
from finetune_scaling.analysis.curve_fits import CurveFit
from finetune_scaling.analysis.metric_laws import MetricFinding, MetricFit
from finetune_scaling.analysis.model_selection import Selection
from finetune_scaling.analysis.pretraining import PretrainingFit
from finetune_scaling.files import finite_or_none
from finetune_scaling.laws.fitting.fitted_law import FittedLaw
from finetune_scaling.laws.fitting.joint_fit import JointFit
from finetune_scaling.laws.uncertainty.intervals import percentile_interval
from finetune_scaling.report.warnings import parameter_warnings, point_warnings

SINGLE_FIELDS = ("task", "method", "factor", "x", "objective", "fitted_error", "held_out_error", "points")


def fit_record(analysis: Analysis) -> dict[str, Any]:
    """Return all findings as one JSON value; the end of an interval that does not close is null."""
    table, settings = analysis.table, analysis.settings
    return {
        "fits": [joint_record(analysis, fit) for fit in analysis.fits.values()],
        "single_fits": [single_record(single) for single in analysis.curve_fits],
        "selections": [selection_record(*key, found) for key, found in analysis.selections.items()],
        "all_factors": [all_factors_record(*key, fit) for key, fit in analysis.all_factors.items()],
        "skipped": [asdict(skipped) for skipped in analysis.skipped],
        "critical_sizes": [critical_size_record(size) for size in analysis.critical_sizes],
        "regions": [
            {
                "task": found.task,
                "law": found.law,
                "factor": found.factor,
                "methods": list(found.methods),
                "sure_share_of_measured": found.confident_share(),
            }
            for found in analysis.best_method_maps
        ],
        "claims": [claim_record(claim) for claim in analysis.claims],
        "correlations": [correlation_record(found) for found in analysis.correlations],
        "forgetting": [asdict(change) for change in analysis.forgetting],
        "metric_laws": [metric_law_record(finding) for finding in analysis.metric_laws],
        "pretraining": [pretraining_record(found) for found in analysis.pretraining],
        "reservations": [*point_warnings(analysis), *parameter_warnings(analysis)],
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
    """Return a parameter's two-stage and one-stage estimates, 90 % intervals, jackknife error, and determination."""
    one_stage = fit.one_stage.interval(name)
    return {
        **fit.record(name),
        "leave_out_standard_error": finite_or_none(fit.jackknife(name).standard_error),
        "of_logarithm": fit.parameter(name).is_log,
        "profile": asdict(fit.profiles[name].interval) if name in fit.profiles and fit.fits_well else None,
        "in_one_stage": {
            "value": finite_or_none(fit.one_stage.parameters[name]) if fit.fits_well else None,
            "low": one_stage.low if fit.fits_well else None,
            "high": one_stage.high if fit.fits_well else None,
        },
    }


def joint_record(analysis: Analysis, fit: JointFit) -> dict[str, Any]:
    """Return one joint fit."""
    return {
        "task": fit.task,
        "method": fit.method,
        "law": fit.law.name,
        "formula": fit.law.formula,
        "parameters": {name: parameter_record(fit, name) for name in fit.parameters},
        "objective": fit.objective,
        "objective_stage_1": fit.objective_stage_1,
        "objective_one_stage": fit.one_stage.objective,
        "describes": fit.fits_well,
        "misfit": finite_or_none(fit.log_rmse),
        "scatter": asdict(fit.components),
        "bootstrap": asdict(fit.resampling),
        "stage_1_factors": list(fit.stage_1),
        "points": fit.points_by_factor,
        "residual": analysis.settings.residual_of(fit.law),
        "errors": fit.errors,
        "error_intervals": {
            "held_out": {
                factor: asdict(percentile_interval(errors)) for factor, errors in fit.held_out_replicates.items()
            }
        },
    }


def single_record(single: CurveFit) -> dict[str, Any]:
    """Return one fit over dataset size at a fixed factor value."""
    record = {field: getattr(single, field) for field in SINGLE_FIELDS}
    intervals = {name: asdict(single.interval(name)) for name in single.parameters}
    return record | {"parameters": single.parameters, "intervals": intervals}


def selection_record(task: str, method: str, found: Selection) -> dict[str, Any]:
    """Return the candidate laws (best first), their comparisons and the verdict."""
    candidates = [
        {
            "law": c.law,
            "parameters": c.parameters,
            "left_out_error": c.left_out_error,
            "held_out_error": c.held_out,
            "aicc": finite_or_none(c.criterion),
            "describes": c.fits_well,
        }
        for c in found.candidates
    ]
    return {
        "task": task,
        "method": method,
        "preferred": found.preferred,
        "runner_up": found.runner_up,
        "verdict": found.verdict,
        "candidates": candidates,
        "comparisons": [
            {**asdict(c), "margin": finite_or_none(c.margin), "criterion": finite_or_none(c.criterion)}
            for c in found.comparisons
        ],
    }


def all_factors_record(task: str, method: str, fit: FittedLaw) -> dict[str, Any]:
    """Return one fit of the law over all factors."""
    return {
        "task": task,
        "method": method,
        "law": fit.law.name,
        "formula": fit.law.formula,
        "points": fit.points,
        "objective": fit.objective,
        "misfit": finite_or_none(fit.log_rmse),
        "parameters": {name: fit.record(name) for name in fit.layout.names},
    }


def critical_size_record(size: CriticalSize) -> dict[str, Any]:
    """Return the crossings of two methods at one factor value."""
    form = size.closed_form
    return {
        "task": size.task,
        "law": size.law,
        "factor": size.factor,
        "x": size.x,
        "methods": list(size.methods),
        "crossings": len(size.roots),
        "roots": [crossing_record(root) for root in size.roots],
        "better_everywhere": size.better_everywhere,
        "search_range": list(SEARCH_RANGE),
        "uncrossed_share": size.share_without_crossing,
        "why": size.why,
        "closed_form": form and {**closed_form_record(form), "examples": finite_or_none(form.at(size.x))},
    }


def closed_form_record(form: ClosedForm) -> dict[str, float | None]:
    """Return H and gamma of the closed form with their intervals."""
    return {
        "H": finite_or_none(form.H),
        "H_low": finite_or_none(form.H_interval.low),
        "H_high": finite_or_none(form.H_interval.high),
        "gamma": form.gamma,
        "gamma_low": form.gamma_interval.low,
        "gamma_high": form.gamma_interval.high,
    }


def crossing_record(root: Root) -> dict[str, Any]:
    """Return one crossing with its bootstrap interval and jackknife range."""
    return {
        "finetune_examples": root.examples,
        "low": root.low,
        "high": root.high,
        "probability": root.share,
        "leave_out_low": root.jackknife_low,
        "leave_out_high": root.jackknife_high,
        "better_below": root.below,
        "better_above": root.above,
        "inside_measured_range": not root.extrapolated,
        "extrapolated_methods": " ".join(root.extrapolated),
    }


def claim_record(claim: Claim) -> dict[str, Any]:
    """Return one claim of the paper with its comparisons."""
    return {
        "name": claim.name,
        "sentence": claim.sentence,
        "verdict": claim.verdict,
        "tally": claim.tally,
        "probability": claim.probability,
        "compared_cells": len(claim.replicates),
        "cells": [comparison_record(comparison) for comparison in claim.comparisons],
    }


def comparison_record(comparison: Comparison) -> dict[str, Any]:
    """Return one comparison without its replicates."""
    names = ("where", "difference", "low", "high", "probability", "margin", "verdict", "why")
    return {name: getattr(comparison, name) for name in names}


def correlation_record(found: Correlation) -> dict[str, Any]:
    """Return one correlation of a metric with the loss."""
    return {**asdict(found), "verdict": found.verdict, "sentence": found.sentence}


def metric_law_record(finding: MetricFinding) -> dict[str, Any]:
    """Return the laws fitted to one metric, and the one that is used."""
    names = ("task", "method", "metric", "settings", "verdict", "preferred")
    return {
        **{name: getattr(finding, name) for name in names},
        "used": finding.used.law.name if finding.used else None,
        "fits": [_metric_fit_record(one) for one in finding.fits],
    }


def _metric_fit_record(one: MetricFit) -> dict[str, Any]:
    return {
        "law": one.law.name,
        "formula": one.law.formula,
        "describes": one.fits_well,
        "r_squared": finite_or_none(one.r_squared),
        "error": finite_or_none(one.error),
        "left_out_error": finite_or_none(float(one.left_out.mean())),
        "held_out_error": finite_or_none(one.held_out_error),
        "parameters": _curve_parameters(one, one.fitted.parameters if one.fits_well else {}),
    }


def pretraining_record(found: PretrainingFit) -> dict[str, Any]:
    """Return one pretraining law of a family of base models."""
    fitted = found.fitted
    fits_well = fitted is not None and fitted.fits_well
    why = found.why if fitted is None else "" if fits_well else "the law does not fit these points"
    return {
        "family": found.family,
        "over": found.factor,
        "at": found.at,
        "law": found.law.name,
        "formula": found.law.formula,
        "points": int((~found.rows["held_out"]).sum()),
        "parameters": _curve_parameters(found, fitted.parameters if fitted is not None and fits_well else {}),
        "errors": found.errors(),
        "why": why,
    }


def _curve_parameters(fit: MetricFit | PretrainingFit, parameters: dict[str, float]) -> dict[str, Any]:
    return {
        name: {
            "value": finite_or_none(value),
            **{end: finite_or_none(found) for end, found in asdict(fit.interval(name)).items()},
            "identified": not fit.why_poorly_determined(name),
            "why_unidentified": fit.why_poorly_determined(name),
        }
        for name, value in parameters.items()
    }
