"""Noise between seeds: how far runs of one setting lie apart, pooled over the settings of a task and method."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from finetune_scaling.laws.points.columns import SETTING

SIGNIFICANCE = 0.001
FEWEST_SETTINGS = 8  # with seeds, to ask whether their spread grows


@dataclass(frozen=True)
class SeedNoise:
    """standard_deviation: of one run's loss about its setting's mean, in nats; None where no setting has two seeds.

    degrees: of freedom, sum of (seeds - 1); growth: Spearman's rho of the settings' standard deviations with their
    mean losses; grows: whether the spread grows with the loss (one-sided, at SIGNIFICANCE), so that losses are better
    weighted, or fitted by their logarithms; None where too few settings have seeds.
    """

    standard_deviation: float | None
    degrees: int
    growth: float | None = None
    grows: bool | None = None

    def of_mean(self, seeds: float | np.ndarray) -> float | np.ndarray | None:
        """Standard error of a mean over so many seeds, in nats."""
        return None if self.standard_deviation is None else self.standard_deviation / np.sqrt(seeds)


def seed_noise(runs: pd.DataFrame) -> SeedNoise:
    """Pools the spread of seeds over settings: s^2 = sum of squared deviations / sum of (seeds - 1).

    runs: PointsTable.runs of one task and method. A run that serves several factors is counted once.
    """
    once = runs.drop_duplicates(["finetune_examples", "seed", "loss"])
    groups = once.groupby(SETTING, sort=False)["loss"]
    spread = pd.DataFrame({"mean": groups.mean(), "variance": groups.var(), "degrees": groups.size() - 1})
    spread = spread[spread["degrees"] > 0]
    deviation, degrees = pooled_deviation(np.sqrt(spread["variance"]).to_numpy(), spread["degrees"].to_numpy() + 1)
    return SeedNoise(deviation, degrees, *(_growth(spread) if degrees else ()))


def pooled_deviation(deviations: np.ndarray, seeds: np.ndarray) -> tuple[float | None, int]:
    """Pooled standard deviation between seeds and its degrees of freedom.

    deviations [P]: of each setting, by n - 1 (NaN for one seed); seeds [P].
    """
    several = np.isfinite(deviations) & (seeds > 1)
    degrees = int((seeds[several] - 1).sum())
    if not degrees:
        return None, 0
    return float(np.sqrt(((seeds[several] - 1) * deviations[several] ** 2).sum() / degrees)), degrees


def noise_by_method(runs: pd.DataFrame) -> dict[tuple[str, str], SeedNoise]:
    """(task, method) -> the noise between its seeds."""
    return {(task, method): seed_noise(own) for (task, method), own in runs.groupby(["task", "method"], sort=False)}


def _growth(spread: pd.DataFrame) -> tuple[float | None, bool | None]:
    if len(spread) < FEWEST_SETTINGS or spread["mean"].nunique() < 2 or spread["variance"].nunique() < 2:
        return None, None
    found = stats.spearmanr(spread["mean"], spread["variance"], alternative="greater")
    return float(found.statistic), bool(found.pvalue < SIGNIFICANCE)
