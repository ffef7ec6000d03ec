"""Bootstrap: what a law would be fitted to had the study been run again.

"both" (the default) draws new losses about the fitted law: a residual of some setting, scaled to the variance between
settings and between seeds, and a luck for every level that was found to hang together. Residuals are smoothed: those of
a Huber loss with a small delta crowd at zero, and draws of them as they are give intervals that are too narrow (De
Angelis, Hall and Young 1993, on least absolute deviations). "settings" draws the settings
with replacement. "seeds" draws the noise between seeds anew about the measured means. Noise between seeds is pooled
over the settings with n - 1 degrees of freedom each, so that three seeds are not taken to scatter too little.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import stats

from finetune_scaling.errors import ConfigError
from finetune_scaling.laws.uncertainty.intervals import LEVEL
from finetune_scaling.laws.uncertainty.variance_components import VarianceComponents

Kind = Literal["both", "settings", "seeds"]
KINDS: tuple[Kind, ...] = ("both", "settings", "seeds")
RESAMPLES = 200
BANDWIDTH = 1.06  # of a normal kernel for P points, times P^-1/5 (Silverman 1986, equation 3.28)
FEWEST_DEGREES = 2  # Student's t with one has an interval four times the normal's
FEWEST_RESAMPLES = 40  # a 5 % quantile needs two draws below it


@dataclass(frozen=True)
class Resampling:
    """How a bootstrap is drawn. Raises ConfigError on an unknown kind or too few resamples for a 90 % interval."""

    kind: Kind = "both"
    resamples: int = RESAMPLES
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"--bootstrap={self.kind} is none of {', '.join(KINDS)}")
        if self.resamples < FEWEST_RESAMPLES:
            raise ConfigError(f"--resamples={self.resamples}: a 90 % interval needs at least {FEWEST_RESAMPLES}")

    def of(self, name: str) -> "Resampling":
        """The same with a seed of its own for what is so named: draws of two methods must not go together."""
        return replace(self, seed=self.seed + zlib.crc32(name.encode()))


@dataclass(frozen=True)
class Measured:
    """Settings of one fit. predicted, loss, seeds [P]; families: labels [P] of levels, NaN where there is none.

    runs [P]: 0, 1, ...: which points are the same runs, standing under several factors, and are drawn as one; None
    where each point has runs of its own.
    """

    predicted: np.ndarray
    loss: np.ndarray
    seeds: np.ndarray
    families: Sequence[np.ndarray]
    runs: np.ndarray | None = None

    @property
    def places(self) -> np.ndarray:
        """The index of each point's runs [P]."""
        return np.arange(len(self.loss)) if self.runs is None else self.runs


def resample(measured: Measured, scatter: VarianceComponents, how: Resampling) -> tuple[np.ndarray, np.ndarray]:
    """Weights [R, P] and losses [R, P] of every resample. ConfigError for "seeds" where no setting has two seeds."""
    random = np.random.default_rng(how.seed)
    places = measured.places
    shape, own = (how.resamples, len(places)), (how.resamples, int(places.max()) + 1)
    if how.kind == "settings":
        weights = random.multinomial(own[1], np.full(own[1], 1 / own[1]), size=own[0]).astype(float)
        return weights[:, places], np.broadcast_to(measured.loss, shape)
    if how.kind == "seeds":
        return np.ones(shape), measured.loss + random.normal(size=own)[:, places] * _seed_error(measured, scatter)
    losses = measured.predicted + _smoothed(_shapes(measured), own, random)[:, places] * scatter.deviation_of_mean(
        measured.seeds
    )
    for labels, luck in zip(measured.families, scatter.levels, strict=True):
        if luck is not None:
            losses = losses + _level_luck(labels, luck.standard_deviation, luck.degrees, shape[0], random)
    return np.ones(shape), np.maximum(losses, 1e-3 * measured.loss)


def _seed_error(measured: Measured, scatter: VarianceComponents) -> np.ndarray:
    if scatter.seed is None:
        raise ConfigError("--bootstrap=seeds: no setting has two seeds; use --bootstrap=both or settings")
    return scatter.seed / np.sqrt(measured.seeds)


def _shapes(measured: Measured) -> np.ndarray:
    """The fit's residuals [P], of mean zero and variance one."""
    residuals = measured.loss - measured.predicted
    residuals = residuals - residuals.mean()
    spread = float(np.sqrt((residuals**2).mean()))
    return residuals / spread if spread > 0 else residuals


def _smoothed(shapes: np.ndarray, size: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """Draws [*size] from a kernel density of residuals [P] of variance one, scaled back to that variance."""
    bandwidth = BANDWIDTH * len(shapes) ** -0.2
    return (random.choice(shapes, size=size) + bandwidth * random.normal(size=size)) / np.sqrt(1 + bandwidth**2)


def _level_luck(
    labels: np.ndarray, deviation: float, degrees: float, resamples: int, random: np.random.Generator
) -> np.ndarray:
    """One luck a level [R, P], normal, and as much wider as Student's t is whose degrees the deviation rests on.

    A deviation drawn anew for each resample would be the textbook's way; with the one to three degrees that studies
    have, its tails send some resamples out of all reason.
    """
    inside = np.isfinite(labels)
    names, index = np.unique(labels[inside], return_inverse=True)
    end = 0.5 + LEVEL / 2
    wider = float(stats.t.ppf(end, max(degrees, FEWEST_DEGREES)) / stats.norm.ppf(end))
    lucks = np.zeros((resamples, len(labels)))
    lucks[:, inside] = (deviation * wider * random.normal(size=(resamples, len(names))))[:, index]
    return lucks
