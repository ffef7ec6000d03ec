"""From a table of points to everything that the report says: laws, errors, critical sizes, best methods and claims."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import pandas as pd

from finetune_scaling.analysis.all_factors import fit_all_factors
from finetune_scaling.analysis.best_method_map import BestMethodMap, best_method_map
from finetune_scaling.analysis.claims import Claim, check_claims
from finetune_scaling.analysis.correlation import Correlation, correlations
from finetune_scaling.analysis.critical_sizes import CriticalSize, critical_sizes
from finetune_scaling.analysis.curve_fits import CurveFit, fit_curves
from finetune_scaling.analysis.forgetting import ScoreChange, score_changes
from finetune_scaling.analysis.joint_fits import JointFits, main_law, ordered
from finetune_scaling.analysis.metric_laws import MetricFinding, metric_findings
from finetune_scaling.analysis.model_selection import Selection, select_joint_law
from finetune_scaling.analysis.pretraining import PretrainingFit, fit_pretraining
from finetune_scaling.errors import DataError
from finetune_scaling.laws.fitting.huber_fit import FitSettings, padded_size
from finetune_scaling.laws.fitting.joint_fit import JointFit, Skipped
from finetune_scaling.laws.fitting.one_stage import LawFit
from finetune_scaling.laws.fitting.two_stage import fit_joint
from finetune_scaling.laws.forms.declared import Law
from finetune_scaling.laws.forms.joint import ADDITIVE, MULTIPLICATIVE
from finetune_scaling.laws.points.columns import lower_is_better
from finetune_scaling.laws.points.table import PointsTable
from finetune_scaling.laws.uncertainty.bootstrap import Resampling
from finetune_scaling.tuning.registry import METHODS

JOINT_LAWS = (MULTIPLICATIVE, ADDITIVE)
SHARED_FACTORS = ("model", "pretrain")  # whose values mean the same for every method
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Analysis(JointFits):
    """All results of one points file.

    fits: (task, method, law) -> fit; selections: (task, method) -> which law the points prefer; all_factors: (task,
    method) -> one law over all factors at once, where the points carry them.
    """

    table: PointsTable
    settings: FitSettings
    size: str
    fits: dict[tuple[str, str, str], JointFit]
    singles: list[CurveFit]
    skipped: list[Skipped]
    selections: dict[tuple[str, str], Selection]
    all_factors: dict[tuple[str, str], LawFit]
    critical: list[CriticalSize]
    regions: list[BestMethodMap]
    claims: list[Claim]
    correlations: list[Correlation]
    forgetting: list[ScoreChange]
    pretraining: list[PretrainingFit] = field(default_factory=list)
    metric_laws: list[MetricFinding] = field(default_factory=list)
    facts: Mapping[str, Any] = field(default_factory=dict)


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
    """Fits every law to every task and method and draws the conclusions; DataError where nothing could be fitted.

    laws: joint laws of X and D; resampling: how the bootstrap is drawn; profile: whether to profile every parameter;
    bases: of read_bases, whose pretraining is fitted too.
    """
    rows = table.settings
    pad_to = padded_size(int(rows[~rows["held_out"]].groupby(["task", "method"]).size().max()))
    fit_one = functools.partial(fit_joint, settings=settings, pad_to=pad_to, resampling=resampling, profile=profile)
    fits, skipped = _fit_joint(table, laws, fit_one, progress)
    if not fits:
        reasons = "; ".join(f"{s.task}, {s.method}: {s.reason}" for s in skipped)
        raise DataError(f"{table.source}: too few points to fit any law ({reasons}); add settings")
    singles = [s for pair in _pairs(table) for s in fit_curves(_of_pair(table, *pair), settings)]
    progress(f"single laws: {len(singles)} fitted")
    selections = {pair: select_joint_law(_laws_of(fits, *pair)) for pair in _pairs(table) if _laws_of(fits, *pair)}
    together = fit_all_factors(rows, settings, resampling, pad_to)
    progress(f"all factors at once: {len(together)} fitted")
    methods = ordered(rows["method"].unique(), METHODS)
    critical = [c for task in table.tasks for c in _critical_of(table, fits, task, methods)]
    progress(f"critical sizes: {sum(len(c.roots) for c in critical)} crossings")
    regions = [r for task in table.tasks for r in _regions_of(table, fits, task, methods)]
    claims = check_claims(fits, rows, table.tasks, methods)
    related = correlations(table, progress)
    forgotten = score_changes(table, (facts or {}).get("evaluator_baselines", {}))
    pretrained = [] if bases is None else fit_pretraining(bases)
    scored = metric_findings(table, functools.partial(_main_metric, table, facts or {}), progress)
    return Analysis(
        table=table,
        settings=settings,
        size=size,
        fits=fits,
        singles=singles,
        skipped=skipped,
        selections=selections,
        all_factors=together,
        critical=critical,
        regions=regions,
        claims=claims,
        correlations=related,
        forgetting=forgotten,
        pretraining=pretrained,
        metric_laws=scored,
        facts=facts or {},
    )


def best_runs(analysis: Analysis, task: str) -> pd.DataFrame:
    """Per method of a task, the setting with the best test score (the main metric's, or else the least loss)."""
    rows = analysis.rows(task)
    metric = main_metric(analysis, task)
    if metric is None:
        return rows.loc[rows.groupby("method")["loss"].idxmin()]
    scores = rows[metric] * (-1 if lower_is_better(metric) else 1)
    return rows.loc[scores.dropna().groupby(rows["method"]).idxmax()]


def main_metric(analysis: Analysis, task: str) -> str | None:
    """The metric that the study names for a task, or else its first; None where the task has no scores."""
    return _main_metric(analysis.table, analysis.facts, task)


def _main_metric(table: PointsTable, facts: Mapping[str, Any], task: str) -> str | None:
    rows = table.settings[table.settings["task"] == task]
    present = [m for m in table.metrics if rows[m].notna().any()]
    named = facts.get("metrics", {}).get(task)
    return named if named in present else next(iter(present), None)


def measured_best(analysis: Analysis, task: str) -> pd.DataFrame:
    """Where two methods or more were measured: per model size and number of examples, the one with the least loss.

    Columns x, finetune_examples, method, loss, runner_up, gap (runner-up's loss minus the best, above zero).
    """
    rows = analysis.rows(task, factor="model")
    found = []
    for (x, examples), cell in rows.groupby(["x", "finetune_examples"]):
        cell = cell.sort_values("loss")
        if len(cell) > 1 and cell["loss"].iloc[0] < cell["loss"].iloc[1]:  # of equal ones none is the best
            best, second = cell.iloc[0], cell.iloc[1]
            found.append((x, examples, best["method"], best["loss"], second["method"], second["loss"] - best["loss"]))
    return pd.DataFrame(found, columns=["x", "finetune_examples", "method", "loss", "runner_up", "gap"])


def _pairs(table: PointsTable) -> Iterator[tuple[str, str]]:
    for task in table.tasks:
        methods = table.settings.loc[table.settings["task"] == task, "method"].unique()
        yield from ((task, method) for method in ordered(methods, METHODS))


def _fit_joint(
    table: PointsTable, laws: Sequence[Law], fit_one: Callable[..., Any], progress: Progress
) -> tuple[dict[tuple[str, str, str], JointFit], list[Skipped]]:
    fits, skipped = {}, []
    for law in laws:
        for task, method in _pairs(table):
            staged, remarks = fit_one(law, _of_pair(table, task, method))
            skipped += remarks
            if staged is not None:
                fits[task, method, law.name] = staged
                progress(f"{law.name}, {task}, {method}: objective {staged.objective['stage_2']:.4g}")
    return fits, skipped


def _of_pair(table: PointsTable, task: str, method: str) -> pd.DataFrame:
    return table.settings[(table.settings["task"] == task) & (table.settings["method"] == method)]


def _laws_of(fits: Mapping[tuple[str, str, str], JointFit], task: str, method: str) -> dict[str, JointFit]:
    return {law: fit for (t, m, law), fit in fits.items() if (t, m) == (task, method)}


def _critical_of(
    table: PointsTable, fits: Mapping[tuple[str, str, str], JointFit], task: str, methods: tuple[str, ...]
) -> Iterator[CriticalSize]:
    """All pairs of methods over model and pretraining size; PET sizes of two methods are no common scale."""
    rows = table.settings[table.settings["task"] == task]
    for law in dict.fromkeys(name for _, _, name in fits):
        own = {m: fits[task, m, law] for m in methods if (task, m, law) in fits}
        for factor in SHARED_FACTORS:
            part = rows[rows["factor"] == factor]
            for pair in combinations([m for m in own if factor in own[m].factors], 2):
                sizes = [part[part["method"] == m] for m in pair]
                shared = sorted(set(sizes[0]["x"]) & set(sizes[1]["x"]))
                measured = {
                    m: (float(s["finetune_examples"].min()), float(s["finetune_examples"].max()))
                    for m, s in zip(pair, sizes, strict=True)
                }
                yield from critical_sizes(own, pair, factor, shared, measured)


def _regions_of(
    table: PointsTable, fits: Mapping[tuple[str, str, str], JointFit], task: str, methods: tuple[str, ...]
) -> Iterator[BestMethodMap]:
    """Maps of the main law over model and pretraining size; PET sizes of two methods are no common scale."""
    rows = table.settings[table.settings["task"] == task]
    law = main_law(fits)
    own = {m: fits[task, m, law] for m in methods if (task, m, law) in fits}
    for factor in SHARED_FACTORS:
        found = best_method_map(own, factor, rows[rows["factor"] == factor])
        if found is not None:
            yield found
