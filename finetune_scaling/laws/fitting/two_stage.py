"""Two-stage fits of joint laws per task and method (Zhang et al. 2024, section 4), and the same law in one stage.

Stage 1 fits the model-size and pretraining-size points together: E and beta (and the additive law's B) are shared, A
and alpha are separate for each factor. Stage 2 freezes the shared parameters and refits A and alpha of every factor,
PET size included.
"""

import functools
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from finetune_scaling.laws.fitting.fitted_law import FittedLaw
from finetune_scaling.laws.fitting.huber_fit import (
    FitBatch,
    FitPoints,
    FitProblem,
    FitSettings,
    local_refit,
    multistart_fit,
    multistart_optima,
)
from finetune_scaling.laws.fitting.joint_fit import JointFit
from finetune_scaling.laws.fitting.profile import profiles
from finetune_scaling.laws.fitting.replicate_refits import refit_replicates
from finetune_scaling.laws.fitting.requirements import SkippedFit, few_levels, joint_grid
from finetune_scaling.laws.forms.declared import Law, ParameterLayout
from finetune_scaling.laws.points.columns import FACTORS
from finetune_scaling.laws.uncertainty.bootstrap import BootstrapInput, Resampling, resample
from finetune_scaling.laws.uncertainty.jackknife import leave_out_weights
from finetune_scaling.laws.uncertainty.variance_components import VarianceComponents, variance_components

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
    grid, fitted = joint_grid(law, rows), rows[rows["factor"].isin(FACTORS) & ~rows["held_out"]]
    same = not grid.lacking and fitted.loc[fitted["factor"].isin(grid.first), "loss"].nunique() < 2
    constant = ("needs different losses to fit; all are the same",) if same else ()
    skipped = [SkippedFit(task, method, law.name, one) for one in (*grid.left_out, *grid.lacking, *constant)]
    if grid.lacking or constant:
        return None, skipped
    rows = rows[rows["factor"].isin(grid.factors)]
    stages = _Stages(law, settings, rows[~rows["held_out"]], grid.first, grid.factors, pad_to)
    return _fit_stages(stages, rows[rows["held_out"]], resampling or Resampling(), profile), skipped


def _to_fit_points(rows: pd.DataFrame, pad_to: int = 0) -> FitPoints:
    """Return settings as the arrays that a fit takes; groups index FACTORS."""
    return FitPoints(
        factors={"X": rows["x"].to_numpy(float), "D": rows["finetune_examples"].to_numpy(float)},
        loss=rows["loss"].to_numpy(float),
        groups=np.array([FACTORS.index(f) for f in rows["factor"]]),
        pad_to=pad_to,
    )


