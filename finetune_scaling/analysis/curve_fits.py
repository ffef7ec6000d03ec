"""Fits of the law L = A / D^beta + E to every curve of one factor value over the number of finetuning examples."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from finetune_scaling.laws.fitting.fitted_law import FittedLaw
from finetune_scaling.laws.fitting.huber_fit import FitBatch, FitPoints, FitProblem, FitSettings, multistart_fit
from finetune_scaling.laws.fitting.replicate_refits import refit_replicates
from finetune_scaling.laws.forms.declared import ParameterLayout, predict
from finetune_scaling.laws.forms.library import SINGLE
from finetune_scaling.laws.points.columns import FACTORS
from finetune_scaling.laws.uncertainty.intervals import Interval

# Bootstrap replicates of each curve: a hundred curves take the time of one joint law's bootstrap.
RESAMPLES = 100


@dataclass(frozen=True, kw_only=True)
class CurveFit(FittedLaw):
    """The curve at one factor value of one task and method; errors are mean absolute deviations in nats."""

    task: str
    method: str
    factor: str
    x: float
    fitted_error: float
    held_out_error: float | None

    @property
    def shows_scatter(self) -> bool:
        """Whether there are more points than parameters, so that residuals estimate the noise."""
        return self.points > len(self.parameters)

    def interval(self, name: str) -> Interval:
        """Return a parameter's 90 % interval, open where the points show no scatter."""
        return super().interval(name) if self.shows_scatter else Interval(None, None)


def fit_curves(rows: pd.DataFrame, settings: FitSettings) -> list[CurveFit]:
    """Fit every curve that has as many points to fit as the law has parameters.

    rows: PointsTable.settings of one task and method. The bootstrap is parametric: normal residuals with each curve's
    own variance, whose degrees of freedom are its points less three.
    """
    rows = rows[rows["factor"].isin(FACTORS)]
    curves = rows[~rows["held_out"]].pivot_table(index=["factor", "x"], columns="finetune_examples", values="loss")
    curves = curves[curves.notna().sum(axis=1) >= len(SINGLE.parameters)]
    if curves.empty:
        return []
    layout, values = ParameterLayout(SINGLE), curves.to_numpy(float)
    weights, losses = np.isfinite(values).astype(float), np.where(np.isfinite(values), values, 1.0)
    problem = FitProblem(layout, FitPoints({"D": curves.columns.to_numpy(float)}, losses[0]), settings)
    batch = problem.batch(weights, losses)
    vectors, objectives = multistart_fit(batch)
    replicates = _replicates(batch, vectors)
    return [
        _curve_fit(rows[(rows["factor"] == factor) & (rows["x"] == x)], layout, vector, refits, float(objective))
        for (factor, x), vector, refits, objective in zip(curves.index, vectors, replicates, objectives, strict=True)
    ]


def _replicates(batch: FitBatch, vectors: np.ndarray) -> np.ndarray:
    """Return refits [G, R, K] of every curve to simulated losses."""
    predicted = batch.problem.predictions(vectors)
    degrees = np.maximum(1, batch.weights.sum(axis=1) - vectors.shape[1])
    scatter = np.sqrt((batch.weights * (batch.losses - predicted) ** 2).sum(axis=1) / degrees)
    noise = np.random.default_rng(0).normal(size=(len(vectors), RESAMPLES, predicted.shape[1]))
    simulated = np.maximum(predicted[:, None] + scatter[:, None, None] * noise, 1e-3)
    replicated = replace(batch.repeated(RESAMPLES), losses=simulated.reshape(-1, simulated.shape[2]))
    refits, _ = refit_replicates(replicated, np.repeat(vectors, RESAMPLES, axis=0), float(scatter.max()))
    return refits.reshape(len(vectors), RESAMPLES, -1)


def _curve_fit(
    rows: pd.DataFrame, layout: ParameterLayout, vector: np.ndarray, replicates: np.ndarray, objective: float
) -> CurveFit:
    examples, loss = rows["finetune_examples"].to_numpy(float), rows["loss"].to_numpy(float)
    held_out, first = rows["held_out"].to_numpy(bool), rows.iloc[0]
    predicted = predict(SINGLE, layout.to_natural(vector), {"D": examples})
    errors = np.abs(predicted - loss)
    return CurveFit(
        task=first["task"],
        method=first["method"],
        factor=first["factor"],
        x=float(first["x"]),
        layout=layout,
        vector=vector,
        replicates=replicates,
        objective=objective,
        log_rmse=float(np.sqrt(np.mean(np.log(predicted / loss)[~held_out] ** 2))),
        min_response=float(loss.min()),
        points=int((~held_out).sum()),
        fitted_error=float(errors[~held_out].mean()),
        held_out_error=float(errors[held_out].mean()) if held_out.any() else None,
    )
