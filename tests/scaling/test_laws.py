"""Laws are data: formulas, starts, layouts, and how a user adds one."""

import numpy as np
import pytest

from finetune_scaling.errors import ConfigError
from finetune_scaling.scaling.fitting.program import FitPoints, FitSettings, fit
from finetune_scaling.scaling.laws import declared as laws
from finetune_scaling.scaling.points.table import FACTORS

VALUES = {"A": 3.0, "B": 5.0, "E": 0.7, "alpha": 0.3, "beta": 0.2}


@pytest.mark.parametrize("law", laws.LAWS.values(), ids=list(laws.LAWS))
def test_prediction_is_the_printed_formula(law: laws.Law) -> None:
    factors = {"X": 7.0, "N": 7.0, "D": 11.0}
    formula = law.formula.removeprefix("L = ").replace("^", "**")
    assert laws.predict(law, VALUES, factors) == pytest.approx(eval(formula, {}, VALUES | factors))


def test_chinchillas_grid_has_4500_starts() -> None:
    assert laws.Layout(laws.CHINCHILLA).starts().shape == (4500, 5)
    assert laws.Layout(laws.ADDITIVE, FACTORS).starts().shape == (4500, 9)
    assert laws.Layout(laws.MULTIPLICATIVE, FACTORS).starts().shape == (750, 8)
    assert laws.Layout(laws.SINGLE).starts().shape == (150, 3)


def test_layout_names_factors_and_goes_both_ways() -> None:
    layout = laws.Layout(laws.MULTIPLICATIVE, FACTORS)
    assert layout.names == ("E", "beta", "A_model", "A_pretrain", "A_pet", "alpha_model", "alpha_pretrain", "alpha_pet")
    vector = np.linspace(-1, 1, 8)
    np.testing.assert_allclose(layout.to_vector(layout.to_natural(vector)), vector)
    own = laws.of_factor(layout.to_natural(vector), "pretrain")
    assert set(own) == {"E", "beta", "A", "alpha"}


def test_an_unknown_law_is_named() -> None:
    with pytest.raises(ConfigError, match="--law=chinchila is not a law; choose one of single"):
        laws.law_named("chinchila")


def test_a_new_law_is_a_function_and_its_parameters() -> None:
    def vanilla(p: laws.Values, x: laws.Values) -> tuple:
        return (p["A"] - p["beta"] * x["D"],)

    law = laws.Law(
        name="vanilla",
        formula="L = A / D^beta",
        factors=("D",),
        parameters=(
            laws.Parameter("A", True, laws.COEFFICIENT_STARTS),
            laws.Parameter("beta", False, laws.EXPONENT_STARTS),
        ),
        log_terms=vanilla,
        residual="log",
        source="a test",
    )
    d = np.geomspace(10, 1e5, 9)
    points = FitPoints({"D": np.log(d)}, 4 / d**0.25, np.zeros(9, int))
    layout = laws.Layout(law)
    vectors, _ = fit(layout, points, np.ones((1, 9)), layout.starts(), np.ones(2, bool), FitSettings())
    assert layout.to_natural(vectors[0]) == {"A": pytest.approx(4, rel=1e-5), "beta": pytest.approx(0.25, rel=1e-5)}
