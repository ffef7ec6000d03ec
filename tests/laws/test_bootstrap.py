"""Where scatter comes from, and what a resample draws from it."""

import re
from pathlib import Path

import numpy as np
import pytest

import synthetic_points
from finetune_scaling.errors import ConfigError
from finetune_scaling.laws.fitting.huber_fit import FitSettings
from finetune_scaling.laws.fitting.two_stage import fit_joint
from finetune_scaling.laws.forms.declared import OFFSET, Parameter
from finetune_scaling.laws.forms.joint import MULTIPLICATIVE
from finetune_scaling.laws.points.noise import pooled_deviation
from finetune_scaling.laws.points.table import read_points
from finetune_scaling.laws.uncertainty.bootstrap import Measured, Resampling, resample
from finetune_scaling.laws.uncertainty.intervals import Interval, parameter_interval, percentile_interval
from finetune_scaling.laws.uncertainty.variance_components import variance_components

X, D = (values.ravel().astype(float) for values in np.meshgrid(np.arange(6), np.arange(12), indexing="ij"))


def scatter_of(seed: int, luck: float, between: float = 0.02, within: float = 0.03, seeds: int = 3) -> tuple:
    """Residuals of settings with a luck for each X, and the standard deviations over their seeds."""
    random = np.random.default_rng(seed)
    runs = random.normal(0, between, len(X))[:, None] + random.normal(0, within, (len(X), seeds))
    runs = runs + random.normal(0, luck, 6)[X.astype(int)][:, None]
    return runs.mean(axis=1), runs.std(axis=1, ddof=1), np.full(len(X), float(seeds))


def test_components_are_found_again_on_average() -> None:
    found = [variance_components(*scatter_of(seed, luck=0.0), (X, D), 0) for seed in range(60)]
    assert np.sqrt(np.mean([c.seed**2 for c in found if c.seed])) == pytest.approx(0.03, rel=0.05)
    assert np.sqrt(np.mean([c.setting**2 for c in found])) == pytest.approx(0.02, rel=0.1)
    # At a test of size .10; more, since these residuals spend none of the degrees of freedom that a law is taken to.
    assert np.mean([c.levels[0] is not None for c in found]) < 0.4


def test_levels_that_hang_together_are_told_from_the_settings_own_scatter() -> None:
    found = [variance_components(*scatter_of(seed, luck=0.1), (X, D), 0) for seed in range(60)]
    lucks = [c.levels[0].standard_deviation for c in found if c.levels[0]]
    assert len(lucks) > 55
    # Two of the levels' degrees of freedom are taken for a law's own, so raw levels seem to have 6 / 4 the variance.
    assert np.sqrt(np.mean(np.square(lucks))) == pytest.approx(0.1 * np.sqrt(6 / 4), rel=0.2)
    assert np.sqrt(np.mean([c.setting**2 for c in found])) == pytest.approx(0.02, rel=0.15)


def test_a_luck_that_concerns_some_points_leaves_the_others_their_scatter() -> None:
    random = np.random.default_rng(0)
    labels = np.where(np.arange(72) < 36, X, np.nan)
    residuals = random.normal(0, 0.02, 72) + np.where(np.isfinite(labels), np.array([0.3, -0.3] * 3)[X.astype(int)], 0)
    found = variance_components(residuals, np.full(72, np.nan), np.ones(72), (labels,), 0)
    assert found.levels[0] is not None
    assert found.seed is None
    assert found.setting == pytest.approx(0.02, rel=0.3)


def test_three_seeds_scatter_with_two_degrees_of_freedom() -> None:
    runs = np.array([[1.0, 2.0, 3.0], [4.0, 4.0, 7.0]])
    found, degrees = pooled_deviation(runs.std(axis=1, ddof=1), np.array([3.0, 3.0]))
    assert degrees == 4
    assert found == pytest.approx(np.sqrt((2 + 6) / 4))
    assert pooled_deviation(np.array([np.nan, np.nan]), np.array([1.0, 1.0])) == (None, 0)


@pytest.mark.parametrize("kind", ["both", "seeds"])
def test_drawn_losses_scatter_as_the_means_of_seeds_do(kind: str) -> None:
    residuals, deviations, seeds = scatter_of(3, luck=0.0, between=0.0)
    scatter = variance_components(residuals, deviations, seeds, (), 0)
    measured = Measured(np.full(72, 5.0), 5.0 + residuals, seeds, ())
    weights, losses = resample(measured, scatter, Resampling(kind, 4000))  # type: ignore[arg-type]
    assert (weights == 1).all()
    centre = measured.loss if kind == "seeds" else measured.predicted
    assert np.std(losses - centre) == pytest.approx(
        float(np.sqrt(np.mean(scatter.deviation_of_mean(seeds) ** 2))), rel=0.03
    )


