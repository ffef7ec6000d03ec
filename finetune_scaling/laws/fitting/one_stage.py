"""One law fitted to arrays: its factors, and the loss or metric that it describes."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from finetune_scaling.errors import DataError
from finetune_scaling.laws.fitting.huber_fit import FitPoints, FitSettings, multistart_fit, predictions, scatter_about
from finetune_scaling.laws.fitting.joint_fit import DESCRIBES
from finetune_scaling.laws.fitting.replicate_refits import refit_replicates
from finetune_scaling.laws.forms.declared import Law, Layout, Parameter, predict
from finetune_scaling.laws.uncertainty.bootstrap import Measured, Resampling, resample
from finetune_scaling.laws.uncertainty.intervals import (
    Interval,
    correlations,
    describe_correlation,
    half_width,
    largest_half_width,
    parameter_interval,
)
from finetune_scaling.laws.uncertainty.jackknife import leave_out_weights
from finetune_scaling.laws.uncertainty.variance_components import variance_components

# Blocks that are left out in turn; their members are drawn by a fixed seed.
BLOCKS = 20


@dataclass(frozen=True)
class LawFit:
    """A fitted law.

    vector [K], replicates [R, K]: as in layout.names; objective: sum of Huber losses; misfit: root mean square of log
    prediction - log response over the points, deviation: mean absolute one; left_out [W]: the same on each block of
    points left out in turn; least_response: of the points; count: of them; fixed: parameters that were
    not fitted, since their factor has one value; reasons: name -> why the points cannot tell it whatever its interval.
    """

    layout: Layout
    vector: np.ndarray
    replicates: np.ndarray
    objective: float
    misfit: float
    deviation: float
    left_out: np.ndarray
    least_response: float
    count: int
    fixed: tuple[str, ...]
    reasons: Mapping[str, str] = field(default_factory=dict)

    @property
    def law(self) -> Law:
        """The law that was fitted."""
        return self.layout.law

    @property
    def parameters(self) -> dict[str, float]:
        """Printed values."""
        return self.layout.to_natural(self.vector)

    @property
    def describes(self) -> bool:
        """Whether the law follows the points at all."""
        return self.misfit <= DESCRIBES

    def predict(self, factors: Mapping[str, np.ndarray | float]) -> np.ndarray:
        """What the law says at factors, in printed units."""
        return predict(self.law, self.parameters, factors)

    def predict_replicates(self, factors: Mapping[str, np.ndarray | float]) -> np.ndarray:
        """The same by every bootstrap draw: factors of shape [...] -> [R, ...]."""
        shape = np.broadcast_shapes(*(np.shape(values) for values in factors.values()))
        draws = self.replicates.reshape(-1, *(1,) * len(shape), self.replicates.shape[1])
        return predict(self.law, self.layout.to_natural(draws), factors)

    def interval(self, name: str) -> Interval:
        """The 90 % bootstrap interval of a parameter, in its printed unit."""
        return parameter_interval(
            self._parameter(name),
            self.parameters[name],
            self.layout.to_natural(self.replicates)[name],
            self.least_response,
        )

    def standard_error(self, name: str) -> float:
        """The standard deviation of a parameter over the draws, in its printed unit."""
        return float(np.std(self.layout.to_natural(self.replicates)[name], ddof=1))

    def why_poorly_determined(self, name: str) -> str:
        """Why the points do not hold a parameter, in words; empty where they do."""
        if not self.describes:
            return f"the law does not describe these points (it misses them by {self.misfit:.0%})"
        if name in self.fixed:
            return "its factor has one value"
        if name in self.reasons:
            return self.reasons[name]
        if self._vanishes(name):
            return "it is not told from zero"
        if half_width(self._parameter(name), self.interval(name)) > largest_half_width(
            self._parameter(name), self.parameters[name]
        ):
            return "its interval is wide"
        drawn = self.layout.to_natural(self.replicates)
        vanishing = {other: drawn[other] for other in self.layout.names if self._vanishes(other)}
        column = drawn[name] if name in vanishing else self.replicates[:, self.layout.names.index(name)]
        if leaning := describe_correlation(correlations(column, vanishing)):
            return f"{leaning}, which is not told from zero: the interval ends where that is zero"
        return ""

    def _parameter(self, name: str) -> Parameter:
        return self.law.parameters[self.layout.names.index(name)]

    def _vanishes(self, name: str) -> bool:
        """Whether an offset is not told from zero."""
        interval = self.interval(name)
        return self._parameter(name).is_offset and interval.low is None and interval.high is not None


def fit_law(
    law: Law,
    factors: Mapping[str, np.ndarray],
    response: np.ndarray,
    settings: FitSettings | None = None,
    resampling: Resampling | None = None,
    *,
    fixed: Mapping[str, float] | None = None,
    pad_to: int = 0,
) -> LawFit:
    """Fits a law to points: factors by name and response, [P] each, in printed units.

    resampling: by default settings are drawn with replacement; fixed: parameters to leave at a printed value; pad_to:
    number of points that programs are compiled for at least. Raises DataError where there are fewer points than
    parameters.
    """
    settings, how = settings or FitSettings(), resampling or Resampling("settings")
    layout, fixed = Layout(law), fixed or {}
    free = np.array([name not in fixed for name in layout.names])
    if len(response) < free.sum():
        raise DataError(
            f"{len(response)} points to fit, the {law.name} law has {int(free.sum())} parameters; add points"
        )
    logs = {name: np.log(np.asarray(factors[name], float)) for name in law.factors}
    points = FitPoints(logs, np.asarray(response, float), np.zeros(len(response), int), pad_to)
    by_name = {p.name: p for p in law.parameters}
    starts = layout.starts({name: float(by_name[name].to_moved(value)) for name, value in fixed.items()})
    vectors, objectives = multistart_fit(layout, points, np.ones((1, len(response))), starts, free, settings)
    predicted, seeds = predictions(layout, points, vectors[0]), np.ones(len(response))
    scatter = variance_components(points.loss - predicted, np.full(len(response), np.nan), seeds, (), int(free.sum()))
    residual = scatter_about(layout, points, vectors[0], settings)
    again = functools.partial(refit_replicates, layout, points, free=free, settings=settings, scatter=residual)
    weights, losses = resample(Measured(predicted, points.loss, seeds, ()), scatter, how)
    draws, _ = again(weights, np.tile(vectors[0], (len(weights), 1)), losses=losses)
    levels, _ = leave_out_weights([_blocks(len(response))])
    refits, _ = again(levels, np.tile(vectors[0], (len(levels), 1)))
    gaps = np.log(predicted / points.loss)
    return LawFit(
        layout=layout,
        vector=vectors[0],
        replicates=draws,
        objective=float(objectives[0]),
        misfit=float(np.sqrt(np.mean(gaps**2))),
        deviation=float(np.mean(np.abs(gaps))),
        left_out=_left_out(layout, points, levels, refits),
        least_response=float(points.loss.min()),
        count=len(response),
        fixed=tuple(fixed),
    )


def _blocks(count: int) -> np.ndarray:
    """A label for each point, in as equal random blocks as can be."""
    return np.random.default_rng(0).permutation(count) % min(BLOCKS, count)


def _left_out(layout: Layout, points: FitPoints, levels: np.ndarray, refits: np.ndarray) -> np.ndarray:
    """Mean absolute deviation of logarithms of each refit [W] from the points that it left out."""
    gaps = np.abs(np.log(predictions(layout, points, refits) / points.loss))
    return np.array([gap[level == 0].mean() for gap, level in zip(gaps, levels, strict=True)])
