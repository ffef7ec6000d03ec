"""Noise between seeds: pooled as in analysis of variance, each run counted once, tested for growth with loss."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from finetune_scaling.laws.points.table import read_points
from finetune_scaling.laws.uncertainty.variance_components import pooled_deviation


def runs(noise, seeds: int = 3) -> pd.DataFrame:
    """Runs of 40 settings; noise(loss) -> standard deviation between seeds."""
    random = np.random.default_rng(0)
    rows = [
        {"task": "t", "method": "lora", "factor": "model", "x": x, "finetune_examples": d, "seed": s, "held_out": 0}
        | {"swept_size": 0.0, "loss": loss + random.normal(0, noise(loss))}
        for x in (1e6, 1e7, 1e8, 1e9)
        for d in range(100, 1100, 100)
        for s in range(seeds)
        for loss in [40 / x**0.2 / d**0.1 + 0.8]
    ]
    return pd.DataFrame(rows)


def growth_warnings(table: pd.DataFrame) -> list[str]:
    return [text for text in read_points(table).warnings if "--residual=log" in text]


def test_the_pooled_deviation_is_that_of_a_one_way_analysis_of_variance() -> None:
    table = runs(lambda _: 0.01).drop(index=[0, 1, 5])  # settings of one, two and three seeds
    groups = [own["loss"].to_numpy() for _, own in table.groupby(["x", "finetune_examples"])]
    within = sum(((g - g.mean()) ** 2).sum() for g in groups)
    settings = read_points(table).settings
    deviation, degrees = pooled_deviation(settings["loss_sd"].to_numpy(), settings["seeds"].to_numpy())
    assert degrees == len(table) - len(groups)
    assert deviation == pytest.approx(np.sqrt(within / degrees))
    low, high = np.sqrt(stats.chi2.ppf([0.001, 0.999], degrees) / degrees) * 0.01
    assert low < deviation < high


def test_growth_with_the_loss_is_detected_and_constant_noise_is_not() -> None:
    assert growth_warnings(runs(lambda loss: 0.01 * (loss - 0.8)))
    assert not growth_warnings(runs(lambda _: 0.01))
    assert not growth_warnings(runs(lambda loss: 0.01 * (loss - 0.8), seeds=1))


def test_a_run_shared_by_several_factors_counts_once() -> None:
    seven = runs(lambda _: 0.0, seeds=2).iloc[: 2 * 7]  # one setting too few to test
    seven.loc[seven["seed"] == 1, "loss"] += 0.001 * np.arange(7, 0, -1)
    assert not growth_warnings(pd.concat([seven, seven.assign(factor="pet", x=4.0)], ignore_index=True))
    eight = pd.concat([seven, seven.iloc[:2].assign(x=10.0, loss=[3.0, 3.01])], ignore_index=True)
    assert growth_warnings(eight)
