"""A law fitted to points: estimates, bootstrap intervals, predictions, and which parameters are well determined."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from finetune_scaling.files import finite_or_none
from finetune_scaling.laws.forms.declared import Law, Parameter, ParameterLayout, factor_parameters, predict
from finetune_scaling.laws.uncertainty.intervals import (
    Interval,
    half_width,
    largest_half_width,
    parameter_interval,
)

# A law whose log_rmse is larger does not fit its points, so no estimates are reported.
MAX_LOG_RMSE = 0.05
# Two parameters with a higher correlation over the replicates are not determined separately.
STRONG_CORRELATION = 0.9
ZERO = "it is not distinguishable from zero"
WIDE = "its interval is wide"


@dataclass(frozen=True, kw_only=True)
class FittedLaw:
    """A law fitted to points.

    vector [K]: the fitted entries, in the order of layout.names; replicates [R, K]: refits to bootstrap replicates;
    objective: sum of Huber losses; log_rmse: root mean square of log prediction - log response over the fitted points;
    min_response: of these points; points: how many were fitted; factors: groups of the layout whose parameters were
    fitted; fixed: parameters that were not fitted; reasons: name -> why a parameter is poorly determined whatever its
    interval.
    """

    layout: ParameterLayout
    vector: np.ndarray
    replicates: np.ndarray
    objective: float
    log_rmse: float
    min_response: float
    points: int
    factors: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)

    @property
    def law(self) -> Law:
        """The law that was fitted."""
        return self.layout.law

    @property
    def parameters(self) -> dict[str, float]:
        """Estimates in natural units, by name."""
        natural = self.layout.to_natural(self.vector)
        return {name: value for name, value in natural.items() if self._is_fitted(name)}

    @property
    def replicate_parameters(self) -> dict[str, np.ndarray]:
        """Every parameter [R] of every bootstrap replicate, in natural units."""
        return self.layout.to_natural(self.replicates)

    @property
    def fits_well(self) -> bool:
        """Whether the law fits the points at all."""
        return self.log_rmse <= MAX_LOG_RMSE

    def predict(self, values: Mapping[str, np.ndarray | float], factor: str = "") -> np.ndarray:
        """Return the predicted response at values of the law's variables, by the parameters of one factor."""
        return predict(self.law, factor_parameters(self.parameters, factor), values)

    def predict_replicates(self, values: Mapping[str, np.ndarray | float], factor: str = "") -> np.ndarray:
        """Return the predictions [R, ...] of every bootstrap replicate at values of shape [...]."""
        shape = np.broadcast_shapes(*(np.shape(value) for value in values.values()))
        natural = self.layout.to_natural(self.replicates.reshape(-1, *(1,) * len(shape), self.replicates.shape[1]))
        return predict(self.law, factor_parameters(natural, factor), values)

    def parameter(self, name: str) -> Parameter:
        """Return the declaration of a parameter by its printed name."""
        return self.layout.slots[self.layout.names.index(name)][0]

    def interval(self, name: str) -> Interval:
        """Return the 90 % bootstrap interval of a parameter, in natural units."""
        replicates = self.replicate_parameters[name]
        return parameter_interval(self.parameter(name), self.parameters[name], replicates, self.min_response)

    def record(self, name: str) -> dict[str, Any]:
        """Return a parameter for fit.json: estimate and interval (None where not fitted), and whether determined."""
        why = self.why_poorly_determined(name)
        estimated = self.fits_well and name not in self.fixed
        interval = self.interval(name) if estimated else Interval(None, None)
        value = finite_or_none(self.parameters[name]) if estimated else None
        return {"value": value, "low": interval.low, "high": interval.high, "identified": not why, "why": why}

    def is_well_determined(self, name: str) -> bool:
        """Return whether the points determine the parameter within the stated margins."""
        return not self.why_poorly_determined(name)

    def why_poorly_determined(self, name: str) -> str:
        """Return why the points determine a parameter poorly; empty where they determine it well."""
        if not self.fits_well:
            return f"the law does not fit these points (relative error {self.log_rmse:.0%})"
        if name in self.reasons:
            return self.reasons[name]
        if self._is_near_zero(name):
            return ZERO + self._correlated_with(name)
        if self.is_wide(name, self.interval(name)):
            return WIDE + self._correlated_with(name)
        offsets = [other for other in self.parameters if self._is_near_zero(other)]
        if text := self._strong_correlation(name, offsets):
            return f"{text}, which is not distinguishable from zero: that bound, and not the points, ends its interval"
        return ""

    def is_wide(self, name: str, interval: Interval) -> bool:
        """Return whether an interval of a parameter is too wide for the parameter to be well determined."""
        parameter = self.parameter(name)
        return half_width(parameter, interval) > largest_half_width(parameter, self.parameters[name])

    def _is_fitted(self, name: str) -> bool:
        """Return whether the parameter is shared, or belongs to a factor that was fitted."""
        group = name.partition("_")[2]
        return not group or group in self.factors

    def _is_near_zero(self, name: str) -> bool:
        """Return whether an offset is not distinguishable from zero."""
        interval = self.interval(name)
        return self.parameter(name).is_offset and interval.low is None and interval.high is not None

    def _correlated_with(self, name: str) -> str:
        """Return the parameter with which this one is strongly correlated, as the end of a sentence."""
        group = name.partition("_")[2]
        others = [n for n in self.parameters if n != name and not (group and n.endswith(f"_{group}"))]
        text = self._strong_correlation(name, others)
        return f": {text}" if text else ""

    def _strong_correlation(self, name: str, others: Sequence[str]) -> str:
        """Return the strongest correlation with other parameters, as the end of a sentence; empty if all are weak."""
        own, largest, best = self._fitted_replicates(name), 0.0, ""
        for other in others:
            replicates = self._fitted_replicates(other)
            if np.ptp(own) > 0 and np.ptp(replicates) > 0:
                largest, best = max((largest, best), (abs(float(np.corrcoef(own, replicates)[0, 1])), other))
        if largest < STRONG_CORRELATION:
            return ""
        return f"it is strongly correlated with {best.replace('_', ' ')} ({largest:.2f} over the bootstrap)"

    def _fitted_replicates(self, name: str) -> np.ndarray:
        """Return replicates [R] on the fitted scale; offsets in natural units, as their logarithm diverges at zero."""
        if self.parameter(name).is_offset:
            return self.replicate_parameters[name]
        return self.replicates[:, self.layout.names.index(name)]


def mean_errors(predicted: np.ndarray, rows: pd.DataFrame, response: str = "loss") -> dict[str, float]:
    """Return the mean absolute error on fitted and on held-out rows, without a kind that has no rows."""
    deviation = (rows[response] - predicted).abs()
    means = deviation.groupby(rows["held_out"]).mean()
    return {kind: float(means[flag]) for kind, flag in (("fitted", False), ("held_out", True)) if flag in means}
