"""Variance components of the scatter, and bootstrap replicates drawn from them."""

from pathlib import Path

import numpy as np
import pytest

import synthetic_points
from finetune_scaling.errors import ConfigError
from finetune_scaling.laws.fitting.fitted_law import ZERO
from finetune_scaling.laws.fitting.huber_fit import FitSettings
from finetune_scaling.laws.fitting.two_stage import fit_joint
from finetune_scaling.laws.forms.declared import OFFSET, Parameter
from finetune_scaling.laws.forms.library import MULTIPLICATIVE
from finetune_scaling.laws.points.table import read_points
from finetune_scaling.laws.uncertainty.bootstrap import BootstrapInput, Resampling, resample
from finetune_scaling.laws.uncertainty.intervals import Interval, parameter_interval, percentile_interval
from finetune_scaling.laws.uncertainty.variance_components import pooled_deviation, variance_components

X, D = (values.ravel().astype(float) for values in np.meshgrid(np.arange(6), np.arange(12), indexing="ij"))


def scatter_of(seed: int, effect: float, between: float = 0.02, within: float = 0.03, seeds: int = 3) -> tuple:
    """Residuals of settings with a random effect of each X, and the standard deviations over their seeds."""
    random = np.random.default_rng(seed)
    runs = random.normal(0, between, len(X))[:, None] + random.normal(0, within, (len(X), seeds))
    runs = runs + random.normal(0, effect, 6)[X.astype(int)][:, None]
    return runs.mean(axis=1), runs.std(axis=1, ddof=1), np.full(len(X), float(seeds))


def test_variance_components_are_recovered_on_average() -> None:
    found = [variance_components(*scatter_of(seed, effect=0.0), (X, D), 0) for seed in range(60)]
    assert np.sqrt(np.mean([c.seed**2 for c in found if c.seed])) == pytest.approx(0.03, rel=0.05)
    assert np.sqrt(np.mean([c.setting**2 for c in found])) == pytest.approx(0.02, rel=0.1)
    # More often than the test's size of .10, since these residuals spend no degrees of freedom on a law.
    assert np.mean([c.levels[0] is not None for c in found]) < 0.4


def test_random_effects_are_distinguished_from_the_scatter_of_settings() -> None:
    found = [variance_components(*scatter_of(seed, effect=0.1), (X, D), 0) for seed in range(60)]
    effects = [c.levels[0].standard_deviation for c in found if c.levels[0]]
    assert len(effects) > 55
    # Two degrees of freedom of the levels are attributed to a law, which scales the variance by 6 / 4.
    assert np.sqrt(np.mean(np.square(effects))) == pytest.approx(0.1 * np.sqrt(6 / 4), rel=0.2)
    assert np.sqrt(np.mean([c.setting**2 for c in found])) == pytest.approx(0.02, rel=0.15)


def test_a_random_effect_of_some_points_leaves_the_others_unchanged() -> None:
    random = np.random.default_rng(0)
    labels = np.where(np.arange(72) < 36, X, np.nan)
    residuals = random.normal(0, 0.02, 72) + np.where(np.isfinite(labels), np.array([0.3, -0.3] * 3)[X.astype(int)], 0)
    found = variance_components(residuals, np.full(72, np.nan), np.ones(72), (labels,), 0)
    assert found.levels[0] is not None
    assert found.seed is None
    assert found.setting == pytest.approx(0.02, rel=0.3)


def test_three_seeds_have_two_degrees_of_freedom() -> None:
    runs = np.array([[1.0, 2.0, 3.0], [4.0, 4.0, 7.0]])
    found, degrees = pooled_deviation(runs.std(axis=1, ddof=1), np.array([3.0, 3.0]))
    assert degrees == 4
    assert found == pytest.approx(np.sqrt((2 + 6) / 4))
    assert pooled_deviation(np.array([np.nan, np.nan]), np.array([1.0, 1.0])) == (None, 0)


@pytest.mark.parametrize("kind", ["both", "seeds"])
def test_resampled_losses_scatter_as_the_means_over_seeds_do(kind: str) -> None:
    residuals, deviations, seeds = scatter_of(3, effect=0.0, between=0.0)
    scatter = variance_components(residuals, deviations, seeds, (), 0)
    data = BootstrapInput(np.full(72, 5.0), 5.0 + residuals, seeds, ())
    weights, losses = resample(data, scatter, Resampling(kind, 4000))  # type: ignore[arg-type]
    assert (weights == 1).all()
    centre = data.loss if kind == "seeds" else data.predicted
    assert np.std(losses - centre) == pytest.approx(
        float(np.sqrt(np.mean(scatter.deviation_of_mean(seeds) ** 2))), rel=0.03
    )


