"""Predicted loss of one task and method over model size, PET size and dataset size, by every bootstrap replicate.

The joint laws cover model size at the default PET size P0, and PET size on one model. They are combined as

    multiplicative   L(N, P, D) = E + (L_model(N, D) - E) * (P / P0)^-alpha_pet
    additive         L(N, P, D) = L_model(N, D) + A_pet * (P^-alpha_pet - P0^-alpha_pet)

Both reduce to L_model at P0 and have the measured slope in P on the one model. That other models have the same slope is
an assumption; it could be checked with PET sizes on several models.

Outside the fitted range a law may be wrong in a way that no bootstrap replicate shows. There each replicate gets a
normal deviation of standard deviation s times the distance (in widths of the range, in logarithms), independently for
model sizes, dataset sizes and PET sizes. s is the largest mean error of the law on a left-out factor level or on the
held-out points.

Refits that diverge along a flat valley would dominate the mean. So replicates are clipped to OUTLIER times half the
90 % interval around their median, which no normal sample reaches, and to MAX_LOSS.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from finetune_scaling.laws.fitting.joint_fit import JointFit
from finetune_scaling.laws.forms.declared import factor_parameters, predict
from finetune_scaling.laws.forms.library import ADDITIVE
from finetune_scaling.laws.points.cells import MAX_LOSS
from finetune_scaling.laws.uncertainty.intervals import QUANTILES
from finetune_scaling.laws.uncertainty.variance_components import RandomEffect, VarianceComponents
from finetune_scaling.recommendation.pet_defaults import PetDefault

Range = tuple[float, float]
OUTLIER = 3.0
EXPONENTS = {"examples": "beta", "model": "alpha_model", "pet": "alpha_pet"}  # of the ranges


@dataclass(frozen=True, kw_only=True)
class LossPredictor(ABC):
    """The loss of one task and method as a function of model size, PET size and dataset size.

    law: name of the law; pet: the PET size of the points over model size; ranges: fitted range of model, examples and
    pet, without those that were not varied; extrapolation_sd: the s of each range (nats per token); deviates:
    standardized normal deviate of each replicate [R], per range; noise: standard deviation of one new run around the
    law (nats per token).
    """

    method: str
    law: str
    pet: PetDefault
    ranges: Mapping[str, Range]
    extrapolation_sd: Mapping[str, float]
    deviates: Mapping[str, np.ndarray]
    noise: float

    @property
    @abstractmethod
    def limitations(self) -> Sequence[str]:
        """Why its predictions do not suffice for a choice, wherever they are made."""

    @abstractmethod
    def covers(self, size: float, pet: float | None) -> bool:
        """Return whether the law predicts a loss at this model size and PET size."""

    @abstractmethod
    def why_poorly_determined(self, name: str) -> str:
        """Return why extrapolation outside a range is not supported; empty where it is."""

    @abstractmethod
    def _predict(self, size: float, pet: float | None, examples: float) -> tuple[float, np.ndarray]:
        """Return the fitted law's loss, and the losses [R] of the bootstrap replicates."""

    def loss_replicates(self, size: float, pet: float | None, examples: float) -> np.ndarray:
        """Return the loss [R] by every bootstrap replicate, with deviations outside the fitted range.

        The mean is the fitted law's loss, which reports show, so that reports and recommendations choose alike.
        """
        loss, replicates = self._predict(size, pet, examples)
        found = clip_outliers(replicates)
        found = found + (min(loss, MAX_LOSS) - found.mean())
        for name, distance in self.outside(size, pet, examples).items():
            found = found + distance * self.extrapolation_sd[name] * self.deviates[name]
        return found

    def outside(self, size: float, pet: float | None, examples: float) -> dict[str, float]:
        """Return the distance of model, examples and pet from the fitted range, where it is above zero."""
        values = {"model": size, "examples": examples, "pet": pet}
        found = {name: range_distance(x, self.ranges[name]) for name, x in values.items() if x and name in self.ranges}
        return {name: distance for name, distance in found.items() if distance}