@dataclass(frozen=True)
class _Stages:
    """The two stages of one law, for any weights and losses of the same settings.

    fitted: the settings [P]; first: factors whose points stage 1 fits; factors: factors of stage 2.
    """

    law: Law
    settings: FitSettings
    fitted: pd.DataFrame
    first: tuple[str, ...]
    factors: tuple[str, ...]
    pad_to: int

    @functools.cached_property
    def problem(self) -> FitProblem:
        """The law and the points to fit."""
        return FitProblem(ParameterLayout(self.law, FACTORS), _to_fit_points(self.fitted, self.pad_to), self.settings)

    @functools.cached_property
    def seeds(self) -> np.ndarray:
        """The number of seeds of every setting [P]."""
        return self.fitted["seeds"].to_numpy(float)

    @functools.cached_property
    def in_first(self) -> np.ndarray:
        """1 where a point [P] belongs to stage 1, else 0."""
        return self.fitted["factor"].isin(self.first).to_numpy(float)

    @property
    def free_1(self) -> np.ndarray:
        """Entries [K] that stage 1 fits: the shared ones and its factors' own."""
        return self.problem.layout.entries_of("", *self.first)

    @property
    def free_2(self) -> np.ndarray:
        """Entries [K] that stage 2 fits: all factors' own."""
        return self.problem.layout.entries_of(*self.factors)

    @property
    def free(self) -> np.ndarray:
        """Entries [K] that either stage fits."""
        return self.free_1 | self.free_2

    @functools.cached_property
    def groupings(self) -> list[np.ndarray]:
        """Labels [P] of every grouping whose levels are left out: dataset sizes, and each factor's values."""
        factor, x = self.fitted["factor"], self.fitted["x"]
        sizes = self.fitted["finetune_examples"].to_numpy()
        return [sizes, *(x.where(factor == one).to_numpy() for one in factor.unique())]

    @functools.cached_property
    def run_index(self) -> np.ndarray:
        """An index [P] that is equal for settings of the same runs, which two factors may share."""
        return self.fitted.groupby(["finetune_examples", "loss", "seeds"], sort=False).ngroup().to_numpy()

    def from_grid(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the best vector [K] over the grid of starts, and the optima of stage 1 [S, K]."""
        problem, layout = self.problem, self.problem.layout
        (first,), _ = multistart_optima(problem.batch(self.in_first[None], free=self.free_1), layout.starts())
        shared = {p.name: first[0, c.start] for p, c in layout.columns() if not p.per_factor}
        starts = np.concatenate([first[:1], layout.starts(shared)])
        (vector,), _ = multistart_fit(problem.batch(free=self.free_2), starts)
        return vector, first

    def refit(self, start: np.ndarray, batch: FitBatch) -> np.ndarray:
        """Return both stages' refits [W, K] from one vector, for the weights and losses of a batch."""
        first = self.problem.batch(batch.weights * self.in_first, batch.losses, self.free_1)
        vectors, _ = refit_replicates(first, np.tile(start, (len(batch.weights), 1)))
        return local_refit(self.problem.batch(batch.weights, batch.losses, self.free_2), vectors)[0]

    def objectives(self, vector: np.ndarray, weights: np.ndarray) -> list[float]:
        """Return the sums of Huber losses that the stages minimize: over the points of stage 1, and over all."""
        batch = self.problem.batch(np.stack([weights * self.in_first, weights]), free=False)
        return local_refit(batch, np.tile(vector, (2, 1)))[1].tolist()


def _fit_stages(stages: _Stages, held_out: pd.DataFrame, resampling: Resampling, profile: bool) -> JointFit:
    factors, problem, fitted = stages.factors, stages.problem, stages.fitted
    task, method = fitted["task"].iloc[0], fitted["method"].iloc[0]
    vector, optima = stages.from_grid()
    weights = _weights(stages, vector)
    if np.ptp(weights) > 0:
        (vector,) = stages.refit(vector, problem.batch(weights[None]))
    bootstrap = _bootstrap(stages, vector, weights, resampling.for_name(f"{task}/{method}"))
    replicates = stages.refit(vector, bootstrap)
    starts = np.concatenate([vector[None], np.where(stages.free_1, optima[:ONE_STAGE_STARTS], vector)])
    one_stage = _fit_one_stage(stages, starts, weights, bootstrap, replicates)
    left_out, slices = leave_out_weights(stages.groupings)
    jackknife_refits = stages.refit(vector, problem.batch(left_out * weights))
    objective_1, objective_2 = stages.objectives(vector, weights)
    errors = {
        kind: {factor: float(found.mean()) for factor, found in _deviations(problem, vector, rows).items()}
        for kind, rows in (("fitted", fitted), ("held_out", held_out))
    }
    return JointFit(
        **problem.fitted_fields(vector),
        task=task,
        method=method,
        replicates=replicates,
        objective=objective_2,
        objective_stage_1=objective_1,
        factors=factors,
        reasons=few_levels(stages.law, fitted),
        jackknife_refits=jackknife_refits,
        groupings=tuple(slices),
        left_out_errors=_left_out_errors(problem, left_out, jackknife_refits),
        errors=errors,
        held_out_replicates={
            factor: _scaled_to_median(_resampled_mean(replicated), errors["held_out"][factor])
            for factor, replicated in _deviations(problem, replicates, held_out).items()
        },
        points_by_factor={factor: int((fitted["factor"] == factor).sum()) for factor in factors},
        stage_1=stages.first,
        components=_components(stages, vector),
        resampling=resampling,
        one_stage=one_stage,
        profiles=profiles(problem, weights, one_stage, stages.free) if profile else {},
    )


def _bootstrap(stages: _Stages, vector: np.ndarray, weights: np.ndarray, resampling: Resampling) -> FitBatch:
    predicted, loss = stages.problem.predictions(vector), stages.problem.points.loss
    data = BootstrapInput(predicted, loss, stages.seeds, stages.groupings, stages.run_index)
    counts, losses = resample(data, _components(stages, vector), resampling)
    return stages.problem.batch(counts * weights, losses)


def _fit_one_stage(
    stages: _Stages, starts: np.ndarray, weights: np.ndarray, bootstrap: FitBatch, refits: np.ndarray
) -> FittedLaw:
    """Fit all parameters together, from several starts [S, K]; refits [R, K]: in two stages."""
    problem, free = stages.problem, stages.free
    vectors, values = local_refit(problem.batch(np.tile(weights, (len(starts), 1)), free=free), starts)
    best = int(np.argmin(values))
    if not stages.in_first.all():  # where stage 1 has all points, refits in one stage are the same
        replicated = problem.batch(bootstrap.weights, bootstrap.losses, free)
        refits, _ = refit_replicates(replicated, np.tile(vectors[best], (len(refits), 1)))
    return FittedLaw(
        **problem.fitted_fields(vectors[best]),
        replicates=refits,
        objective=float(values[best]),
        factors=stages.factors,
    )


def _components(stages: _Stages, vector: np.ndarray) -> VarianceComponents:
    residuals = stages.problem.points.loss - stages.problem.predictions(vector)
    _, first = np.unique(stages.run_index, return_index=True)  # seeds of runs shared by two factors count once
    counted = np.isin(np.arange(len(residuals)), first)
    deviations = np.where(counted, stages.fitted["loss_sd"].to_numpy(float), np.nan)
    return variance_components(residuals, deviations, stages.seeds, stages.groupings, int(stages.free.sum()))


def _weights(stages: _Stages, vector: np.ndarray) -> np.ndarray:
    """Return inverse variances of the settings' means [P], of mean one: settings with more seeds weigh more."""
    components, seeds = _components(stages, vector), stages.seeds
    variances = components.deviation_of_mean(seeds) ** 2
    if components.seed is None or np.ptp(seeds) == 0 or not (variances > 0).all():
        return np.ones(len(seeds))
    return (1 / variances) / np.mean(1 / variances)


def _left_out_errors(problem: FitProblem, weights: np.ndarray, refits: np.ndarray) -> np.ndarray:
    """Return the mean absolute error of each refit [W] on the points that it left out."""
    errors = np.abs(problem.predictions(refits) - problem.points.loss)
    return np.array([error[weight == 0].mean() for error, weight in zip(errors, weights, strict=True)])


def _deviations(problem: FitProblem, vectors: np.ndarray, rows: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return factor -> absolute errors [..., P], nats per token, of vectors [..., K] on the factor's rows."""
    found = {}
    for factor, own in rows.groupby("factor", sort=False):
        points = _to_fit_points(own)
        found[str(factor)] = np.abs(replace(problem, points=points).predictions(vectors) - points.loss)
    return found


def _scaled_to_median(replicates: np.ndarray, observed: float) -> np.ndarray:
    """Return replicates [R] of an error, scaled so that their median is the observed error.

    A refitted law has its own error in addition to the error of the fitted law, so its error exceeds the observed one.
    """
    median = float(np.median(replicates))
    return replicates * (observed / median) if median > 0 else replicates


def _resampled_mean(errors: np.ndarray) -> np.ndarray:
    """Return the mean of each row of errors [R, P] over resampled points, so that it varies with the points too."""
    chosen = np.random.default_rng(0).integers(errors.shape[1], size=errors.shape)
    return np.take_along_axis(errors, chosen, axis=1).mean(axis=1)