def test_resampled_residuals_are_smoothed() -> None:
    """A least absolute deviations fit passes through points, so that many residuals are exactly zero."""
    residuals = np.append(np.zeros(20), np.random.default_rng(0).normal(size=52))
    seeds = np.ones(72)
    scatter = variance_components(residuals, np.full(72, np.nan), seeds, (), 0)
    _, losses = resample(BootstrapInput(np.full(72, 50.0), 50 + residuals, seeds, ()), scatter, Resampling("both", 400))
    assert len(np.unique(losses)) == losses.size
    assert np.std(losses) == pytest.approx(scatter.setting, rel=0.03)


def test_settings_are_resampled_with_replacement_and_reproducibly() -> None:
    residuals, deviations, seeds = scatter_of(0, effect=0.0)
    data, scatter = (
        BootstrapInput(np.full(72, 5.0), 5 + residuals, seeds, ()),
        variance_components(residuals, deviations, seeds, (), 0),
    )
    weights, losses = resample(data, scatter, Resampling("settings"))
    assert weights.shape == losses.shape == (200, 72)
    assert (weights.sum(axis=1) == 72).all()
    np.testing.assert_array_equal(weights, resample(data, scatter, Resampling("settings"))[0])


def test_seeds_cannot_be_resampled_where_there_is_one() -> None:
    data = BootstrapInput(np.ones(5), np.ones(5), np.ones(5), ())
    scatter = variance_components(np.arange(5.0), np.full(5, np.nan), np.ones(5), (), 0)
    with pytest.raises(ConfigError, match="no setting has two seeds"):
        resample(data, scatter, Resampling("seeds"))
    with pytest.raises(ConfigError, match="needs at least 40"):
        Resampling("both", 10)


def test_ends_that_are_not_distinguishable_from_a_bound_are_open() -> None:
    replicates = np.geomspace(1e-9, 0.5, 200)
    assert parameter_interval(OFFSET, 0.3, replicates, 2.0).low is None
    assert parameter_interval(OFFSET, 0.3, replicates + 0.1, 2.0).low == pytest.approx(0.1, rel=1e-3)
    assert parameter_interval(OFFSET, 1e-9, replicates + 0.1, 2.0).low is None
    share = Parameter("share", (0.5,), low=0.0, high=1.0)
    assert parameter_interval(share, 0.5, np.linspace(0.2, 1.0, 200), 1.0).high is not None
    assert parameter_interval(share, 0.5, np.append(np.linspace(0.2, 0.9, 100), np.full(100, 1.0)), 1.0).high is None
    assert percentile_interval(np.append(np.arange(100.0), np.full(20, np.inf))) == Interval(5.0, None)


@pytest.mark.parametrize("kind", ["both", "settings", "seeds"])
def test_runs_shared_by_two_factors_are_resampled_as_one(kind: str) -> None:
    residuals, deviations, seeds = scatter_of(1, effect=0.0)
    scatter = variance_components(residuals, deviations, seeds, (), 0)
    runs = np.append(np.arange(71), 0)  # the last point is the first one again
    data = BootstrapInput(np.full(72, 5.0), np.append(5 + residuals[:71], 5 + residuals[0]), seeds, (), runs)
    weights, losses = resample(data, scatter, Resampling(kind))  # type: ignore[arg-type]
    np.testing.assert_array_equal(weights[:, 0], weights[:, -1])
    np.testing.assert_array_equal(losses[:, 0], losses[:, -1])
    assert (np.ptp(weights, axis=0)[0] > 0) if kind == "settings" else (np.ptp(losses, axis=0)[0] > 0)


def test_replicates_reach_an_offset_of_zero(tmp_path: Path) -> None:
    """MLSum's prompt tuning has E = .0005 (Zhang et al. 2024, Table 4): a descent in log E stops short of it."""
    task, seed = "mlsum", 3  # noise for which the fitted E is .084
    path = synthetic_points.write(tmp_path / "points.csv", synthetic_points.rows(0.003, 3, ("prompt",), (task,), seed))
    fit, _ = fit_joint(MULTIPLICATIVE, read_points(path).settings, FitSettings(), resampling=Resampling(resamples=60))
    assert fit is not None
    assert np.quantile(fit.replicate_parameters["E"], 0.05) < 1e-3
    assert fit.why_poorly_determined("E").startswith(ZERO)
    assert not fit.is_well_determined(
        "alpha_pretrain"
    )  # its interval ends at the bound of E, with which it is correlated
    assert fit.is_well_determined("alpha_pet")  # which hardly depends on E
    low, high = fit.interval("alpha_model").low, fit.interval("alpha_model").high
    assert low is not None
    assert high is not None
    assert low < 0.10 < high
