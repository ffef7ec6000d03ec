"""Variance components of the scatter about a fitted law: seeds, settings, and random effects of factor levels.

Runs of one base model share its random effect, and runs of one dataset size the random effect of their data subset, so
residuals of one level are correlated. The method of moments is used (Searle, Casella and McCulloch 1992, chapter 2),
with the parameters that a law spends on the levels subtracted from their degrees of freedom.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

# A law fits the means of a factor's levels with two parameters (A and alpha, or E and beta).
PARAMETERS_PER_GROUPING = 2
# Significance level of the F test for a random effect of levels; without one, its variance is part of the variance of
# settings.
LEVEL_TEST = 0.10


@dataclass(frozen=True)
class RandomEffect:
    """Standard deviation of a random effect, in nats, and its degrees of freedom."""

    standard_deviation: float
    degrees: float


@dataclass(frozen=True)
class VarianceComponents:
    """Standard deviations of the components, in nats.

    seed: between runs of one setting (None: no setting has two seeds); setting: between settings beyond seeds and
    levels; levels: the random effect of each grouping, None where none was found.
    """

    seed: float | None
    seed_degrees: int
    setting: float
    levels: tuple[RandomEffect | None, ...]

    def deviation_of_mean(self, seeds: np.ndarray) -> np.ndarray:
        """Return the standard deviation [P] of settings' means over seeds, without random effects."""
        return np.sqrt(self.setting**2 + (self.seed or 0.0) ** 2 / seeds)


def variance_components(
    residuals: np.ndarray,
    deviations: np.ndarray,
    seeds: np.ndarray,
    groupings: Sequence[np.ndarray],
    parameters: int,
) -> VarianceComponents:
    """Split the scatter of residuals [P] of a fit with that number of parameters.

    deviations [P]: standard deviations over each setting's seeds; seeds [P]; groupings: labels [P] each, NaN where a
    point has no level in that grouping.
    """
    seed, degrees = pooled_deviation(deviations, seeds)
    levels = tuple(_random_effect(residuals, labels) for labels in groupings)
    rest, parameters_used = residuals, float(parameters)
    for effect, labels in zip(levels, groupings, strict=True):
        if effect is not None:  # the variance within its levels is the settings' variance
            rest, parameters_used = _within(rest, labels), parameters_used + effect.degrees
    total = float((rest**2).sum()) / max(1.0, len(rest) - parameters_used)
    known = (seed or 0.0) ** 2 * float(np.mean(1 / seeds))
    return VarianceComponents(seed, degrees, float(np.sqrt(max(0.0, total - known))), levels)


def pooled_deviation(deviations: np.ndarray, seeds: np.ndarray) -> tuple[float | None, int]:
    """Return the pooled standard deviation between seeds and its degrees of freedom.

    deviations [P]: of each setting, with n - 1 in the denominator (NaN for one seed); seeds [P].
    """
    several = np.isfinite(deviations) & (seeds > 1)
    degrees = int((seeds[several] - 1).sum())
    if not degrees:
        return None, 0
    return float(np.sqrt(((seeds[several] - 1) * deviations[several] ** 2).sum() / degrees)), degrees


def _within(residuals: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return residuals minus the means of their levels; those without a level are unchanged."""
    inside = np.isfinite(labels)
    _, index = np.unique(labels[inside], return_inverse=True)
    means = np.bincount(index, residuals[inside]) / np.bincount(index)
    found = residuals.copy()
    found[inside] -= means[index]
    return found


def _random_effect(residuals: np.ndarray, labels: np.ndarray) -> RandomEffect | None:
    inside = np.isfinite(labels)
    values, own = residuals[inside], labels[inside]
    names, index, counts = np.unique(own, return_inverse=True, return_counts=True)
    between, within = len(names) - PARAMETERS_PER_GROUPING, len(values) - len(names)
    if between < 1 or within < 1:
        return None
    means = np.bincount(index, values) / counts
    mean_square = float((counts * means**2).sum()) / between
    rest = float(((values - means[index]) ** 2).sum()) / within
    if rest <= 0 or stats.f.sf(mean_square / rest, between, within) >= LEVEL_TEST:
        return None
    return RandomEffect(float(np.sqrt((mean_square - rest) / counts.mean())), float(between))