def test_drawn_residuals_are_smooth() -> None:
    """A fit of least absolute deviations goes through points, whose residuals of zero would be drawn often."""
    residuals = np.append(np.zeros(20), np.random.default_rng(0).normal(size=52))
    seeds = np.ones(72)
    scatter = variance_components(residuals, np.full(72, np.nan), seeds, (), 0)
    _, losses = resample(Measured(np.full(72, 50.0), 50 + residuals, seeds, ()), scatter, Resampling("both", 400))
    assert len(np.unique(losses)) == losses.size
    assert np.std(losses) == pytest.approx(scatter.setting, rel=0.03)


def test_settings_are_drawn_with_replacement_and_the_same_again() -> None:
    residuals, deviations, seeds = scatter_of(0, luck=0.0)
    measured, scatter = (
        Measured(np.full(72, 5.0), 5 + residuals, seeds, ()),
        variance_components(residuals, deviations, seeds, (), 0),
    )
    weights, losses = resample(measured, scatter, Resampling("settings"))
    assert weights.shape == losses.shape == (200, 72)
    assert (weights.sum(axis=1) == 72).all()
    np.testing.assert_array_equal(weights, resample(measured, scatter, Resampling("settings"))[0])


def test_seeds_cannot_be_drawn_where_there_is_one() -> None:
    measured = Measured(np.ones(5), np.ones(5), np.ones(5), ())
    scatter = variance_components(np.arange(5.0), np.full(5, np.nan), np.ones(5), (), 0)
    with pytest.raises(ConfigError, match="no setting has two seeds; use --bootstrap=both"):
        resample(measured, scatter, Resampling("seeds"))
    with pytest.raises(ConfigError, match="needs at least 40"):
        Resampling("both", 10)


def test_ends_that_are_not_told_from_a_bound_do_not_close() -> None:
    draws = np.geomspace(1e-9, 0.5, 200)
    assert parameter_interval(OFFSET, 0.3, draws, 2.0).low is None
    assert parameter_interval(OFFSET, 0.3, draws + 0.1, 2.0).low == pytest.approx(0.1, rel=1e-3)
    assert parameter_interval(OFFSET, 1e-9, draws + 0.1, 2.0).low is None
    share = Parameter("share", (0.5,), low=0.0, high=1.0)
    assert parameter_interval(share, 0.5, np.linspace(0.2, 1.0, 200), 1.0).high is not None
    assert parameter_interval(share, 0.5, np.append(np.linspace(0.2, 0.9, 100), np.full(100, 1.0)), 1.0).high is None
    assert percentile_interval(np.append(np.arange(100.0), np.full(20, np.inf))) == Interval(5.0, None)


@pytest.mark.parametrize("kind", ["both", "settings", "seeds"])
def test_runs_that_stand_under_two_factors_are_drawn_as_one(kind: str) -> None:
    residuals, deviations, seeds = scatter_of(1, luck=0.0)
    scatter = variance_components(residuals, deviations, seeds, (), 0)
    runs = np.append(np.arange(71), 0)  # the last point is the first one again
    measured = Measured(np.full(72, 5.0), np.append(5 + residuals[:71], 5 + residuals[0]), seeds, (), runs)
    weights, losses = resample(measured, scatter, Resampling(kind))  # type: ignore[arg-type]
    np.testing.assert_array_equal(weights[:, 0], weights[:, -1])
    np.testing.assert_array_equal(losses[:, 0], losses[:, -1])
    assert (np.ptp(weights, axis=0)[0] > 0) if kind == "settings" else (np.ptp(losses, axis=0)[0] > 0)


def test_draws_reach_a_floor_of_zero(tmp_path: Path) -> None:
    """MLSum's prompt tuning has E = .0005 (Zhang et al. 2024, Table 4): a descent of log E stops short of it."""
    task, seed = "mlsum", 3  # a draw of the noise for which the fitted E is .084
    path = synthetic_points.write(tmp_path / "points.csv", synthetic_points.rows(0.003, 3, ("prompt",), (task,), seed))
    fit, _ = fit_joint(MULTIPLICATIVE, read_points(path).settings, FitSettings(), 256)
    assert fit is not None
    assert np.quantile(fit.replicate_parameters["E"], 0.05) < 1e-3
    assert fit.why_poorly_determined("E").startswith("it is not told from zero: it trades off with")
    why = r"it trades off with E along a flat valley \(correlation [01]\.\d\d\), which is not told from zero"
    assert re.match(why, fit.why_poorly_determined("alpha_pretrain"))  # E's bound ends its interval, too
    assert fit.is_well_determined("alpha_pet")  # which hardly depends on E
    low, high = fit.interval("alpha_model").low, fit.interval("alpha_model").high
    assert low is not None
    assert high is not None
    assert low < 0.10 < high
