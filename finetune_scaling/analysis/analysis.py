"""The complete analysis of a table of points: laws, errors, critical sizes, best methods and claims."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import pandas as pd

from finetune_scaling.analysis.all_factors import fit_all_factors
from finetune_scaling.analysis.best_method_map import BestMethodMap, best_method_map
from finetune_scaling.analysis.claims import Claim, check_claims
from finetune_scaling.analysis.correlation import Correlation, correlations
from finetune_scaling.analysis.critical_sizes import CriticalSize, critical_sizes
from finetune_scaling.analysis.curve_fits import CurveFit, fit_curves
from finetune_scaling.analysis.forgetting import score_changes
from finetune_scaling.analysis.joint_fits import (
    JOINT_LAWS,
    JointFits,
    Progress,
    fit_joint_laws,
    padded_points,
    rows_by_method,
)
from finetune_scaling.analysis.metric_laws import MetricFinding, metric_findings
from finetune_scaling.analysis.model_selection import Selection, select_joint_laws
from finetune_scaling.analysis.pretraining import PretrainingFit, fit_pretraining
from finetune_scaling.laws.fitting.fitted_law import FittedLaw
from finetune_scaling.laws.fitting.huber_fit import FitSettings
from finetune_scaling.laws.fitting.requirements import SHARED_FACTORS, SkippedFit, why_no_curve
from finetune_scaling.laws.forms.declared import Law
from finetune_scaling.laws.forms.library import SINGLE
from finetune_scaling.laws.points.columns import lower_is_better
from finetune_scaling.laws.points.table import PointsTable
from finetune_scaling.laws.uncertainty.bootstrap import Resampling


@dataclass(frozen=True, kw_only=True)
class Analysis(JointFits):
    """All results of one table of points.

    size: which parameters count as model size; selections, all_factors: by (task, method); main_metrics: by task, the
    metric that the study names, or else the first, None without scores; facts: what study.json says.
    """

    size: str
    curve_fits: list[CurveFit]
    selections: dict[tuple[str, str], Selection]
    all_factors: dict[tuple[str, str], FittedLaw]
    critical_sizes: list[CriticalSize]
    best_method_maps: list[BestMethodMap]
    claims: list[Claim]
    correlations: list[Correlation]
    forgetting: pd.DataFrame
    pretraining: list[PretrainingFit]
    main_metrics: Mapping[str, str | None]
    metric_laws: list[MetricFinding]
    facts: Mapping[str, Any]


def analyse(
    table: PointsTable,
    settings: FitSettings,
    size: str = "total",
    facts: Mapping[str, Any] | None = None,
    progress: Progress = print,
    laws: Sequence[Law] = JOINT_LAWS,
    resampling: Resampling | None = None,
    profile: bool = False,
    bases: pd.DataFrame | None = None,
) -> Analysis:
    """Fit every law to every task and method and draw the conclusions.

    laws: joint laws of X and D; profile: whether to profile every parameter; bases: table of read_bases, whose
    pretraining laws are fitted too. Laws that the points do not suffice for are in `skipped`.
    """
    facts, rows = facts or {}, table.settings
    joint = fit_joint_laws(table, settings, laws=laws, resampling=resampling, profile=profile, progress=progress)
    curve_fits = [fit for _, _, own in rows_by_method(rows) for fit in fit_curves(own, settings)]
    reasons = [(task, method, why_no_curve(own)) for task, method, own in rows_by_method(rows)]
    without_curve = [SkippedFit(task, method, SINGLE.name, reason) for task, method, reason in reasons if reason]
    progress(f"single laws: {len(curve_fits)} fitted")
    all_factors = fit_all_factors(rows, settings, resampling, padded_points(rows))
    progress(f"laws of all factors: {len(all_factors)} fitted")
    critical = [size for task in table.tasks for size in _critical_sizes(joint, task)]
    progress(f"critical sizes: {sum(len(c.roots) for c in critical)} crossings")
    metrics = {task: _main_metric(table, task, facts.get("metrics", {}).get(task)) for task in table.tasks}
    return Analysis(
        **vars(joint) | {"skipped": (*joint.skipped, *without_curve)},
        size=size,
        curve_fits=curve_fits,
        selections=select_joint_laws(joint.fits.values()),
        all_factors=all_factors,
        critical_sizes=critical,
        best_method_maps=[found for task in table.tasks for found in _best_method_maps(joint, task)],
        claims=check_claims(joint.fits, rows, table.tasks, joint.methods),
        correlations=correlations(table, progress),
        forgetting=score_changes(table, facts.get("evaluator_baselines", {})),
        pretraining=[] if bases is None else fit_pretraining(bases),
        main_metrics=metrics,
        metric_laws=metric_findings(table, metrics, progress),
        facts=facts,
    )


def best_runs(analysis: Analysis, task: str) -> pd.DataFrame:
    """Return each method's setting with the best score of a task's main metric, or else with the lowest loss."""
    rows = analysis.rows(task)
    metric = analysis.main_metrics[task]
    if metric is None:
        return rows.loc[rows.groupby("method")["loss"].idxmin()]
    scores = rows[metric] * (-1 if lower_is_better(metric) else 1)
    return rows.loc[scores.dropna().groupby(rows["method"]).idxmax()]


def measured_best(analysis: Analysis, task: str) -> pd.DataFrame:
    """Return the method with the lowest loss at every model size and dataset size that several methods share.

    Columns x, finetune_examples, method, loss, runner_up, gap (the runner-up's loss minus the best, above zero).
    """
    rows = analysis.rows(task, factor="model")
    found = []
    for (x, examples), own in rows.groupby(["x", "finetune_examples"]):
        own = own.sort_values("loss")
        if len(own) > 1 and own["loss"].iloc[0] < own["loss"].iloc[1]:  # equal losses have no best
            best, second = own.iloc[0], own.iloc[1]
            found.append((x, examples, best["method"], best["loss"], second["method"], second["loss"] - best["loss"]))
    return pd.DataFrame(found, columns=["x", "finetune_examples", "method", "loss", "runner_up", "gap"])


def _main_metric(table: PointsTable, task: str, named: str | None) -> str | None:
    rows = table.settings[table.settings["task"] == task]
    present = [metric for metric in table.metrics if rows[metric].notna().any()]
    return named if named in present else next(iter(present), None)


def _critical_sizes(joint: JointFits, task: str) -> Iterator[CriticalSize]:
    """Yield the crossings of all pairs of methods over model and pretraining size."""
    for law in joint.laws:
        fits = joint.fits_by_method(task, law)
        for factor in SHARED_FACTORS:
            for pair in combinations([m for m in fits if factor in fits[m].factors], 2):
                first, second = (joint.rows(task, method, factor) for method in pair)
                shared = sorted(set(first["x"]) & set(second["x"]))
                measured = {
                    method: (float(own["finetune_examples"].min()), float(own["finetune_examples"].max()))
                    for method, own in zip(pair, (first, second), strict=True)
                }
                yield from critical_sizes(fits, pair, factor, shared, measured)


def _best_method_maps(joint: JointFits, task: str) -> Iterator[BestMethodMap]:
    """Yield the maps of the law of comparisons over model and pretraining size."""
    fits = joint.fits_by_method(task, joint.law_of_comparisons(task))
    for factor in SHARED_FACTORS:
        found = best_method_map(fits, factor, joint.rows(task, factor=factor))
        if found is not None:
            yield found
