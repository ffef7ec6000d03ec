"""Laws of metrics: known laws are recovered and distinguished; no law fits noise or too few settings."""

import numpy as np
import pandas as pd
import pytest
from scipy import optimize

from finetune_scaling.analysis.metric_laws import MetricFinding, fit_metric
from finetune_scaling.laws.points.table import read_points

LOSSES = {(x, d): 8 / x**0.1 / d**0.1 + 0.4 for x in (1e6, 1e7, 1e8, 1e9) for d in (100, 300, 1000, 3000, 10000)}


def sigmoid(loss: float) -> float:
    return 45 / (1 + np.exp(8 * (loss - 0.9)))


def exponential(loss: float) -> float:
    return 2 + 90 * np.exp(-2.5 * loss)


def points(score, noise: float = 0.0, **extra: object) -> pd.DataFrame:
    random = np.random.default_rng(0)
    rows = [
        {"task": "t", "method": "lora", "factor": "model", "x": x, "finetune_examples": d, "loss": loss, "seed": 0}
        | {"held_out": int(d == 10000), "bleu": score(loss) + random.normal(0, noise), **extra}
        for (x, d), loss in LOSSES.items()
    ]
    return pd.DataFrame(rows)


def found(table: pd.DataFrame) -> MetricFinding:
    return fit_metric(read_points(table).settings, "bleu")


@pytest.mark.parametrize(
    ("score", "name", "expected"),
    [
        (sigmoid, "sigmoid", {"C": 45, "k": 8, "L0": 0.9}),
        (exponential, "exponential", {"C": 90, "k": 2.5, "F": 2}),
    ],
)
def test_a_known_law_is_recovered_preferred_and_extrapolates(score, name: str, expected: dict) -> None:
    finding = found(points(score, noise=0.02))
    assert finding.preferred == name
    assert finding.used is not None
    for parameter, value in expected.items():
        interval = finding.used.interval(parameter)
        assert interval.low is not None
        assert interval.high is not None
        assert interval.low - 0.05 * value <= value <= interval.high + 0.05 * value
    assert finding.used.held_out_error < 0.1
    losses = {"L": np.array([0.8, 1.0])}
    replicates = finding.used.predict_replicates(losses)
    assert replicates.shape == (200, 2)
    assert np.median(replicates, axis=0) == pytest.approx(finding.used.predict(losses), rel=0.02)


def test_the_fit_is_scipys_least_squares() -> None:
    table = points(sigmoid, noise=0.5)
    settings = read_points(table).settings
    own = settings[~settings["held_out"]]
    expected, _ = optimize.curve_fit(
        lambda loss, c, k, middle: c / (1 + np.exp(k * (loss - middle))), own["loss"], own["bleu"], p0=(45, 8, 0.9)
    )
    fit = next(f for f in found(table).fits if f.law.name == "sigmoid")
    assert list(fit.parameters.values()) == pytest.approx(expected, rel=1e-4)


def test_a_metric_that_rises_with_the_loss_is_fitted_too() -> None:
    finding = found(points(lambda loss: 30 + 20 * np.exp(0.8 * loss), noise=0.02))
    assert finding.used is not None
    assert finding.used.predict({"L": 1.2}) > finding.used.predict({"L": 0.8})


def test_no_law_fits_noise() -> None:
    finding = found(points(lambda loss: 20.0, noise=3))
    assert finding.used is None


@pytest.mark.parametrize(
    ("table", "why"),
    [
        (points(sigmoid).iloc[:7], "6 settings"),
        (points(lambda loss: 0.0), "all settings have the same bleu"),
        (points(lambda loss: sigmoid(loss) - 20), "bleu is below zero"),
        (points(sigmoid).assign(bleu=""), "0 settings"),
    ],
)
def test_an_inconclusive_finding_says_why(table: pd.DataFrame, why: str) -> None:
    finding = found(table)
    assert finding.why.startswith(why)
    assert finding.fits == ()
