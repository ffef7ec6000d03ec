"""The loss of one task and method over model size, PET size and finetuning examples, by every bootstrap draw.

The joint laws hold the model at the default PET size, and PET size at one model. Together, P0 being the default:

    multiplicative   L(N, P, D) = E + (L_model(N, D) - E) * (P / P0)^-alpha_pet
    additive         L(N, P, D) = L_model(N, D) + A_pet * (P^-alpha_pet - P0^-alpha_pet)

both of which give L_model at P0, and the slope that was measured at the one model. That this slope holds on other
models is an assumption; points with PET sizes on several models would be needed to check it.

Beyond the fitted range a law can be wrong in a way that no resample of the points shows. So every draw is bent there by
its own luck: a normal one of standard deviation s times the distance, in units of the range's width in logarithms, once
for sizes and once for examples. s is the largest mean deviation of the law from a level that was left out of the fit,
or from the held-out points.
"""

from dataclasses import dataclass

import numpy as np

from finetune_scaling.scaling.fitting.staged_fit import StagedFit
from finetune_scaling.scaling.guidance.pet import PetDefault
from finetune_scaling.scaling.laws.declared import of_factor, predict
from finetune_scaling.scaling.laws.joint import ADDITIVE

Range = tuple[float, float]


@dataclass(frozen=True)
class Surface:
    """One fitted law as a function of size, PET size and examples.

    sizes, examples, pets: least and greatest fitted value of each, pets None where no PET size was fitted; allowance: s
    above, in nats; bends [2, R]: the luck of each draw beyond the sizes and beyond the examples, of mean 0 and standard
    deviation 1.
    """

    fit: StagedFit
    pet: PetDefault
    sizes: Range
    examples: Range
    pets: Range | None
    allowance: float
    bends: np.ndarray

    @property
    def method(self) -> str:
        """The tuning method."""
        return self.fit.method

    def draws(self, size: float, pet: float | None, examples: float) -> np.ndarray:
        """Loss [R] by every bootstrap draw, bent beyond the fitted range."""
        beyond = np.array([distance(size, self.sizes), distance(examples, self.examples)])
        return self._loss(self.fit.draws, size, pet, examples) + self.allowance * (beyond @ self.bends)

    def point(self, size: float, pet: float | None, examples: float) -> float:
        """Loss by the fit itself."""
        return float(self._loss(self.fit.vector[None], size, pet, examples)[0])

    def beyond(self, size: float, pet: float | None, examples: float) -> list[str]:
        """Which of the quantities lie outside the fitted range, in words."""
        asked = [("model sizes", size, self.sizes), ("numbers of examples", examples, self.examples)]
        if pet is not None and self.pets is not None:
            asked.append(("PET sizes", pet, self.pets))
        return [f"{what} {low:,.0f} to {high:,.0f}" for what, x, (low, high) in asked if distance(x, (low, high))]

    def noise(self) -> float:
        """Standard deviation of one new run about the law, in nats: between seeds, settings and levels."""
        scatter = self.fit.components
        lucks = (luck.standard_deviation for luck in scatter.levels if luck is not None)
        return float(np.sqrt((scatter.seed or 0.0) ** 2 + scatter.setting**2 + sum(luck**2 for luck in lucks)))

    def _loss(self, vectors: np.ndarray, size: float, pet: float | None, examples: float) -> np.ndarray:
        natural = self.fit.layout.to_natural(vectors)
        loss = predict(self.fit.law, of_factor(natural, "model"), {"X": size, "D": examples})
        if pet is None or pet == self.pet.size:
            return loss
        of_pet = of_factor(natural, "pet")
        here, default = (predict(self.fit.law, of_pet, {"X": p, "D": examples}) for p in (pet, self.pet.size))
        if self.fit.law.name == ADDITIVE.name:
            return loss + here - default
        offset = natural["E"]
        return offset + (loss - offset) * (here - offset) / (default - offset)


def surface(fit: StagedFit, pet: PetDefault, sizes: Range, examples: Range, pets: Range | None) -> Surface:
    """The surface of a fit that has the factor model."""
    held_out = [*fit.errors["held_out"].values(), 0.0]
    allowance = float(max(np.max(fit.left_out, initial=0.0), *held_out))
    return Surface(fit, pet, sizes, examples, pets, allowance, _bends(len(fit.draws), fit.resampling.seed))


def distance(value: float, measured: Range) -> float:
    """How far a value lies beyond a range, in units of the range's width in logarithms; 0 inside."""
    low, high = measured
    outside = max(np.log(low / value), np.log(value / high), 0.0)
    return float(outside / np.log(high / low)) if outside > 1e-9 else 0.0


def _bends(draws: int, seed: int) -> np.ndarray:
    lucks = np.random.default_rng([seed, 1]).normal(size=(2, draws))
    lucks -= lucks.mean(axis=1, keepdims=True)
    return lucks / lucks.std(axis=1, keepdims=True)
