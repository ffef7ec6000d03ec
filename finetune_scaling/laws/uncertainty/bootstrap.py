"""Bootstrap replicates of the losses that a law is fitted to.

"both" (the default) resamples losses about the fitted law: a residual of some setting, scaled to the variance between
settings and between seeds, plus a random effect for every grouping that has one. Residuals are smoothed: with a small
Huber delta many are zero, and unsmoothed ones give intervals that are too narrow (De Angelis, Hall and Young 1993, on
least absolute deviations). "settings" resamples the settings with replacement. "seeds" redraws the noise between seeds
about the measured means. That noise is pooled over settings with n - 1 degrees of freedom each.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import stats

from finetune_scaling.errors import ConfigError
from finetune_scaling.laws.uncertainty.intervals import QUANTILES
from finetune_scaling.laws.uncertainty.variance_components import VarianceComponents

Kind = Literal["both", "settings", "seeds"]
KINDS: tuple[Kind, ...] = ("both", "settings", "seeds")
RESAMPLES = 200
BANDWIDTH = 1.06  # of a normal kernel for P points, times P^-1/5 (Silverman 1986, equation 3.28)
MIN_DEGREES = 2  # Student's t with one has an interval four times the normal's
MIN_RESAMPLES = 40  # a 5 % quantile needs two replicates below it


@dataclass(frozen=True)
class Resampling:
    """Settings of a bootstrap. Raises ConfigError on an unknown kind or too few replicates for a 90 % interval."""

    kind: Kind = "both"
    resamples: int = RESAMPLES
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"the kind of bootstrap {self.kind!r} is unknown; use one of {', '.join(KINDS)}")
        if self.resamples < MIN_RESAMPLES:
            raise ConfigError(
                f"resamples = {self.resamples}, but a 90 % interval needs at least {MIN_RESAMPLES}; raise it"
            )

    def for_name(self, name: str) -> "Resampling":
        """Return these settings with a separate seed for that name: replicates of two methods are independent."""
        return replace(self, seed=self.seed + zlib.crc32(name.encode()))


@dataclass(frozen=True)
class BootstrapInput:
    """Settings of one fit. predicted, loss, seeds [P]; groupings: labels [P] of levels, NaN where there is none.

    runs [P]: 0, 1, ...: equal for points of the same runs, shared by several factors, which are resampled as one; None
    where no runs are shared.
    """

    predicted: np.ndarray
    loss: np.ndarray
    seeds: np.ndarray
    groupings: Sequence[np.ndarray]
    runs: np.ndarray | None = None

    @property
    def run_index(self) -> np.ndarray:
        """The index of each point's runs [P]."""
        return np.arange(len(self.loss)) if self.runs is None else self.runs


def resample(
    data: BootstrapInput, components: VarianceComponents, resampling: Resampling
) -> tuple[np.ndarray, np.ndarray]:
    """Return weights [R, P] and losses [R, P] of every replicate.

    Raises ConfigError for "seeds" where no setting has two seeds.
    """
    random = np.random.default_rng(resampling.seed)
    index = data.run_index
    shape, count = (resampling.resamples, len(index)), int(index.max()) + 1
    if resampling.kind == "settings":
        weights = random.multinomial(count, np.full(count, 1 / count), size=resampling.resamples).astype(float)
        return weights[:, index], np.broadcast_to(data.loss, shape)
    size = (resampling.resamples, count)
    if resampling.kind == "seeds":
        return np.ones(shape), data.loss + random.normal(size=size)[:, index] * _seed_error(data, components)
    residuals = _smoothed(_standardized_residuals(data), size, random)[:, index]
    losses = data.predicted + residuals * components.deviation_of_mean(data.seeds)
    for labels, effect in zip(data.groupings, components.levels, strict=True):
        if effect is not None:
            losses = losses + _random_effects(labels, effect.standard_deviation, effect.degrees, shape[0], random)
    return np.ones(shape), np.maximum(losses, 1e-3 * data.loss)


def _seed_error(data: BootstrapInput, components: VarianceComponents) -> np.ndarray:
    if components.seed is None:
        raise ConfigError("--bootstrap=seeds: no setting has two seeds; use --bootstrap=both or settings")
    return components.seed / np.sqrt(data.seeds)


def _standardized_residuals(data: BootstrapInput) -> np.ndarray:
    """Return the fit's residuals [P], scaled to mean zero and variance one."""
    residuals = data.loss - data.predicted
    residuals = residuals - residuals.mean()
    spread = float(np.sqrt((residuals**2).mean()))
    return residuals / spread if spread > 0 else residuals


def _smoothed(residuals: np.ndarray, size: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """Return samples [*size] of a kernel density of residuals [P], scaled to their variance of one."""
    bandwidth = BANDWIDTH * len(residuals) ** -0.2
    return (random.choice(residuals, size=size) + bandwidth * random.normal(size=size)) / np.sqrt(1 + bandwidth**2)


def _random_effects(
    labels: np.ndarray, deviation: float, degrees: float, resamples: int, random: np.random.Generator
) -> np.ndarray:
    """Return normal random effects [R, P], one per level, widened to the interval of Student's t with those degrees.

    Drawing a new deviation for each replicate is the textbook method; with the one to three degrees of freedom of most
    studies its tails make some replicates absurd.
    """
    inside = np.isfinite(labels)
    names, index = np.unique(labels[inside], return_inverse=True)
    wider = float(stats.t.ppf(QUANTILES[1], max(degrees, MIN_DEGREES)) / stats.norm.ppf(QUANTILES[1]))
    effects = np.zeros((resamples, len(labels)))
    effects[:, inside] = (deviation * wider * random.normal(size=(resamples, len(names))))[:, index]
    return effects
