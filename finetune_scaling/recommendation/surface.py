"""The loss of one task and method over model size, PET size and finetuning examples, by every bootstrap draw.

The joint laws hold the model at the default PET size, and PET size at one model. Together, P0 being the default:

    multiplicative   L(N, P, D) = E + (L_model(N, D) - E) * (P / P0)^-alpha_pet
    additive         L(N, P, D) = L_model(N, D) + A_pet * (P^-alpha_pet - P0^-alpha_pet)

both of which give L_model at P0, and the slope that was measured at the one model. That this slope holds on other
models is an assumption; points with PET sizes on several models would be needed to check it.

Beyond the fitted range a law can be wrong in a way that no resample of the points shows. So every draw is bent there by
its own luck: a normal one of standard deviation s times the distance, in units of the range's width in logarithms, once
for sizes, once for examples and once for PET sizes. Each has its own s: the largest mean deviation of the law from one
of its levels that was left out of the fit, or from the held-out points.

Some refits to resamples run off along a flat valley to losses that nobody would believe, and a mean would be theirs
alone. So draws are kept within WILD times half the 90 % interval about their median; of normal draws that touches none.
Nor is any draw above MOST_NATS, which is more than guessing costs: a power law knows no such end.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from finetune_scaling.laws.fitting.joint_fit import JointFit
from finetune_scaling.laws.forms.declared import factor_parameters, predict
from finetune_scaling.laws.forms.joint import ADDITIVE
from finetune_scaling.laws.points.cells import MOST_NATS
from finetune_scaling.laws.uncertainty.variance_components import VarianceComponents
from finetune_scaling.recommendation.pet import PetDefault

Range = tuple[float, float]
WILD = 3.0


@dataclass(frozen=True)
class Surface:
    """One fitted law as a function of size, PET size and examples.

    ranges: least and greatest fitted value of model, examples, and pet where PET sizes were fitted; allowances: s of
    each, in nats; bends: name -> luck of each draw [R] beyond it, of mean 0 and standard deviation 1; noise: standard
    deviation of one new run about the law, in nats.
    """

    fit: JointFit
    pet: PetDefault
    ranges: Mapping[str, Range]
    allowances: Mapping[str, float]
    bends: Mapping[str, np.ndarray]
    noise: float

    @property
    def method(self) -> str:
        """The tuning method."""
        return self.fit.method

    def draws(self, size: float, pet: float | None, examples: float) -> np.ndarray:
        """Loss [R] by every bootstrap draw, bent beyond the fitted range."""
        found = within_reach(self._loss(self.fit.replicates, size, pet, examples))
        for name, beyond in self.beyond(size, pet, examples).items():
            found = found + beyond * self.allowances[name] * self.bends[name]
        return found

    def beyond(self, size: float, pet: float | None, examples: float) -> dict[str, float]:
        """Which of model, examples and pet lie outside the fitted range, and how far, in widths of the range."""
        asked = {"model": size, "examples": examples, "pet": pet}
        far = {name: distance(x, self.ranges[name]) for name, x in asked.items() if x and name in self.ranges}
        return {name: beyond for name, beyond in far.items() if beyond}

    def _loss(self, vectors: np.ndarray, size: float, pet: float | None, examples: float) -> np.ndarray:
        natural = self.fit.layout.to_natural(vectors)
        loss = predict(self.fit.law, factor_parameters(natural, "model"), {"X": size, "D": examples})
        if pet is None or pet == self.pet.size:
            return loss
        of_pet = factor_parameters(natural, "pet")
        here, default = (predict(self.fit.law, of_pet, {"X": p, "D": examples}) for p in (pet, self.pet.size))
        if self.fit.law.name == ADDITIVE.name:
            return loss + here - default
        offset = natural["E"]
        return offset + (loss - offset) * (here - offset) / (default - offset)


def surface(fit: JointFit, rows: pd.DataFrame, pet: PetDefault) -> Surface:
    """The surface of a fit that has the factor model; rows: settings of its task and method."""
    fitted = rows[~rows["held_out"] & rows["factor"].isin(fit.factors)]
    of_model, of_pet = fitted[fitted["factor"] == "model"], fitted[fitted["factor"] == "pet"]
    ranges = {"model": _range(of_model["x"]), "examples": _range(of_model["finetune_examples"])}
    if len(of_pet):
        ranges["pet"] = _range(of_pet["x"])
    factors = list(fitted["factor"].unique())
    return Surface(
        fit=fit,
        pet=pet,
        ranges=ranges,
        allowances={name: _allowance(fit, name, ["examples", *factors]) for name in ranges},
        bends={name: _bend(len(fit.replicates), [fit.resampling.seed, i]) for i, name in enumerate(ranges)},
        noise=_noise(fit.components, ["examples", *factors]),
    )


def _allowance(fit: JointFit, name: str, families: Sequence[str]) -> float:
    """Largest mean deviation from a level left out, or from held-out points; families: in the order of fit.families."""
    left_out = fit.left_out[fit.families[families.index(name)]]
    factors = ("model", "pet") if name == "examples" else (name,)
    held_out = [fit.errors["held_out"].get(factor, 0.0) for factor in factors]
    return float(max(np.max(left_out, initial=0.0), *held_out))


def within_reach(draws: np.ndarray) -> np.ndarray:
    """Draws [R] with those that ran off taken back to WILD half intervals of the median, and to MOST_NATS."""
    draws = np.minimum(np.nan_to_num(draws, nan=np.inf, posinf=np.inf), MOST_NATS)
    low, middle, high = np.quantile(draws, [0.05, 0.5, 0.95], method="closest_observation")
    reach = WILD * (high - low) / 2
    return np.clip(draws, middle - reach, middle + reach)


def distance(value: float, measured: Range) -> float:
    """How far a value lies beyond a range, in units of the range's width in logarithms; 0 inside.

    Of a range of one value the width is taken as a factor of two: nothing beyond it was measured at all.
    """
    low, high = measured
    outside = max(np.log(low / value), np.log(value / high), 0.0)
    width = np.log(high / low) if high > low else np.log(2.0)
    return float(outside / width) if outside > 1e-9 else 0.0


def _noise(scatter: VarianceComponents, families: Sequence[str]) -> float:
    """Of one run on the model grid: between seeds, between settings, and the lucks of its size and its examples.

    families: in the order of scatter.levels.
    """
    lucks = dict(zip(families, scatter.levels, strict=True))
    squares = sum(luck.standard_deviation**2 for name, luck in lucks.items() if luck and name in ("examples", "model"))
    return float(np.sqrt((scatter.seed or 0.0) ** 2 + scatter.setting**2 + squares))


def _range(values: pd.Series) -> Range:
    return float(values.min()), float(values.max())


def _bend(draws: int, seed: Sequence[int]) -> np.ndarray:
    luck = np.random.default_rng(seed).normal(size=draws)
    return (luck - luck.mean()) / luck.std()
