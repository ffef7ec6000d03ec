"""The paper's two stages, per task and method (Zhang et al. 2024, section 4), and all parameters in one stage.

Stage 1 fits the model-size and pretraining-size points together: E and beta (and the additive law's B) are shared, A
and alpha are each factor's own. Stage 2 freezes what is shared and refits A and alpha of every factor, PET size
included.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from finetune_scaling.laws.fitting.huber_fit import (
    FitPoints,
    FitSettings,
    local_refit,
    multistart_fit,
    multistart_optima,
    predictions,
    scatter_about,
)
from finetune_scaling.laws.fitting.joint_fit import JointFit, OneStage, Skipped
from finetune_scaling.laws.fitting.profile import Profile, profiles
from finetune_scaling.laws.fitting.replicate_refits import refit_replicates
from finetune_scaling.laws.forms.declared import Law, Layout
from finetune_scaling.laws.points.columns import FACTORS
from finetune_scaling.laws.uncertainty import jackknife
from finetune_scaling.laws.uncertainty.bootstrap import Measured, Resampling, resample
from finetune_scaling.laws.uncertainty.variance_components import VarianceComponents, variance_components

FIRST_STAGE_FACTORS = ("model", "pretrain")
# Optima of stage 1 from which the fit in one stage starts.
ONE_STAGE_STARTS = 256


def fit_joint(
    law: Law,
    rows: pd.DataFrame,
    settings: FitSettings,
    pad_to: int = 0,
    resampling: Resampling | None = None,
    profile: bool = False,
) -> tuple[JointFit | None, list[Skipped]]:
    """Fits `law` in two stages to the settings of one task and method; None where the points do not suffice.

    rows: PointsTable.settings of one task and method, held-out ones too (they enter no fit). pad_to: number of points
    to pad to, so that several calls share a compiled program; resampling: how the bootstrap is drawn; profile:
    whether to profile every parameter of the fit in one stage too.
    """
    task, method = rows["task"].iloc[0], rows["method"].iloc[0]
    layout = Layout(law, FACTORS)
    fitted = rows[rows["factor"].isin(FACTORS) & ~rows["held_out"]]
    factors, skipped = _usable_factors(fitted, law.name, task, method)
    first = tuple(f for f in factors if f in FIRST_STAGE_FACTORS) or factors
    reason = _too_few(layout, fitted, first)
    if reason:
        return None, [*skipped, Skipped(task, method, law.name, reason)]
    rows = rows[rows["factor"].isin(factors)]
    fitted = rows[~rows["held_out"]]
    stages = _stages(layout, fitted, first, factors, settings, pad_to)
    return _fit_stages(stages, rows, first, factors, resampling or Resampling(), profile), skipped


@dataclass(frozen=True)
class _Stages:
    """The two stages of one law, to run on any weights and losses of the same settings.

    in_first [P]: 1 where a point belongs to stage 1; free_1, free_2 [K]: what each stage moves, free: what both do.
    """

    layout: Layout
    points: FitPoints
    settings: FitSettings
    in_first: np.ndarray
    free_1: np.ndarray
    free_2: np.ndarray

    @property
    def free(self) -> np.ndarray:
        return self.free_1 | self.free_2

    def from_grid(self) -> tuple[np.ndarray, np.ndarray]:
        """The best vector [K] over the grid of starts, and the optima of stage 1 [S, K]."""
        grid, weights = self.layout.starts(), self.in_first[None]
        first, _ = multistart_optima(self.layout, self.points, weights, grid, self.free_1, self.settings)
        restart = _restart(self.layout, first[0, 0])
        ones = np.ones_like(weights)
        vectors, _ = multistart_fit(self.layout, self.points, ones, restart, self.free_2, self.settings)
        return vectors[0], first[0]

    def again(self, start: np.ndarray, weights: np.ndarray, losses: np.ndarray | None = None) -> np.ndarray:
        """Both stages from one vector, for every row of weights and losses [W, P]: vectors [W, K]."""
        starts = np.tile(start, (len(weights), 1))
        first = self.far(weights * self.in_first, starts, self.free_1, losses)
        return local_refit(self.layout, self.points, weights, first, self.free_2, self.settings, losses)[0]

    def far(self, weights: np.ndarray, starts: np.ndarray, free: np.ndarray, losses: np.ndarray | None) -> np.ndarray:
        """Refits of one optimum, repeated in `starts` [W, K], to other weights or losses: vectors [W, K]."""
        scatter = scatter_about(self.layout, self.points, starts[0], self.settings)
        return refit_replicates(self.layout, self.points, weights, starts, free, self.settings, scatter, losses)[0]

    def objectives(self, vector: np.ndarray, weights: np.ndarray) -> dict[str, float]:
        """The sums of Huber losses that the stages minimise: over the points of stage 1, and over all."""
        frozen = np.zeros_like(self.free)
        rows = np.stack([weights * self.in_first, weights])
        _, values = local_refit(self.layout, self.points, rows, np.tile(vector, (2, 1)), frozen, self.settings)
        return {"stage_1": float(values[0]), "stage_2": float(values[1])}


def _stages(
    layout: Layout,
    fitted: pd.DataFrame,
    first: Sequence[str],
    factors: Sequence[str],
    settings: FitSettings,
    pad_to: int,
) -> _Stages:
    points = to_fit_points(fitted, pad_to)
    in_first = np.isin(points.groups, [FACTORS.index(f) for f in first]).astype(float)
    free_1, free_2 = _free(layout, first, shared=True), _free(layout, factors, shared=False)
    return _Stages(layout, points, settings, in_first, free_1, free_2)


def _fit_stages(
    stages: _Stages,
    rows: pd.DataFrame,
    first: tuple[str, ...],
    factors: tuple[str, ...],
    how: Resampling,
    profile: bool,
) -> JointFit:
    layout, points = stages.layout, stages.points
    fitted = rows[~rows["held_out"]]
    vector, valley = stages.from_grid()
    families = _levels(fitted)
    scatter = _components(stages, fitted, families, vector)
    weights = _weights(scatter, fitted["seeds"].to_numpy(float))
    if np.ptp(weights) > 0:
        vector = stages.again(vector, weights[None])[0]
        scatter = _components(stages, fitted, families, vector)
    predicted = predictions(layout, points, vector)
    measured = Measured(predicted, points.loss, fitted["seeds"].to_numpy(float), families, _runs(fitted))
    task, method = fitted["task"].iloc[0], fitted["method"].iloc[0]
    counts, losses = resample(measured, scatter, how.of(f"{task}/{method}"))
    draws = stages.again(vector, counts * weights, losses)
    one_stage = _one_stage(stages, vector, valley, weights, counts, losses, draws)
    levels, slices = jackknife.leave_out_weights(families)
    refits = stages.again(vector, levels * weights)
    every = {"fitted": rows[~rows["held_out"]], "held_out": rows[rows["held_out"]]}
    errors = {kind: _deviations(layout, vector[None], own, factors, _mean) for kind, own in every.items()}
    drawn = _deviations(layout, draws, every["held_out"], factors, _resampled_mean)
    return JointFit(
        task=task,
        method=method,
        layout=layout,
        vector=vector,
        replicates=draws,
        refits=refits,
        families=tuple(slices),
        left_out=_left_out(stages, levels, refits),
        reasons=_untold(layout, fitted, factors),
        objective=stages.objectives(vector, weights),
        errors=errors,
        held_out_replicates={
            factor: _recentred(values, errors["held_out"][factor]) for factor, values in drawn.items()
        },
        points={factor: int((fitted["factor"] == factor).sum()) for factor in factors},
        stage_1=first,
        components=scatter,
        misfit=float(np.sqrt(np.mean(np.log(predicted / points.loss) ** 2))),
        least_response=float(points.loss.min()),
        resampling=how,
        one_stage=one_stage,
        profiles=_profiles(stages, one_stage, weights) if profile else {},
    )


def _one_stage(
    stages: _Stages,
    vector: np.ndarray,
    valley: np.ndarray,
    weights: np.ndarray,
    counts: np.ndarray,
    losses: np.ndarray,
    draws: np.ndarray,
) -> OneStage:
    """All parameters at once, from the two stages' result and from the other optima of stage 1.

    draws: of both stages, which are those of one where stage 1 has all points already.
    """
    starts = np.concatenate([vector[None], np.where(stages.free_1, valley[:ONE_STAGE_STARTS], vector)])
    rows = np.tile(weights, (len(starts), 1))
    vectors, values = local_refit(stages.layout, stages.points, rows, starts, stages.free, stages.settings)
    best = int(np.argmin(values))
    if not stages.in_first.all():
        starts = np.tile(vectors[best], (len(counts), 1))
        draws = stages.far(counts * weights, starts, stages.free, losses)
    return OneStage(vectors[best], draws, float(values[best]))


def _profiles(stages: _Stages, fitted: OneStage, weights: np.ndarray) -> dict[str, Profile]:
    deviations = dict(zip(stages.layout.names, map(float, np.std(fitted.replicates, axis=0)), strict=True))
    return profiles(stages.layout, stages.points, weights, fitted.vector, stages.free, stages.settings, deviations)


def _components(
    stages: _Stages, fitted: pd.DataFrame, families: Sequence[np.ndarray], vector: np.ndarray
) -> VarianceComponents:
    residuals = stages.points.loss - predictions(stages.layout, stages.points, vector)
    deviations, seeds = (fitted[c].to_numpy(float) for c in ("loss_sd", "seeds"))
    _, first = np.unique(_runs(fitted), return_index=True)  # runs that stand under two factors have their seeds once
    deviations = np.where(np.isin(np.arange(len(fitted)), first), deviations, np.nan)
    return variance_components(residuals, deviations, seeds, families, int(stages.free.sum()))


def _runs(fitted: pd.DataFrame) -> np.ndarray:
    """Which settings are the same runs [P]: a base's largest budget, say, is measured once for two factors."""
    return fitted.groupby(["finetune_examples", "loss", "seeds"], sort=False).ngroup().to_numpy()


