"""The paper's two stages, per task and method (Zhang et al. 2024, section 4).

Stage 1 fits the model-size and pretraining-size points together: E and beta (and the additive law's B) are shared, A
and alpha are each factor's own. Stage 2 freezes what is shared and refits A and alpha of every factor, PET size
included.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from finetune_scaling.scaling.fitting.program import FitPoints, FitSettings, fit, refit
from finetune_scaling.scaling.laws.declared import Law, Layout, Parameter, of_factor, predict
from finetune_scaling.scaling.points.table import FACTORS
from finetune_scaling.scaling.uncertainty import jackknife
from finetune_scaling.scaling.uncertainty.bootstrap import RESAMPLES, case_weights
from finetune_scaling.scaling.uncertainty.intervals import Interval, percentiles

FIRST_STAGE_FACTORS = ("model", "pretrain")
# An exponent is called identified where its 90 % leave-out margin is below the larger of these two, a coefficient or
# offset where the margin of its logarithm is below log 2.
EXPONENT_MARGIN = 0.02
EXPONENT_RELATIVE_MARGIN = 0.25
LOG_COEFFICIENT_MARGIN = float(np.log(2))


@dataclass(frozen=True)
class StagedFit:
    """One law fitted to one task and method.

    vector [K]: as in layout.names; draws [R, K]: refits to bootstrap resamples; refits [W, K]: with one level left out,
    families: which rows left out what;
    reasons: name -> why its spread cannot be told; objective: {"stage_1", "stage_2"}; errors: {"fitted"|"held_out":
    {factor: mean absolute deviation in nats}}; points: {factor: number of settings fitted}.
    """

    task: str
    method: str
    layout: Layout
    vector: np.ndarray
    draws: np.ndarray
    refits: np.ndarray
    families: tuple[slice, ...]
    reasons: dict[str, str]
    objective: dict[str, float]
    errors: dict[str, dict[str, float]]
    points: dict[str, int]
    stage_1: tuple[str, ...]

    @property
    def law(self) -> Law:
        """The law that was fitted."""
        return self.layout.law

    @property
    def factors(self) -> tuple[str, ...]:
        """Factors that have parameters in this fit."""
        return tuple(self.points)

    @property
    def parameters(self) -> dict[str, float]:
        """Printed values of the parameters of the factors that are present."""
        return {name: value for name, value in self.layout.to_natural(self.vector).items() if self.has(name)}

    def has(self, name: str) -> bool:
        """Whether the parameter belongs to a factor that is present."""
        group = name.partition("_")[2]
        return not group or group in self.points

    def predict(self, factor: str, x: np.ndarray | float, examples: np.ndarray | float) -> np.ndarray:
        """Loss at factor value x after finetuning on `examples` examples."""
        return predict(self.law, of_factor(self.parameters, factor), {"X": x, "D": examples})

    def predict_draws(self, factor: str, x: np.ndarray | float, examples: np.ndarray | float) -> np.ndarray:
        """The same by every bootstrap draw: x and examples broadcast to [...] -> losses [R, ...]."""
        x, examples = np.broadcast_arrays(np.asarray(x, float), np.asarray(examples, float))
        columns = (-1,) + (1,) * x.ndim
        names = self.layout.names
        natural = {n: np.array([self.layout.to_natural(d)[n] for d in self.draws]).reshape(columns) for n in names}
        return predict(self.law, of_factor(natural, factor), {"X": x, "D": examples})

    def interval(self, name: str) -> Interval:
        """The 90 % bootstrap interval of a parameter, in its printed unit."""
        return percentiles(np.array([self.layout.to_natural(draw)[name] for draw in self.draws]))

    def spread(self, left: str, right: str | None = None) -> jackknife.Spread:
        """Spread of a fitted entry (log A for a coefficient), or of the difference left - right of two."""
        names = [left] if right is None else [left, right]
        columns = [self.refits[:, self.layout.names.index(name)] for name in names]
        values = columns[0] if right is None else columns[0] - columns[1]
        return jackknife.spread(values, self.families, [self.reasons[n] for n in names if n in self.reasons])

    def is_identified(self, name: str) -> bool:
        """Whether the points hold the parameter within the stated margins."""
        parameter = dict(zip(self.layout.names, (p for p, _ in self.layout.slots), strict=True))[name]
        return is_pinned(parameter, self.vector[self.layout.names.index(name)], self.spread(name))


@dataclass(frozen=True)
class Skipped:
    """A law or a factor that was not fitted, and why."""

    task: str
    method: str
    law: str
    reason: str


def is_pinned(parameter: Parameter, value: float, spread: jackknife.Spread) -> bool:
    """Whether the margin of a fitted entry (a logarithm where is_log) is within what counts as identified."""
    allowed = (
        LOG_COEFFICIENT_MARGIN if parameter.is_log else max(EXPONENT_MARGIN, EXPONENT_RELATIVE_MARGIN * abs(value))
    )
    return bool(spread.margin() <= allowed)


def fit_staged(
    law: Law, rows: pd.DataFrame, settings: FitSettings, pad_to: int = 0
) -> tuple[StagedFit | None, list[Skipped]]:
    """Fits `law` in two stages to the settings of one task and method; None where the points do not suffice.

    rows: PointsTable.settings of one task and method, held-out ones too (they enter no fit). pad_to: number of points
    to pad to, so that several calls share a compiled program.
    """
    task, method = rows["task"].iloc[0], rows["method"].iloc[0]
    layout = Layout(law, FACTORS)
    fitted = rows[rows["factor"].isin(FACTORS) & ~rows["held_out"]]
    factors, skipped = _usable_factors(fitted, law.name, task, method)
    fitted = fitted[fitted["factor"].isin(factors)]
    first = tuple(f for f in factors if f in FIRST_STAGE_FACTORS) or factors
    needed = _parameter_count(layout, first)
    available = int(fitted["factor"].isin(first).sum())
    if not factors or available < needed:
        reason = f"{available} points to fit for {needed} parameters" if factors else "no factor with two values of x"
        return None, [*skipped, Skipped(task, method, law.name, reason)]
    sizes = fitted.loc[fitted["factor"].isin(first), "finetune_examples"].nunique()
    if sizes < law.sizes_needed:  # curves without end go through these points, and differ beyond them
        numbers = "numbers" if sizes > 1 else "number"
        reason = f"{sizes} {numbers} of examples to fit, the law is determined by {law.sizes_needed}"
        return None, [*skipped, Skipped(task, method, law.name, reason)]
    staged = _fit_stages(layout, fitted, first, factors, settings, pad_to)
    errors = {
        "fitted": _deviations(staged.predict, rows[~rows["held_out"]], factors),
        "held_out": _deviations(staged.predict, rows[rows["held_out"]], factors),
    }
    return StagedFit(**{**staged.__dict__, "errors": errors}), skipped


def _usable_factors(fitted: pd.DataFrame, law: str, task: str, method: str) -> tuple[tuple[str, ...], list[Skipped]]:
    """Factors with at least two fitted values of x, and a remark on each that has one only."""
    values = fitted.groupby("factor")["x"].nunique()
    present = [factor for factor in FACTORS if factor in values.index]
    lonely = [factor for factor in present if values[factor] < 2]
    skipped = [Skipped(task, method, law, f"factor {f}: one value of x to fit, an exponent needs two") for f in lonely]
    return tuple(factor for factor in present if factor not in lonely), skipped


def _parameter_count(layout: Layout, factors: Sequence[str]) -> int:
    return sum(1 for _, group in layout.slots if not group or group in factors)


def _fit_stages(
    layout: Layout,
    fitted: pd.DataFrame,
    first: tuple[str, ...],
    factors: tuple[str, ...],
    settings: FitSettings,
    pad_to: int,
) -> StagedFit:
    points = to_fit_points(fitted).padded(max(pad_to, len(fitted)))
    present = np.zeros(len(points.loss))
    present[: len(fitted)] = 1
    in_first = present * np.isin(points.groups, [FACTORS.index(f) for f in first])
    free_1, free_2 = _free(layout, first, shared=True), _free(layout, factors, shared=False)

    vector_1, objective_1 = fit(layout, points, in_first[None], layout.starts(), free_1, settings)
    start_2 = _restart(layout, vector_1[0])
    vector_2, objective_2 = fit(layout, points, present[None], start_2, free_2, settings)

    def refitted(weights: np.ndarray) -> np.ndarray:
        weights = np.pad(weights, ((0, 0), (0, len(points.loss) - len(fitted))))
        first, _ = refit(layout, points, weights * in_first, np.tile(vector_2[0], (len(weights), 1)), free_1, settings)
        return refit(layout, points, weights * present, first, free_2, settings)[0]

    weights, families = jackknife.leave_out_weights(_levels(fitted))
    return StagedFit(
        task=fitted["task"].iloc[0],
        method=fitted["method"].iloc[0],
        layout=layout,
        vector=vector_2[0],
        draws=refitted(case_weights(len(fitted), RESAMPLES)),
        refits=refitted(weights),
        families=tuple(families),
        reasons=_untold(layout, fitted, factors),
        objective={"stage_1": float(objective_1[0]), "stage_2": float(objective_2[0])},
        errors={},
        points={factor: int((fitted["factor"] == factor).sum()) for factor in factors},
        stage_1=first,
    )


def to_fit_points(rows: pd.DataFrame) -> FitPoints:
    """Settings as the arrays that a fit takes; groups index FACTORS."""
    return FitPoints(
        log_factors={"X": np.log(rows["x"].to_numpy(float)), "D": np.log(rows["finetune_examples"].to_numpy(float))},
        loss=rows["loss"].to_numpy(float),
        groups=np.array([FACTORS.index(f) for f in rows["factor"]]),
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
                f"{sizes} finetuning sizes to fit; {layout.law.sizes_needed + 1} are needed to leave one out"
            )
        if group in factors and values[group] < 3:
            reasons[name] = f"{values[group]} values of x to fit for {group}; 3 are needed to leave one out"
    return reasons


def _deviations(
    predictor: Callable[[str, np.ndarray, np.ndarray], np.ndarray], rows: pd.DataFrame, factors: Sequence[str]
) -> dict[str, float]:
    """Mean absolute deviation, nats per token, of each factor that has rows."""
    deviations = {}
    for factor in factors:
        own = rows[rows["factor"] == factor]
        if len(own):
            predicted = predictor(factor, own["x"].to_numpy(float), own["finetune_examples"].to_numpy(float))
            deviations[factor] = float(np.mean(np.abs(predicted - own["loss"].to_numpy(float))))
    return deviations
