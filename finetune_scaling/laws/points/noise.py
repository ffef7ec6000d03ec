"""Noise between seeds: the standard deviation between runs of one setting, pooled over a task and method."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from finetune_scaling.laws.points.columns import SETTING

SIGNIFICANCE = 0.001
FEWEST_SETTINGS = 8  # with several seeds, to test whether the noise grows with the loss


@dataclass(frozen=True)
class SeedNoise:
    """Pooled noise between seeds.

    standard_deviation: of one run's loss about its setting's mean, in nats; None where no setting has two seeds;
    degrees: of freedom, sum of (seeds - 1); growth: Spearman's rho between the settings' standard deviations and their
    mean losses; grows: whether the noise grows with the loss (one-sided test at SIGNIFICANCE), so that a log residual
    suits the losses better; None where too few settings have several seeds.
    """

    standard_deviation: float | None
    degrees: int
    growth: float | None = None
    grows: bool | None = None


def seed_noise(runs: pd.DataFrame) -> SeedNoise:
    """Pool the variances of seeds over settings: s^2 = sum of squared deviations / sum of (seeds - 1).

    runs: PointsTable.runs of one task and method. A run shared by several factors is counted once.
    """
    once = runs.drop_duplicates(["finetune_examples", "seed", "loss"])
    groups = once.groupby(SETTING, sort=False)["loss"]
    settings = pd.DataFrame({"mean": groups.mean(), "variance": groups.var(), "degrees": groups.size() - 1})
    settings = settings[settings["degrees"] > 0]
    deviations = np.sqrt(settings["variance"]).to_numpy()
    deviation, degrees = pooled_deviation(deviations, settings["degrees"].to_numpy() + 1)
    return SeedNoise(deviation, degrees, *(_growth(settings) if degrees else ()))


def pooled_deviation(deviations: np.ndarray, seeds: np.ndarray) -> tuple[float | None, int]:
    """Return the pooled standard deviation between seeds and its degrees of freedom.

    deviations [P]: of each setting, with n - 1 in the denominator (NaN for one seed); seeds [P].
    """
    several = np.isfinite(deviations) & (seeds > 1)
    degrees = int((seeds[several] - 1).sum())
    if not degrees:
        return None, 0
    return float(np.sqrt(((seeds[several] - 1) * deviations[several] ** 2).sum() / degrees)), degrees


def _growth(settings: pd.DataFrame) -> tuple[float | None, bool | None]:
    if len(settings) < FEWEST_SETTINGS or settings["mean"].nunique() < 2 or settings["variance"].nunique() < 2:
        return None, None
    found = stats.spearmanr(settings["mean"], settings["variance"], alternative="greater")
    return float(found.statistic), bool(found.pvalue < SIGNIFICANCE)
