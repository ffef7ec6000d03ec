"""Two-stage fits of joint laws per task and method (Zhang et al. 2024, section 4), and the same law in one stage.

Stage 1 fits the model-size and pretraining-size points together: E and beta (and the additive law's B) are shared, A
and alpha are separate for each factor. Stage 2 freezes the shared parameters and refits A and alpha of every factor,
PET size included.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from finetune_scaling.laws.fitting.fitted_law import FittedLaw
from finetune_scaling.laws.fitting.huber_fit import (
    FitPoints,
    FitProblem,
    FitSettings,
    local_refit,
    multistart_fit,
    multistart_optima,
)
from finetune_scaling.laws.fitting.joint_fit import JointFit, SkippedFit
from finetune_scaling.laws.fitting.profile import Profile, profiles
from finetune_scaling.laws.fitting.replicate_refits import refit_replicates
from finetune_scaling.laws.forms.declared import Law, Layout
from finetune_scaling.laws.points.columns import FACTORS
from finetune_scaling.laws.uncertainty.bootstrap import BootstrapInput, Resampling, resample
from finetune_scaling.laws.uncertainty.jackknife import leave_out_weights
from finetune_scaling.laws.uncertainty.variance_components import VarianceComponents, variance_components

FIRST_STAGE_FACTORS = ("model", "pretrain")
# Optima of stage 1 from which the one-stage fit starts.
ONE_STAGE_STARTS = 256


def fit_joint(
    law: Law,
    rows: pd.DataFrame,
    settings: FitSettings,
    pad_to: int = 0,
    resampling: Resampling | None = None,
    profile: bool = False,
) -> tuple[JointFit | None, list[SkippedFit]]:
    """Fit `law` in two stages to the settings of one task and method; None where the points do not suffice.

    rows: PointsTable.settings of one task and method, held-out ones included (they enter no fit); pad_to: number of
    points to pad to, so that several calls share a compiled program; profile: whether to profile every parameter of the
    one-stage fit.
    """
    task, method = rows["task"].iloc[0], rows["method"].iloc[0]
    layout = Layout(law, FACTORS)
    fitted = rows[rows["factor"].isin(FACTORS) & ~rows["held_out"]]
    values = fitted.groupby("factor")["x"].nunique()
    factors = tuple(factor for factor in FACTORS if values.get(factor, 0) > 1)
    reasons = [f"factor {f}: one value of x to fit, an exponent needs two" for f in FACTORS if values.get(f, 0) == 1]
    first = tuple(f for f in factors if f in FIRST_STAGE_FACTORS) or factors
    too_few = _why_too_few(layout, fitted[fitted["factor"].isin(first)], first)
    skipped = [SkippedFit(task, method, law.name, reason) for reason in [*reasons, *([too_few] if too_few else [])]]
    if too_few:
        return None, skipped
    rows = rows[rows["factor"].isin(factors)]
    problem = FitProblem(layout, to_fit_points(rows[~rows["held_out"]], pad_to), settings)
    return _fit_stages(_Stages(problem, first, factors), rows, resampling or Resampling(), profile), skipped


def _why_too_few(layout: Layout, first: pd.DataFrame, factors: Sequence[str]) -> str:
    """Return why the points of stage 1 do not determine the law; empty where they do."""
    if not factors:
        return "no factor with two values of x"
    needed = sum(1 for _, group in layout.slots if not group or group in factors)
    if len(first) < needed:
        return f"{len(first)} points to fit for {needed} parameters"
    if first["loss"].nunique() < 2:
        return "all losses to fit are the same, so they determine no exponent"
    sizes, needed = first["finetune_examples"].nunique(), layout.law.sizes_needed
    if sizes < needed:  # infinitely many curves pass through these points
        return f"{sizes} {'numbers' if sizes > 1 else 'number'} of examples to fit, the law needs {needed}"
    return ""


def to_fit_points(rows: pd.DataFrame, pad_to: int = 0) -> FitPoints:
    """Return settings as the arrays that a fit takes; groups index FACTORS."""
    return FitPoints(
        log_factors={"X": np.log(rows["x"].to_numpy(float)), "D": np.log(rows["finetune_examples"].to_numpy(float))},
        loss=rows["loss"].to_numpy(float),
        groups=np.array([FACTORS.index(f) for f in rows["factor"]]),
        pad_to=pad_to,
    )


@dataclass(frozen=True)
class _Stages:
    """The two stages of one law, for any weights and losses of the same settings.

    first: factors whose points stage 1 fits; factors: those of stage 2.
    """

    problem: FitProblem
    first: tuple[str, ...]
    factors: tuple[str, ...]

    @functools.cached_property
    def in_first(self) -> np.ndarray:
        """1 where a point [P] belongs to stage 1, else 0."""
        return np.isin(self.problem.points.groups, [FACTORS.index(f) for f in self.first]).astype(float)

    @functools.cached_property
    def free_1(self) -> np.ndarray:
        """Entries [K] that stage 1 fits: the shared ones, and those of its factors."""
        return np.array([not group or group in self.first for _, group in self.problem.layout.slots])

    @functools.cached_property
    def free_2(self) -> np.ndarray:
        """Entries [K] that stage 2 fits: those of all factors."""
        return np.array([group in self.factors for _, group in self.problem.layout.slots])

    @property
    def free(self) -> np.ndarray:
        """Entries [K] that either stage fits."""
        return self.free_1 | self.free_2

    def from_grid(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the best vector [K] over the grid of starts, and the optima of stage 1 [S, K]."""
        layout, weights = self.problem.layout, self.in_first[None]
        first, _ = multistart_optima(self.problem, weights, layout.starts(), self.free_1)
        shared = {p.name: first[0, 0][c.start] for p, c in layout.columns() if not p.per_factor}
        starts = np.concatenate([first[0, :1], layout.starts(shared)])
        vectors, _ = multistart_fit(self.problem, np.ones_like(weights), starts, self.free_2)
        return vectors[0], first[0]

    def refit(self, start: np.ndarray, weights: np.ndarray, losses: np.ndarray | None = None) -> np.ndarray:
        """Return both stages' refits [W, K] from one vector, for every row of weights and losses [W, P]."""
        starts = np.tile(start, (len(weights), 1))
        first = self.refit_replicates(weights * self.in_first, starts, self.free_1, losses)
        return local_refit(self.problem, weights, first, self.free_2, losses)[0]

    def refit_replicates(
        self, weights: np.ndarray, starts: np.ndarray, free: np.ndarray, losses: np.ndarray | None
    ) -> np.ndarray:
        """Return refits [W, K] of one optimum, repeated in `starts` [W, K], to other weights or losses."""
        return refit_replicates(self.problem, weights, starts, free, self.problem.residual_scale(starts[0]), losses)[0]

    def objectives(self, vector: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
        """Return the sums of Huber losses that the stages minimize: over the points of stage 1, and over all."""
        frozen = np.zeros_like(self.free)
        rows = np.stack([weights * self.in_first, weights])
        _, values = local_refit(self.problem, rows, np.tile(vector, (2, 1)), frozen)
        return float(values[0]), float(values[1])


def _fit_stages(stages: _Stages, rows: pd.DataFrame, how: Resampling, profile: bool) -> JointFit:
    factors, problem, layout, points = stages.factors, stages.problem, stages.problem.layout, stages.problem.points
    fitted, held_out = rows[~rows["held_out"]], rows[rows["held_out"]]
    seeds, groupings = fitted["seeds"].to_numpy(float), _groupings(fitted)
    vector, optima = stages.from_grid()
    components = _components(stages, fitted, groupings, vector)
    weights = _weights(components, seeds)
    if np.ptp(weights) > 0:
        vector = stages.refit(vector, weights[None])[0]
        components = _components(stages, fitted, groupings, vector)
    task, method = fitted["task"].iloc[0], fitted["method"].iloc[0]
    data = BootstrapInput(problem.predictions(vector), points.loss, seeds, groupings, _run_index(fitted))
    counts, losses = resample(data, components, how.for_name(f"{task}/{method}"))
    replicates = stages.refit(vector, counts * weights, losses)
    one_stage = _one_stage(stages, weights, (vector, optima), (counts * weights, losses, replicates))
    left_out, slices = leave_out_weights(groupings)
    jackknife_refits = stages.refit(vector, left_out * weights)
    objective_1, objective_2 = stages.objectives(vector, weights)
    errors = {
        "fitted": _errors(problem, vector[None], fitted, factors, np.mean),
        "held_out": _errors(problem, vector[None], held_out, factors, np.mean),
    }
    held_out_replicates = _errors(problem, replicates, held_out, factors, _resampled_mean)
    return JointFit(
        task=task,
        method=method,
        layout=layout,
        vector=vector,
        replicates=replicates,
        objective=objective_2,
        objective_stage_1=objective_1,
        log_rmse=problem.log_rmse(vector),
        least_response=float(points.loss.min()),
        points=len(fitted),
        factors=factors,
        reasons=_few_levels(layout, fitted, factors),
        jackknife_refits=jackknife_refits,
        groupings=tuple(slices),
        left_out_errors=_left_out_errors(stages, left_out, jackknife_refits),
        errors=errors,
        held_out_replicates={f: _recentred(values, errors["held_out"][f]) for f, values in held_out_replicates.items()},
        points_by_factor={factor: int((fitted["factor"] == factor).sum()) for factor in factors},
        stage_1=stages.first,
        components=components,
        resampling=how,
        one_stage=one_stage,
        profiles=_profiles(stages, one_stage, weights) if profile else {},
    )


def _one_stage(
    stages: _Stages,
    weights: np.ndarray,
    found: tuple[np.ndarray, np.ndarray],
    bootstrap: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> FittedLaw:
    """Fit all parameters together, from the two-stage result and from the other optima of stage 1.

    found: the two-stage result and those optima; bootstrap: weights, losses and two-stage refits of the replicates. The
    refits equal the one-stage ones where stage 1 has all points.
    """
    problem, (vector, optima), (replicate_weights, losses, replicates) = stages.problem, found, bootstrap
    starts = np.concatenate([vector[None], np.where(stages.free_1, optima[:ONE_STAGE_STARTS], vector)])
    vectors, values = local_refit(problem, np.tile(weights, (len(starts), 1)), starts, stages.free)
    best = int(np.argmin(values))
    if not stages.in_first.all():
        starts = np.tile(vectors[best], (len(replicates), 1))
        replicates = stages.refit_replicates(replicate_weights, starts, stages.free, losses)
    return FittedLaw(
        layout=problem.layout,
        vector=vectors[best],
        replicates=replicates,
        objective=float(values[best]),
        log_rmse=problem.log_rmse(vectors[best]),
        least_response=float(problem.points.loss.min()),
        points=len(problem.points.loss),
        factors=stages.factors,
    )


def _profiles(stages: _Stages, fitted: FittedLaw, weights: np.ndarray) -> dict[str, Profile]:
    deviations = dict(zip(stages.problem.layout.names, map(float, np.std(fitted.replicates, axis=0)), strict=True))
    return profiles(stages.problem, weights, fitted.vector, stages.free, deviations)


def _components(
    stages: _Stages, fitted: pd.DataFrame, groupings: Sequence[np.ndarray], vector: np.ndarray
) -> VarianceComponents:
    residuals = stages.problem.points.loss - stages.problem.predictions(vector)
    deviations, seeds = (fitted[c].to_numpy(float) for c in ("loss_sd", "seeds"))
    _, first = np.unique(_run_index(fitted), return_index=True)  # seeds of runs shared by two factors count once
    deviations = np.where(np.isin(np.arange(len(fitted)), first), deviations, np.nan)
    return variance_components(residuals, deviations, seeds, groupings, int(stages.free.sum()))


def _run_index(fitted: pd.DataFrame) -> np.ndarray:
    """Return an index [P] that is equal for settings of the same runs, which two factors may share."""
    return fitted.groupby(["finetune_examples", "loss", "seeds"], sort=False).ngroup().to_numpy()


def _weights(components: VarianceComponents, seeds: np.ndarray) -> np.ndarray:
    """Return inverse variances of the settings' means [P], of mean one: settings with more seeds weigh more."""
    variances = components.deviation_of_mean(seeds) ** 2
    if components.seed is None or np.ptp(seeds) == 0 or not (variances > 0).all():
        return np.ones(len(seeds))
    return (1 / variances) / np.mean(1 / variances)


def _left_out_errors(stages: _Stages, weights: np.ndarray, refits: np.ndarray) -> np.ndarray:
    """Return the mean absolute error of each refit [W] on the points that it left out."""
    errors = np.abs(stages.problem.predictions(refits) - stages.problem.points.loss)
    return np.array([error[weight == 0].mean() for error, weight in zip(errors, weights, strict=True)])


def _groupings(fitted: pd.DataFrame) -> list[np.ndarray]:
    """Return the labels [P] of every grouping whose levels are left out: dataset sizes, and each factor's values."""
    groupings = [fitted["finetune_examples"].to_numpy()]
    for factor in fitted["factor"].unique():
        groupings.append(fitted["x"].where(fitted["factor"] == factor).to_numpy())
    return groupings


def _few_levels(layout: Layout, fitted: pd.DataFrame, factors: Sequence[str]) -> dict[str, str]:
    """Return, for entries with too few levels for a jackknife, the reason."""
    reasons = {}
    sizes = fitted["finetune_examples"].nunique()
    values = fitted.groupby("factor")["x"].nunique()
    for name, (_, group) in zip(layout.names, layout.slots, strict=True):
        if not group and sizes <= layout.law.sizes_needed:
            reasons[name] = (
                f"{sizes} numbers of examples to fit; {layout.law.sizes_needed + 1} are needed to leave one out"
            )
        if group in factors and values[group] < 3:
            reasons[name] = f"{values[group]} values of x to fit for {group}; 3 are needed to leave one out"
    return reasons


def _errors(
    problem: FitProblem, vectors: np.ndarray, rows: pd.DataFrame, factors: Sequence[str], mean: Callable
) -> dict:
    """Return factor -> mean absolute error, nats per token, of the vectors [R, K] on the factor's rows, if any."""
    errors = {}
    for factor in factors:
        own = rows[rows["factor"] == factor]
        if len(own):
            here = replace(problem, points=to_fit_points(own))
            errors[factor] = mean(np.abs(here.predictions(vectors) - here.points.loss))
    return errors


def _recentred(replicates: np.ndarray, observed: float) -> np.ndarray:
    """Return replicates [R] of an error, scaled so that their median is the observed one.

    A refitted law has its own error in addition to that of the fitted law, so its error is larger than the observed.
    """
    median = float(np.median(replicates))
    return replicates * (observed / median) if median > 0 else replicates


def _resampled_mean(errors: np.ndarray) -> np.ndarray:
    """Return the mean of each row of errors [R, P] over resampled points, so that it varies with the points too."""
    chosen = np.random.default_rng(0).integers(errors.shape[1], size=errors.shape)
    return np.take_along_axis(errors, chosen, axis=1).mean(axis=1)
