"""Where the scatter about a fitted law comes from: seeds, settings, and whole levels that hang together.

Runs of one base model share its luck, and those of one number of examples their data subsets', so residuals of a
level may have a mean of their own. Variance components by the method of moments (Searle, Casella and McCulloch 1992,
chapter 2), with the parameters that a law spends on the levels taken from their degrees of freedom.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from finetune_scaling.laws.points.noise import pooled_deviation

# A law follows the means of a factor's levels with two parameters (A and alpha, or E and beta).
PARAMETERS_PER_FAMILY = 2
# Levels are taken to hang together where an F test says so at this size; else their luck is within the scatter.
LEVEL_TEST = 0.10


@dataclass(frozen=True)
class RandomEffect:
    """Standard deviation that the points of one level share, in nats, and the degrees of freedom it rests on."""

    standard_deviation: float
    degrees: float


@dataclass(frozen=True)
class VarianceComponents:
    """seed: between runs of one setting (None: no setting has two seeds); setting: between settings beyond seeds and
    levels; levels: one for each labelling, None where its levels do not hang together. Standard deviations in nats.
    """

    seed: float | None
    seed_degrees: int
    setting: float
    levels: tuple[RandomEffect | None, ...]

    def deviation_of_mean(self, seeds: np.ndarray) -> np.ndarray:
        """Standard deviation of settings' means [P] over their numbers of seeds [P], without the levels' luck."""
        return np.sqrt(self.setting**2 + (self.seed or 0.0) ** 2 / seeds)


def variance_components(
    residuals: np.ndarray,
    deviations: np.ndarray,
    seeds: np.ndarray,
    families: Sequence[np.ndarray],
    parameters: int,
) -> VarianceComponents:
    """Splits the scatter of residuals [P] of a fit with so many parameters.

    deviations [P]: standard deviations over each setting's seeds; seeds [P]; families: labels [P] each, NaN where a
    point has no level in that labelling.
    """
    seed, degrees = pooled_deviation(deviations, seeds)
    levels = tuple(_luck(residuals, labels) for labels in families)
    rest, spent = residuals, float(parameters)
    for luck, labels in zip(levels, families, strict=True):
        if luck is not None:  # what is left within its levels is the settings' own
            rest, spent = _within(rest, labels), spent + luck.degrees
    total = float((rest**2).sum()) / max(1.0, len(rest) - spent)
    known = (seed or 0.0) ** 2 * float(np.mean(1 / seeds))
    return VarianceComponents(seed, degrees, float(np.sqrt(max(0.0, total - known))), levels)


def _within(residuals: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Residuals less the means of their levels; those without a level as they are."""
    inside = np.isfinite(labels)
    _, index = np.unique(labels[inside], return_inverse=True)
    means = np.bincount(index, residuals[inside]) / np.bincount(index)
    found = residuals.copy()
    found[inside] -= means[index]
    return found


def _luck(residuals: np.ndarray, labels: np.ndarray) -> RandomEffect | None:
    inside = np.isfinite(labels)
    values, own = residuals[inside], labels[inside]
    names, index, counts = np.unique(own, return_inverse=True, return_counts=True)
    between, within = len(names) - PARAMETERS_PER_FAMILY, len(values) - len(names)
    if between < 1 or within < 1:
        return None
    means = np.bincount(index, values) / counts
    mean_square = float((counts * means**2).sum()) / between
    rest = float(((values - means[index]) ** 2).sum()) / within
    if rest <= 0 or stats.f.sf(mean_square / rest, between, within) >= LEVEL_TEST:
        return None
    return RandomEffect(float(np.sqrt((mean_square - rest) / counts.mean())), float(between))
