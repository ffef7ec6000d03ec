"""Laws as data: formulas, starting values, layouts, and laws declared in a user's file."""

from pathlib import Path

import numpy as np
import pytest

from finetune_scaling.errors import ConfigError
from finetune_scaling.laws.fitting.huber_fit import FitPoints, FitProblem, multistart_fit
from finetune_scaling.laws.forms import declared as laws
from finetune_scaling.laws.forms.library import ADDITIVE, CHINCHILLA, LAWS, MULTIPLICATIVE, SINGLE, law_named
from finetune_scaling.laws.points.columns import FACTORS

VALUES = {"A": 3.0, "B": 5.0, "C": 4.0, "E": 0.7, "F": 0.1, "Dl": 6.0, "L0": 2.5, "k": 1.7, "alpha": 0.3, "beta": 0.2}
VALUES |= {"alphaN": 0.3, "alphaT": 0.1, "alphaP": 0.01}


@pytest.mark.parametrize("law", LAWS.values(), ids=list(LAWS))
def test_prediction_is_the_printed_formula(law: laws.Law) -> None:
    factors = {"X": 7.0, "N": 7.0, "T": 5.0, "P": 3.0, "D": 11.0, "L": 2.2}
    formula = law.formula.partition(" = ")[2].replace("^", "**")
    assert laws.predict(law, VALUES, factors) == pytest.approx(eval(formula, {"exp": np.exp}, VALUES | factors))


def test_the_grid_of_chinchilla_has_4500_starts() -> None:
    assert laws.ParameterLayout(CHINCHILLA).starts().shape == (4500, 5)
    assert laws.ParameterLayout(ADDITIVE, FACTORS).starts().shape == (4500, 9)
    assert laws.ParameterLayout(MULTIPLICATIVE, FACTORS).starts().shape == (750, 8)
    assert laws.ParameterLayout(SINGLE).starts().shape == (150, 3)


def test_a_layout_names_parameters_and_converts_both_ways() -> None:
    layout = laws.ParameterLayout(MULTIPLICATIVE, FACTORS)
    assert layout.names == ("E", "beta", "A_model", "A_pretrain", "A_pet", "alpha_model", "alpha_pretrain", "alpha_pet")
    vector = np.linspace(-1, 1, 8)
    natural = layout.to_natural(vector).values()
    again = [p.to_unconstrained(value) for (p, _), value in zip(layout.slots, natural, strict=True)]
    np.testing.assert_allclose(again, vector)
    own = laws.factor_parameters(layout.to_natural(vector), "pretrain")
    assert set(own) == {"E", "beta", "A", "alpha"}


def test_an_unknown_law_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"'chinchila' is unknown.*chinchilla"):
        law_named("chinchila")


OWN_LAW = """
from finetune_scaling.laws.forms.declared import Law, Parameter, coefficient

def terms(p, x, xp):  # the logs of the law's terms; p["A"] is log A, x["D"] is log D
    return (p["A"] - p["beta"] * x["D"],)

PLAIN = Law(
    name="plain", formula="L = A / D^beta", factors=("D",), log_terms=terms, residual="log", source="mine",
    parameters=(coefficient("A"), Parameter("beta", starts=(0.2, 0.5), low=0.0, high=1.0)),
)
"""


def test_a_law_is_declared_in_a_users_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN_LAW)
    law = law_named(f"{tmp_path}/mine.py:PLAIN")
    d = np.geomspace(10, 1e5, 9)
    layout = laws.ParameterLayout(law)
    vectors, _ = multistart_fit(FitProblem(layout, FitPoints({"D": d}, 4 / d**0.25)).batch())
    assert layout.to_natural(vectors[0]) == {"A": pytest.approx(4, rel=1e-5), "beta": pytest.approx(0.25, rel=1e-5)}


def test_a_bounded_parameter_stays_inside(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN_LAW)
    layout = laws.ParameterLayout(law_named(f"{tmp_path}/mine.py:PLAIN"))
    d = np.geomspace(10, 1e5, 9)
    vectors, _ = multistart_fit(FitProblem(layout, FitPoints({"D": d}, 4e6 / d**1.5)).batch())
    assert 0.99 < layout.to_natural(vectors[0])["beta"] <= 1


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        (OWN_LAW, "OTHER", "OTHER is missing"),
        ("OTHER = 3", "OTHER", "OTHER is a int, not a Law"),
        ("import nothing_of_that_name", "OTHER", "ModuleNotFoundError while reading it"),
        (OWN_LAW.replace("high=1.0", "high=-1.0"), "PLAIN", "are not supported"),
        (OWN_LAW.replace("(0.2, 0.5)", "(0.2, 1.5)"), "PLAIN", "must be inside"),
        (OWN_LAW.replace('coefficient("A")', 'coefficient("A_0")'), "PLAIN", "remove it"),
    ],
)
def test_the_error_of_an_invalid_law_names_the_problem(tmp_path: Path, text: str, name: str, message: str) -> None:
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(ConfigError, match=message):
        law_named(f"{tmp_path}/mine.py:{name}")


def test_a_law_without_sharing_has_separate_parameters() -> None:
    layout = laws.ParameterLayout(law_named("multiplicative_free"), FACTORS)
    assert len(layout.names) == 12
    assert "beta_pet" in layout.names
