"""Noise between seeds: pooled as in analysis of variance, each run counted once, tested for growth with loss."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import synthetic_points
from finetune_scaling.laws.points.noise import seed_noise
from finetune_scaling.laws.points.table import read_points


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


def test_the_pooled_deviation_is_that_of_a_one_way_analysis_of_variance() -> None:
    table = runs(lambda _: 0.01).drop(index=[0, 1, 5])  # settings of one, two and three seeds
    groups = [own["loss"].to_numpy() for _, own in table.groupby(["x", "finetune_examples"])]
    within = sum(((g - g.mean()) ** 2).sum() for g in groups)
    found = seed_noise(table)
    assert found.degrees == len(table) - len(groups)
    assert found.standard_deviation == pytest.approx(np.sqrt(within / found.degrees))
    low, high = np.sqrt(stats.chi2.ppf([0.001, 0.999], found.degrees) / found.degrees) * 0.01
    assert low < found.standard_deviation < high


def test_a_run_shared_by_several_factors_counts_once() -> None:
    table = runs(lambda _: 0.01)
    again = pd.concat([table, table.assign(factor="pet", x=4.0)])
    assert seed_noise(again) == seed_noise(table)


def test_one_seed_gives_no_estimate_of_noise() -> None:
    found = seed_noise(runs(lambda _: 0.01, seeds=1))
    assert (found.standard_deviation, found.degrees) == (None, 0)


def test_growth_with_the_loss_is_detected_and_constant_noise_is_not() -> None:
    assert seed_noise(runs(lambda loss: 0.01 * (loss - 0.8))).grows
    assert not seed_noise(runs(lambda _: 0.01)).grows
    assert any("--residual=log" in text for text in read_points(runs(lambda loss: 0.01 * (loss - 0.8))).warnings)


def test_the_noise_of_synthetic_points_is_recovered_by_method() -> None:
    runs_of_methods = read_points(pd.DataFrame(synthetic_points.rows(noise=0.003, seeds=3))).runs.groupby("method")
    for noise in (seed_noise(own) for _, own in runs_of_methods):
        assert noise.standard_deviation == pytest.approx(0.003, rel=0.15)
        assert not noise.grows