def _weights(scatter: VarianceComponents, seeds: np.ndarray) -> np.ndarray:
    """Inverse variances of the settings' means [P], of mean one: settings with more seeds count for more."""
    variances = scatter.deviation_of_mean(seeds) ** 2
    if scatter.seed is None or np.ptp(seeds) == 0 or not (variances > 0).all():
        return np.ones(len(seeds))
    return (1 / variances) / np.mean(1 / variances)


def _left_out(stages: _Stages, levels: np.ndarray, refits: np.ndarray) -> np.ndarray:
    """Mean absolute deviation of each refit [W] from the points that it left out."""
    gaps = np.abs(predictions(stages.layout, stages.points, refits) - stages.points.loss)
    return np.array([gap[level == 0].mean() for gap, level in zip(gaps, levels, strict=True)])


def _too_few(layout: Layout, fitted: pd.DataFrame, first: Sequence[str]) -> str:
    """Why these points do not determine the law; empty where they do."""
    if not first:
        return "no factor with two values of x"
    needed = sum(1 for _, group in layout.slots if not group or group in first)
    available = int(fitted["factor"].isin(first).sum())
    if available < needed:
        return f"{available} points to fit for {needed} parameters"
    if fitted.loc[fitted["factor"].isin(first), "loss"].nunique() < 2:
        return "all losses to fit are the same, from which no exponent can be told"
    sizes, law = fitted.loc[fitted["factor"].isin(first), "finetune_examples"].nunique(), layout.law
    if sizes < law.sizes_needed:  # curves without end go through these points, and differ beyond them
        numbers = "numbers" if sizes > 1 else "number"
        return f"{sizes} {numbers} of examples to fit, the law is determined by {law.sizes_needed}"
    return ""