@dataclass(frozen=True, kw_only=True)
class JointPredictor(LossPredictor):
    """A joint law over model size and dataset size, and over PET size where it was varied."""

    fit: JointFit

    @property
    def limitations(self) -> Sequence[str]:
        """Why the law describes none of its points."""
        lack = f"the {self.law} law does not fit {self.method} (relative error {self.fit.log_rmse:.0%})"
        return () if self.fit.fits_well else (lack,)

    def covers(self, size: float, pet: float | None) -> bool:
        """Return True: a joint law predicts every size."""
        return True

    def why_poorly_determined(self, name: str) -> str:
        """Return why the exponent of a range is poorly determined."""
        reason = self.fit.reasons.get(EXPONENTS[name])
        return f"{EXPONENTS[name]} is poorly determined: {reason}" if reason else ""

    def _predict(self, size: float, pet: float | None, examples: float) -> tuple[float, np.ndarray]:
        estimate = self._loss(self.fit.parameters, size, pet, examples)
        return float(estimate), self._loss(self.fit.replicate_parameters, size, pet, examples)

    def _loss(self, natural: Mapping[str, Any], size: float, pet: float | None, examples: float) -> np.ndarray:
        loss = predict(self.fit.law, factor_parameters(natural, "model"), {"X": size, "D": examples})
        if pet is None or pet == self.pet.size:
            return loss
        law_of_pet = factor_parameters(natural, "pet")
        here, default = (predict(self.fit.law, law_of_pet, {"X": p, "D": examples}) for p in (pet, self.pet.size))
        if self.fit.law.name == ADDITIVE.name:
            return loss + here - default
        offset = natural["E"]
        return np.asarray(offset + (loss - offset) * (here - offset) / (default - offset))


def loss_predictor(fit: JointFit, rows: pd.DataFrame, pet: PetDefault) -> JointPredictor:
    """Return the predictor of a fit over model size; rows: settings of its task and method."""
    fitted = rows[~rows["held_out"] & rows["factor"].isin(fit.factors)]
    model_rows, pet_rows = fitted[fitted["factor"] == "model"], fitted[fitted["factor"] == "pet"]
    ranges = {"model": value_range(model_rows["x"]), "examples": value_range(model_rows["finetune_examples"])}
    if len(pet_rows):
        ranges["pet"] = value_range(pet_rows["x"])
    groupings = ["examples", *fitted["factor"].unique()]  # in the order of fit.groupings
    left_out = dict(zip(groupings, fit.groupings, strict=True))
    effects = dict(zip(groupings, fit.components.levels, strict=True))
    return JointPredictor(
        fit=fit,
        method=fit.method,
        law=fit.law.name,
        pet=pet,
        ranges=ranges,
        extrapolation_sd={name: _extrapolation_sd(fit, name, left_out[name]) for name in ranges},
        deviates=deviates(len(fit.replicates), ranges, fit.resampling.seed),
        noise=_noise(fit.components, (effects["examples"], effects["model"])),
    )


def _extrapolation_sd(fit: JointFit, name: str, left_out: slice) -> float:
    """Return the largest mean error on a left-out level or on held-out points."""
    factors = ("model", "pet") if name == "examples" else (name,)
    held_out = [fit.errors["held_out"].get(factor, 0.0) for factor in factors]
    return float(max(np.max(fit.left_out_errors[left_out], initial=0.0), *held_out))


def clip_outliers(replicates: np.ndarray) -> np.ndarray:
    """Clip replicates [R] to OUTLIER half intervals around the median, and to MAX_LOSS."""
    replicates = np.nan_to_num(replicates, nan=MAX_LOSS).clip(max=MAX_LOSS)
    low, middle, high = np.quantile(replicates, [QUANTILES[0], 0.5, QUANTILES[1]], method="closest_observation")
    limit = OUTLIER * (high - low) / 2
    return np.clip(replicates, middle - limit, middle + limit)


def range_distance(value: float, fitted: Range) -> float:
    """Return the distance of a value from a range in widths of the range, in logarithms; 0 inside.

    A range of a single value counts as a factor of two wide.
    """
    low, high = fitted
    outside = max(np.log(low / value), np.log(value / high), 0.0)
    width = np.log(high / low) if high > low else np.log(2.0)
    return float(outside / width) if outside > 1e-9 else 0.0


def _noise(components: VarianceComponents, effects: Sequence[RandomEffect | None]) -> float:
    """Return the standard deviation of one run over model size: seed, setting, and random effects."""
    deviations = [components.seed or 0.0, components.setting, *(e.standard_deviation for e in effects if e)]
    return float(np.linalg.norm(deviations))


def value_range(values: pd.Series) -> Range:
    """Return the smallest and the largest value."""
    return float(values.min()), float(values.max())


def deviates(count: int, ranges: Iterable[str], seed: int) -> dict[str, np.ndarray]:
    """Return a standardized normal deviate [count] for each range."""
    return {name: _standardized(np.random.default_rng([seed, i]).normal(size=count)) for i, name in enumerate(ranges)}


def _standardized(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / values.std()
