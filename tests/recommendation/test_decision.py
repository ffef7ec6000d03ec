"""The choice, its risk and the value of runs, against closed forms and brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from finetune_scaling.recommendation.candidates import TuningCandidate
from finetune_scaling.recommendation.decision import Losses, decide
from finetune_scaling.recommendation.information_value import (
    MIN_EFFECTIVE,
    OUTCOMES,
    PossibleRun,
    Posterior,
    effective_replicates,
    enlarged_noise,
    example_grid,
    propose,
)

A, B = TuningCandidate("full", 1e9), TuningCandidate("lora", 1e9, 4)


def two_normals(gap: float, spread: float, draws: int = 4000) -> Losses:
    """Losses of A about 1 and of B about 1 + gap, each of the given standard deviation: exact quantiles, shuffled."""
    quantiles = stats.norm.ppf((np.arange(draws) + 0.5) / draws)
    random = np.random.default_rng(0)
    return {A: 1 + spread * random.permutation(quantiles), B: 1 + gap + spread * random.permutation(quantiles)}


class Line:
    """A loss predictor whose run measures a method's own loss, with noise."""

    def __init__(self, losses: np.ndarray, noise: float) -> None:
        self.losses, self.noise = losses, noise

    def loss_replicates(self, size: float, pet: float | None, examples: float) -> np.ndarray:
        return self.losses


def run(method: str, flops: float = 1.0) -> PossibleRun:
    return PossibleRun(method, "model", 1e9, 1e4, 1e9, None, flops)


def test_probability_and_regret_of_two_normals_are_their_closed_forms() -> None:
    gap, spread = 0.02, 0.03
    found = decide(two_normals(gap, spread))
    scale = spread * np.sqrt(2)
    assert found.chosen.candidate == A
    assert found.chosen.probability_best == pytest.approx(stats.norm.cdf(gap / scale), abs=0.01)
    expected = scale * stats.norm.pdf(gap / scale) - gap * stats.norm.cdf(-gap / scale)
    assert found.regret == pytest.approx(expected, rel=0.03)
    assert found.regret_95 == pytest.approx(-gap + scale * stats.norm.ppf(0.95), rel=0.05)
    assert found.runner_up is not None
    assert found.runner_up.probability_best == pytest.approx(1 - found.chosen.probability_best)
    low, high = found.chosen.interval.low, found.chosen.interval.high
    assert (low, high) == (pytest.approx(1 - 1.645 * spread, abs=1e-3), pytest.approx(1 + 1.645 * spread, abs=1e-3))


def test_variation_shared_by_all_candidates_does_not_change_the_decision() -> None:
    shared = np.random.default_rng(0).normal(size=200)
    found = decide({A: shared, TuningCandidate("full", 2e9): shared - 0.001})
    assert (found.chosen.candidate.size, found.chosen.probability_best, found.regret) == (2e9, 1.0, 0.0)


@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=8), st.integers(0, 10**6))
@settings(max_examples=50, deadline=None)
def test_properties_of_any_decision(means: list[float], seed: int) -> None:
    random = np.random.default_rng(seed)
    half = len(means) // 2
    names = [TuningCandidate("full", i + 1) for i in range(half)] + [
        TuningCandidate("lora", i + 1) for i in range(len(means) - half)
    ]
    drawn = random.normal(means, 0.3, size=(60, len(means)))
    losses = dict(zip(names, drawn.T, strict=True))
    found = decide(losses)
    assert sum(estimate.probability_best for estimate in found.estimates) == pytest.approx(1)
    assert found.regret >= 0
    assert found.chosen.probability_best <= found.method_best + 1e-12
    assert found.chosen.loss == pytest.approx(drawn.mean(axis=0).min())
    moved = decide({c: own + 5 for c, own in losses.items()})
    assert (moved.chosen.candidate, moved.regret) == (found.chosen.candidate, pytest.approx(found.regret))


def test_the_value_of_a_run_agrees_with_normal_theory() -> None:
    """Raiffa and Schlaifer 1961, 5.4: EVSI = s u(gap / s), s the standard deviation of the posterior mean."""
    gap, spread, noise = 0.02, 0.03, 0.02
    losses = two_normals(gap, spread, draws=400)
    predictors = {c.method: Line(own, noise) for c, own in losses.items()}
    found = propose([run("full")], predictors, losses, regret=1e-6)
    moved = spread**2 / np.hypot(spread, noise)
    expected = moved * stats.norm.pdf(gap / moved) - gap * stats.norm.cdf(-gap / moved)
    assert found[0].gain == pytest.approx(expected, abs=4 * found[0].error)
    assert found[0].error < expected / 5
    assert found[0].enlarged == 1


def test_two_runs_are_worth_more_than_one_and_less_than_perfect_information() -> None:
    losses = two_normals(0.02, 0.03, draws=400)
    regret = decide(losses).regret
    predictors = {c.method: Line(own, 0.02) for c, own in losses.items()}
    found = propose([run("full"), run("lora")], predictors, losses, regret)
    assert len(found) == 2
    assert regret > found[0].regret > found[1].regret > 0


def test_the_cheaper_of_two_equal_runs_is_proposed_first() -> None:
    losses = two_normals(0.02, 0.03, draws=400)
    predictors = {c.method: Line(own, 0.02) for c, own in losses.items()}
    for cheap, expensive in (("full", "lora"), ("lora", "full")):
        found = propose([run(expensive, 3.0), run(cheap, 1.0)], predictors, losses, 0.01)
        assert [one.run.method for one in found] == [cheap, expensive]


@pytest.mark.parametrize(("gap", "spread"), [(1.0, 0.01), (0.02, 0.0)])
def test_no_run_is_proposed_if_the_choice_is_certain(gap: float, spread: float) -> None:
    losses = two_normals(gap, spread, draws=200)
    predictors = {c.method: Line(own, 0.02) for c, own in losses.items()}
    assert propose([run("full"), run("lora")], predictors, losses, decide(losses).regret) == []


def test_noise_is_enlarged_until_enough_replicates_are_left() -> None:
    predicted = np.random.default_rng(0).normal(size=200)
    sigma = enlarged_noise(predicted, 1e-6)
    exponents = -0.5 * (predicted[:, None] - predicted) ** 2
    left, with_less_noise = (effective_replicates(exponents / s**2) for s in (sigma, sigma / 1.25))
    assert left >= MIN_EFFECTIVE > with_less_noise
    assert enlarged_noise(predicted, 5.0) == 5.0


def test_a_run_with_the_same_outcome_in_all_replicates_has_no_value() -> None:
    losses = two_normals(0.02, 0.03, draws=200)
    posterior = Posterior(losses)
    weights = posterior.after("full", np.ones(200), 0.01, np.random.default_rng(0).normal(size=OUTCOMES))
    assert posterior.gains("full", weights) == pytest.approx(0, abs=1e-12)


def test_the_grid_of_examples_fills_wide_gaps() -> None:
    assert example_grid({1000, 100, 150}) == [100, 150, 390, 1000]
