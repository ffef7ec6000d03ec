"""Minimization of the Huber objective: against SciPy, and by its properties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from finetune_scaling.laws.fitting.huber_fit import (
    FitPoints,
    FitProblem,
    FitSettings,
    local_refit,
    multistart_fit,
    padded_size,
)
from finetune_scaling.laws.forms import declared as laws
from finetune_scaling.laws.forms.library import LAWS, MULTIPLICATIVE, SINGLE

DELTA = 1e-3


def reference_objective(law: laws.Law, vector: np.ndarray, factors: dict, loss: np.ndarray, residual: str) -> float:
    """The Huber objective in NumPy."""
    predicted = laws.predict(law, laws.ParameterLayout(law).to_natural(vector), factors)
    gap = np.abs(np.log(predicted / loss) if residual == "log" else predicted - loss)
    return float(np.where(gap <= DELTA, gap**2 / 2, DELTA * (gap - DELTA / 2)).sum())


TRUTHS = {  # law -> low and high end of each parameter; factors are drawn from RANGES
    "single": {"E": (0.3, 1.8), "A": (1, 4), "beta": (0.05, 0.5)},
    "vanilla": {"E": (0.3, 1.8), "A": (1, 4), "beta": (0.05, 0.5), "alpha": (0.5, 2)},
    "rectified": {"E": (0.3, 1.8), "A": (10, 90), "beta": (0.2, 0.6), "Dl": (3, 30)},
    "multiplicative": {"E": (0.3, 1.8), "A": (50, 500), "alpha": (0.1, 0.3), "beta": (0.05, 0.3)},
    "additive": {"E": (0.3, 1.8), "A": (10, 50), "B": (1, 9), "alpha": (0.1, 0.3), "beta": (0.05, 0.5)},
    "rectified_joint": {"E": (0.3, 1.8), "A": (90, 900), "alpha": (0.1, 0.3), "beta": (0.2, 0.6), "Dl": (3, 30)},
    "all_factors": {"E": (0.3, 1.8), "A": (5e3, 2e4), "alphaN": (0.1, 0.3), "alphaT": (0.1, 0.2), "alphaP": (0, 0.05)}
    | {"beta": (0.05, 0.1)},
    "chinchilla": {"E": (0.3, 1.8), "A": (50, 500), "B": (50, 500), "alpha": (0.2, 0.4), "beta": (0.2, 0.4)},
    "pretraining": {"E": (0.3, 1.8), "A": (10, 50), "alpha": (0.1, 0.3)},
    "exponential": {"F": (0.01, 5), "C": (20, 200), "k": (0.5, 2)},
    "sigmoid": {"C": (20, 60), "k": (1, 5), "L0": (1, 3)},
}
RANGES = {"X": (5, 10), "N": (7, 10), "T": (9, 12), "P": (0.5, 2.5), "D": (2, 7), "L": (-0.3, 0.6)}


def noisy_points(law: laws.Law, seed: int) -> tuple[dict, np.ndarray]:
    """Points of a random law of this form with noise and a few outliers."""
    random = np.random.default_rng(seed)
    factors = {name: 10 ** random.uniform(*RANGES[name], 40) for name in law.factors}
    truth = {name: random.uniform(*ends) for name, ends in TRUTHS[law.name].items()}
    loss = laws.predict(law, truth, factors) * np.exp(random.normal(0, 0.01, 40))
    loss[:3] *= 1.2
    return factors, loss


def to_problem(law: laws.Law, factors: dict, loss: np.ndarray) -> FitProblem:
    return FitProblem(laws.ParameterLayout(law), FitPoints(factors, loss), FitSettings(DELTA))


def scipy_best(law: laws.Law, starts: np.ndarray, factors: dict, loss: np.ndarray, residual: str) -> float:
    """Least objective of scipy's L-BFGS-B with numerical gradients over the starts."""

    def objective(vector: np.ndarray) -> float:
        value = reference_objective(law, vector, factors, loss, residual)
        return value if np.isfinite(value) else 1e9

    with np.errstate(all="ignore"):
        return min(minimize(objective, start, method="L-BFGS-B", options={"maxiter": 500}).fun for start in starts)


