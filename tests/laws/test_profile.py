"""Profile likelihood against theory: least squares of a line give the textbook interval, and a flat side stays open."""

import numpy as np
import pytest
from scipy import stats

from finetune_scaling.laws.fitting.huber_fit import FitPoints, FitProblem, FitSettings
from finetune_scaling.laws.fitting.one_stage import fit_law
from finetune_scaling.laws.fitting.profile import Profile, profiles
from finetune_scaling.laws.forms.declared import Law, ParameterLayout, coefficient, exponent
from finetune_scaling.laws.forms.library import SINGLE
from finetune_scaling.laws.uncertainty.bootstrap import Resampling

LINE = Law(
    name="line",
    formula="L = A / D^beta",
    factors=("D",),
    parameters=(coefficient("A"), exponent("beta")),
    log_terms=lambda p, x, xp: (p["A"] - p["beta"] * x["D"],),
    residual="log",
    source="a line in logarithms",
)


def profiled(law: Law, d: np.ndarray, loss: np.ndarray, settings: FitSettings) -> dict[str, Profile]:
    problem = FitProblem(ParameterLayout(law), FitPoints({"D": d}, loss), settings)
    fitted = fit_law(law, {"D": d}, loss, settings, Resampling("settings", 40))
    return profiles(problem, np.ones(len(d)), fitted, np.ones(len(fitted.vector), bool))


def test_the_profile_of_a_line_is_the_textbook_interval() -> None:
    d = np.geomspace(10, 1e5, 40)
    noise = np.random.default_rng(0).normal(0, 0.02, 40)
    found = profiled(LINE, d, 4 / d**0.25 * np.exp(noise), FitSettings(huber_delta=10.0, residual="log"))
    line = stats.linregress(np.log(d), np.log(4 / d**0.25) + noise)
    margin = stats.norm.ppf(0.95) * line.stderr
    assert found["beta"].interval.low == pytest.approx(-line.slope - margin, abs=0.02 * margin)
    assert found["beta"].interval.high == pytest.approx(-line.slope + margin, abs=0.02 * margin)
    assert (np.diff(found["beta"].values) > 0).all()
    assert found["beta"].rises.min() == 0


def test_an_offset_that_is_not_distinguishable_from_zero_is_open_below() -> None:
    d = np.geomspace(10, 1e3, 12)
    loss = 4 / d**0.05 * np.exp(np.random.default_rng(0).normal(0, 0.01, 12))
    found = profiled(SINGLE, d, loss, FitSettings())
    assert found["E"].interval.low is None