def _usable_factors(fitted: pd.DataFrame, law: str, task: str, method: str) -> tuple[tuple[str, ...], list[Skipped]]:
    """Factors with at least two fitted values of x, and a remark on each that has one only."""
    values = fitted.groupby("factor")["x"].nunique()
    present = [factor for factor in FACTORS if factor in values.index]
    lonely = [factor for factor in present if values[factor] < 2]
    skipped = [Skipped(task, method, law, f"factor {f}: one value of x to fit, an exponent needs two") for f in lonely]
    return tuple(factor for factor in present if factor not in lonely), skipped


def to_fit_points(rows: pd.DataFrame, pad_to: int = 0) -> FitPoints:
    """Settings as the arrays that a fit takes; groups index FACTORS."""
    return FitPoints(
        log_factors={"X": np.log(rows["x"].to_numpy(float)), "D": np.log(rows["finetune_examples"].to_numpy(float))},
        loss=rows["loss"].to_numpy(float),
        groups=np.array([FACTORS.index(f) for f in rows["factor"]]),
        pad_to=pad_to,
    )


def _free(layout: Layout, factors: Sequence[str], shared: bool) -> np.ndarray:
    """Which entries move: those of the factors, and the shared ones where asked."""
    return np.array([group in factors if group else shared for _, group in layout.slots])


def _restart(layout: Layout, vector: np.ndarray) -> np.ndarray:
    """Starts of stage 2 [S, K]: shared entries from stage 1, the others from there too and over their grid."""
    shared = {p.name: vector[c.start] for p, c in layout.columns() if not p.per_factor}
    return np.concatenate([vector[None], layout.starts(shared)])


def _levels(fitted: pd.DataFrame) -> list[np.ndarray]:
    """What to leave out in turn: numbers of examples, and each factor's values of x; labels [P] each."""
    families = [fitted["finetune_examples"].to_numpy()]
    for factor in fitted["factor"].unique():
        families.append(fitted["x"].where(fitted["factor"] == factor).to_numpy())
    return families


def _untold(layout: Layout, fitted: pd.DataFrame, factors: Sequence[str]) -> dict[str, str]:
    """Entries whose spread cannot be told, and why: too few levels to leave one out."""
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


def _deviations(
    layout: Layout, vectors: np.ndarray, rows: pd.DataFrame, factors: Sequence[str], mean: Callable
) -> dict:
    """Mean absolute deviation, nats per token, of each factor that has rows, by every vector [R, K]."""
    deviations = {}
    for factor in factors:
        own = rows[rows["factor"] == factor]
        if len(own):
            points = to_fit_points(own)
            deviations[factor] = mean(np.abs(predictions(layout, points, vectors) - points.loss))
    return deviations


def _mean(gaps: np.ndarray) -> float:
    return float(gaps.mean())


def _recentred(draws: np.ndarray, observed: float) -> np.ndarray:
    """Draws [R] of an error about the observed one, as ratios: a law that is drawn anew misses what was held out by its
    own luck and by that of the fitted law, and so by more than the fitted law does.
    """
    median = float(np.median(draws))
    return draws * (observed / median) if median > 0 else draws


def _resampled_mean(gaps: np.ndarray) -> np.ndarray:
    """The mean of each row of gaps [R, P] over points drawn anew, which carries the points' own luck."""
    drawn = np.random.default_rng(0).integers(gaps.shape[1], size=gaps.shape)
    return np.take_along_axis(gaps, drawn, axis=1).mean(axis=1)