@pytest.mark.parametrize("name", LAWS)
def test_never_worse_than_scipy_from_the_same_starts(name: str) -> None:
    law, residual = LAWS[name], LAWS[name].residual
    layout = laws.ParameterLayout(law)
    for seed in range(4):
        factors, loss = noisy_points(law, seed)
        starts = np.random.default_rng(seed).permutation(layout.starts())[:8]
        vectors, values = multistart_fit(to_problem(law, factors, loss).batch(), starts)
        expected = reference_objective(law, vectors[0], factors, loss, residual)
        assert values[0] == pytest.approx(expected, rel=1e-9)
        best = scipy_best(law, starts, factors, loss, residual)
        assert values[0] <= best * (1 + 1e-6), f"seed {seed}"


def test_points_without_noise_recover_the_law() -> None:
    factors, _ = noisy_points(MULTIPLICATIVE, 0)
    truth = {"E": 0.62, "beta": 0.081, "A": 2.1e3, "alpha": 0.36}
    problem = to_problem(MULTIPLICATIVE, factors, laws.predict(MULTIPLICATIVE, truth, factors))
    vectors, _ = multistart_fit(problem.batch())
    assert problem.layout.to_natural(vectors[0]) == {
        name: pytest.approx(value, rel=1e-3) for name, value in truth.items()
    }


def test_points_of_weight_zero_are_ignored_and_frozen_entries_stay() -> None:
    factors, loss = noisy_points(MULTIPLICATIVE, 1)
    free = np.array([True, False, True, True])
    starts = laws.ParameterLayout(MULTIPLICATIVE).starts({"beta": 0.1})
    part = {name: values[:30] for name, values in factors.items()}
    weights = (np.arange(40) < 30).astype(float)[None]
    alone, _ = multistart_fit(to_problem(MULTIPLICATIVE, part, loss[:30]).batch(free=free), starts)
    masked, _ = multistart_fit(to_problem(MULTIPLICATIVE, factors, loss).batch(weights, free=free), starts)
    np.testing.assert_allclose(masked, alone, rtol=1e-9)
    assert masked[0, 1] == 0.1


def test_rows_of_weights_are_separate_problems() -> None:
    factors, loss = noisy_points(SINGLE, 2)
    problem = to_problem(SINGLE, factors, loss)
    weights = (np.random.default_rng(0).random((3, 40)) < 0.7).astype(float)
    together, values = multistart_fit(problem.batch(weights))
    for row, vector, value in zip(weights, together, values, strict=True):
        alone, single = multistart_fit(problem.batch(row[None]))
        assert value == pytest.approx(single[0], rel=1e-9)
        assert vector == pytest.approx(alone[0], rel=1e-5)


def test_a_local_refit_of_the_optimum_stays_there() -> None:
    factors, loss = noisy_points(MULTIPLICATIVE, 3)
    batch = to_problem(MULTIPLICATIVE, factors, loss).batch()
    vectors, values = multistart_fit(batch)
    again, same = local_refit(batch, vectors)
    np.testing.assert_allclose(again, vectors, rtol=1e-6)
    assert same[0] <= values[0] * (1 + 1e-12)


def test_other_code_in_the_process_keeps_float32() -> None:
    factors, loss = noisy_points(SINGLE, 0)
    vectors, _ = multistart_fit(to_problem(SINGLE, factors, loss).batch())
    assert vectors.dtype == np.float64
    assert jnp.asarray(1.0).dtype == jnp.float32
    assert not jax.config.jax_enable_x64


def test_programs_are_compiled_for_few_sizes() -> None:
    assert [padded_size(n) for n in (1, 64, 65, 128, 130, 600)] == [64, 64, 128, 128, 256, 1024]
