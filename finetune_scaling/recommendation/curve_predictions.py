"""Predicted loss over dataset size alone: the single law at every measured model size and PET size.

It is used for a method whose points do not determine a joint law, such as a study of one model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from finetune_scaling.analysis.curve_fits import CurveFit, fit_curves
from finetune_scaling.laws.fitting.huber_fit import FitSettings
from finetune_scaling.laws.forms.library import SINGLE
from finetune_scaling.recommendation.loss_predictions import LossPredictor, deviates, value_range
from finetune_scaling.recommendation.pet_defaults import PetDefault

Key = tuple[float | None, float | None]  # model size and PET size


@dataclass(frozen=True, kw_only=True)
class CurvePredictor(LossPredictor):
    """The single law of one task and method at each (model size, PET size) that has enough dataset sizes."""

    curves: Mapping[Key, CurveFit]

    @property
    def limitations(self) -> Sequence[str]:
        """Why the curves do not suffice: they do not fit, or they have no more points than parameters."""
        if any(not fit.fits_well for fit in self.curves.values()):
            worst = max(fit.log_rmse for fit in self.curves.values())
            return (f"the {self.law} law does not fit {self.method} (relative error {worst:.0%})",)
        count = min(fit.points for fit in self.curves.values())
        if all(fit.shows_scatter for fit in self.curves.values()):
            return ()
        needed = len(SINGLE.parameters)
        return (
            f"the {self.law} law of {self.method} has {count} points for {needed} parameters, so its error is unknown; "
            "add a dataset size",
        )

    def covers(self, size: float, pet: float | None) -> bool:
        """Return whether a curve was fitted at this model size and PET size."""
        return (size, pet) in self.curves

    def why_poorly_determined(self, name: str) -> str:
        """Return why the curve's exponent is poorly determined: its points show no scatter."""
        scatter = all(fit.shows_scatter for fit in self.curves.values())
        return "" if scatter else "its curve has as many parameters as points"

    def _predict(self, size: float, pet: float | None, examples: float) -> tuple[float, np.ndarray]:
        fit = self.curves[size, pet]
        estimate = float(fit.predict({"D": examples}))
        if not fit.shows_scatter:
            return estimate, np.full(len(fit.replicates), estimate)
        return estimate, fit.predict_replicates({"D": examples})


def curve_predictor(rows: pd.DataFrame, pet: PetDefault, settings: FitSettings) -> CurvePredictor | None:
    """Return the predictor of one task and method; None where no curve has as many points as parameters."""
    key_of = {"model": lambda x: (x, pet.size), "pet": lambda x: (pet.base, x)}
    fits = [fit for fit in fit_curves(rows, settings) if fit.factor in key_of]
    curves = {key_of[fit.factor](fit.x): fit for fit in sorted(fits, key=lambda fit: fit.factor, reverse=True)}
    if not curves:
        return None
    fitted = rows[~rows["held_out"] & rows["factor"].isin(key_of)]
    ranges = {"examples": value_range(fitted["finetune_examples"])}
    first = next(iter(curves.values()))
    return CurvePredictor(
        method=first.method,
        law=SINGLE.name,
        pet=pet,
        curves=curves,
        ranges=ranges,
        extrapolation_sd={"examples": max(max(fit.fitted_error, fit.held_out_error or 0.0) for fit in fits)},
        deviates=deviates(len(first.replicates), ranges, 0),
        noise=max(map(_scatter, curves.values())),
    )


def _scatter(fit: CurveFit) -> float:
    """Return the standard deviation around a curve, from its mean absolute error, as if normal."""
    degrees = max(1, fit.points - len(SINGLE.parameters))
    return float(np.sqrt(np.pi / 2) * fit.fitted_error * np.sqrt(fit.points / degrees))
