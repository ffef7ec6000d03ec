"""The single law, L = A / D^beta + E, at every value of a factor: curves over the finetuning examples alone."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from finetune_scaling.laws.fitting.huber_fit import FitPoints, FitSettings, multistart_fit, predictions
from finetune_scaling.laws.fitting.replicate_refits import refit_replicates
from finetune_scaling.laws.forms.declared import Layout, predict
from finetune_scaling.laws.forms.power import SINGLE
from finetune_scaling.laws.points.columns import FACTORS
from finetune_scaling.laws.uncertainty.intervals import Interval, parameter_interval

# Resamples of each curve: a hundred curves share the time of one law's bootstrap.
RESAMPLES = 100


@dataclass(frozen=True)
class CurveFit:
    """L = A / D^beta + E at one factor value of one task and method.

    parameters, intervals: printed values and their 90 % intervals by name; objective: sum of Huber losses;
    fitted_error, held_out_error: mean absolute deviations in nats; points: number fitted; replicates [R, K]: refits to
    drawn points, as in the law's order of parameters.
    """

    task: str
    method: str
    factor: str
    x: float
    parameters: dict[str, float]
    intervals: dict[str, Interval]
    objective: float
    fitted_error: float
    held_out_error: float | None
    points: int
    replicates: np.ndarray

    @property
    def shows_scatter(self) -> bool:
        """Whether there are more points than parameters: else the points leave no scatter to see, and no interval."""
        return self.points > len(self.parameters)

    def interval(self, name: str) -> Interval:
        """A parameter's 90 % interval; open where there is no scatter to see."""
        return self.intervals[name] if self.shows_scatter else Interval(None, None)

    def predict(self, examples: np.ndarray | float) -> np.ndarray:
        """Loss after finetuning on `examples` examples."""
        return predict(SINGLE, self.parameters, {"D": examples})

    def predict_replicates(self, examples: np.ndarray | float) -> np.ndarray:
        """The same by every draw: examples [...] -> losses [R, ...]."""
        examples = np.asarray(examples, float)
        drawn = self.replicates.reshape(-1, *(1,) * examples.ndim, self.replicates.shape[1])
        return predict(SINGLE, Layout(SINGLE).to_natural(drawn), {"D": examples})


def fit_curves(rows: pd.DataFrame, settings: FitSettings) -> list[CurveFit]:
    """Fits every factor value that has as many points to fit as the law has parameters.

    rows: PointsTable.settings of one task and method. The intervals are of a bootstrap that draws normal residuals of
    each curve's own scatter, with its points less three as degrees of freedom.
    """
    rows = rows[rows["factor"].isin(FACTORS)]
    curves = rows[~rows["held_out"]].pivot_table(index=["factor", "x"], columns="finetune_examples", values="loss")
    curves = curves[curves.notna().sum(axis=1) >= len(SINGLE.parameters)]
    if curves.empty:
        return []
    layout, values = Layout(SINGLE), curves.to_numpy(float)
    weights, losses = np.isfinite(values).astype(float), np.where(np.isfinite(values), values, 1.0)
    points = FitPoints({"D": np.log(curves.columns.to_numpy(float))}, losses[0], np.zeros(losses.shape[1], int))
    free = np.ones(len(layout.names), bool)
    vectors, objectives = multistart_fit(layout, points, weights, layout.starts(), free, settings, losses)
    draws = _draws(layout, points, weights, losses, vectors, settings)
    return [
        _single(rows[(rows["factor"] == factor) & (rows["x"] == x)], layout, vectors[i], draws[i], float(objectives[i]))
        for i, (factor, x) in enumerate(curves.index)
    ]


def _draws(
    layout: Layout,
    points: FitPoints,
    weights: np.ndarray,
    losses: np.ndarray,
    vectors: np.ndarray,
    settings: FitSettings,
) -> np.ndarray:
    """Refits of every curve to drawn losses: [G, R, K]."""
    predicted = predictions(layout, points, vectors)
    degrees = np.maximum(1, weights.sum(axis=1) - len(layout.names))
    scatter = np.sqrt((weights * (losses - predicted) ** 2).sum(axis=1) / degrees)
    noise = np.random.default_rng(0).normal(size=(len(weights), RESAMPLES, weights.shape[1]))
    drawn = np.maximum(predicted[:, None] + scatter[:, None, None] * noise, 1e-3)
    weights, starts = (np.repeat(values, RESAMPLES, axis=0) for values in (weights, vectors))
    free, flat = np.ones(len(layout.names), bool), drawn.reshape(-1, drawn.shape[2])
    refits, _ = refit_replicates(layout, points, weights, starts, free, settings, float(scatter.max()), flat)
    return refits.reshape(len(vectors), RESAMPLES, -1)


def _single(rows: pd.DataFrame, layout: Layout, vector: np.ndarray, draws: np.ndarray, objective: float) -> CurveFit:
    parameters, natural = layout.to_natural(vector), layout.to_natural(draws)
    loss, held_out, first = rows["loss"].to_numpy(float), rows["held_out"].to_numpy(bool), rows.iloc[0]
    deviation = np.abs(predict(SINGLE, parameters, {"D": rows["finetune_examples"]}) - loss)
    return CurveFit(
        task=first["task"],
        method=first["method"],
        factor=first["factor"],
        x=float(first["x"]),
        parameters=parameters,
        intervals={
            p.name: parameter_interval(p, parameters[p.name], natural[p.name], float(loss.min()))
            for p in SINGLE.parameters
        },
        objective=objective,
        fitted_error=float(deviation[~held_out].mean()),
        held_out_error=float(deviation[held_out].mean()) if held_out.any() else None,
        points=int((~held_out).sum()),
        replicates=draws,
    )
