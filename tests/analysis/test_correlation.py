"""Correlations with the loss: coefficients are SciPy's, intervals cover, and verdicts follow their rule."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from finetune_scaling.analysis.claims import INCONCLUSIVE
from finetune_scaling.analysis.correlation import (
    DOES_NOT_TRACK,
    MIN_SETTINGS,
    TRACKING_THRESHOLD,
    TRACKS_LOSS,
    bca_interval,
    correlate,
    correlations,
    pearson,
    proxy_verdicts,
    spearman,
)
from finetune_scaling.laws.points.table import read_points


def normal_pairs(r: float, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Normal pairs whose correlation in the population is r."""
    draw = np.random.default_rng(seed)
    x, noise = draw.normal(size=(2, count))
    return x, r * x + np.sqrt(1 - r * r) * noise


def correlation(x, y, metric="bleu"):
    return correlate("task", "full", "model", metric, x, y)


@pytest.mark.parametrize("r", [-0.98, -0.5, 0.0, 0.9])
def test_coefficients_and_p_values_are_scipys(r):
    x, y = normal_pairs(r, 23)
    y = np.round(y, 1)  # with ties
    found = correlation(x, y)
    assert found.pearson.value == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12)
    assert found.pearson.p == stats.pearsonr(x, y).pvalue
    assert found.spearman.value == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    assert found.spearman.p == stats.spearmanr(x, y).pvalue


@pytest.mark.parametrize("r", [0.0, -0.8])
def test_the_interval_of_normal_pairs_is_close_to_fishers(r):
    x, y = normal_pairs(r, 200, seed=5)
    low, high = bca_interval(pearson, x, y)
    centre, half = np.arctanh(stats.pearsonr(x, y).statistic), stats.norm.ppf(0.95) / np.sqrt(200 - 3)
    assert (low, high) == pytest.approx((np.tanh(centre - half), np.tanh(centre + half)), abs=0.03)


def test_spearman_over_an_axis_is_scipys():
    x, y = np.random.default_rng(0).normal(size=(2, 4, 9)).round(1)
    assert spearman(x, y) == pytest.approx([stats.spearmanr(a, b).statistic for a, b in zip(x, y, strict=True)])


@pytest.mark.parametrize("count", [MIN_SETTINGS, 12])
def test_about_nine_intervals_of_ten_contain_the_true_value(count):
    tries = 120
    contained = 0
    for seed in range(tries):
        low, high = bca_interval(pearson, *normal_pairs(-0.8, count, seed))
        contained += low <= -0.8 <= high
    assert 0.82 <= contained / tries <= 0.98


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=MIN_SETTINGS, max_size=12))
def test_an_interval_is_within_one_and_changes_sign_with_the_metric(pairs):
    x, y = np.array(pairs, float).T
    found, negated = correlation(x, y), correlation(x, -y)
    assert (found.pearson is None) == (np.ptp(x) == 0 or np.ptp(y) == 0)
    if found.pearson:
        assert -1 <= found.pearson.low <= found.pearson.high <= 1
        assert negated.pearson.value == pytest.approx(-found.pearson.value)


@pytest.mark.parametrize(
    ("metric", "r", "verdict"),
    [
        ("bleu", -0.99, TRACKS_LOSS),
        ("bleu", 0.99, DOES_NOT_TRACK),  # the wrong direction
        ("bleu", -0.2, DOES_NOT_TRACK),
        ("bleu", -TRACKING_THRESHOLD, INCONCLUSIVE),
        ("ter", 0.99, TRACKS_LOSS),
        ("ter", -0.99, DOES_NOT_TRACK),
        ("zero_shot.ter", 0.99, TRACKS_LOSS),
    ],
)
def test_the_verdict_depends_on_which_direction_is_better(metric, r, verdict):
    found = correlation(*normal_pairs(r, 60, seed=1), metric=metric)
    assert found.verdict == verdict
    assert verdict in found.sentence
    assert f"{found.pearson.value:.3f}" in found.sentence


def test_an_inconclusive_correlation_says_why():
    few = correlation(*normal_pairs(-0.99, MIN_SETTINGS - 1))
    assert (few.verdict, few.pearson) == (INCONCLUSIVE, None)
    assert few.why.startswith("4 settings")
    flat = correlation(np.arange(9.0), np.zeros(9))
    assert flat.why == "all settings have the same bleu"


def test_a_perfect_line_tracks_the_loss():
    x = np.arange(8.0)
    found = correlation(x, 50 - 3 * x)
    assert (found.pearson.low, found.pearson.high) == pytest.approx((-1, -1))
    assert found.verdict == TRACKS_LOSS


def points(folder, metrics, count=12):
    """points.csv of two methods over model size; metrics: {column: value of (method, loss)}."""
    lines = [",".join(["task,method,factor,x,finetune_examples,loss,seed,held_out", *metrics])]
    for method in ("full", "lora"):
        for i in range(count):
            loss = 2 + 1.5 / (i + 1) + 0.01 * np.sin(7 * i)
            values = [function(method, loss) for function in metrics.values()]
            row = ["t", method, "model", 10 ** (6 + i % 3), 100 * (i + 1), loss, 0, int(i == 5), *values]
            lines.append(",".join("" if v is None else str(v) for v in row))
    (folder / "points.csv").write_text("\n".join(lines))
    return read_points(folder / "points.csv")


def test_a_metric_is_a_proxy_only_where_it_tracks_the_loss_everywhere(tmp_path):
    noise = np.random.default_rng(0)
    table = points(
        tmp_path,
        {
            "bleu": lambda method, loss: 50 - 10 * loss,
            "chrf": lambda method, loss: noise.normal() if method == "lora" else -loss,
            "few_shot_1.bleu": lambda method, loss: -loss if method == "full" else None,
            "few_shot_1.untuned.bleu": lambda method, loss: 3,
            "few_shot_1.loss": lambda method, loss: loss,
            "few_shot_1.entropy": lambda method, loss: 1,
        },
    )
    found = correlations(table)
    assert {c.metric for c in found} == {"bleu", "chrf", "few_shot_1.bleu"}  # no losses, nothing of the data
    verdicts = {metric: (verdict, re.findall(r"\d", tally)) for _, metric, verdict, tally in proxy_verdicts(found)}
    assert verdicts == {
        "bleu": (TRACKS_LOSS, ["2", "2"]),  # in 2 of 2
        "chrf": (DOES_NOT_TRACK, ["1", "1", "2"]),
        "few_shot_1.bleu": (TRACKS_LOSS, ["1", "1"]),
    }
    assert [c.verdict for c in found if c.metric == "chrf"] == [TRACKS_LOSS, DOES_NOT_TRACK]
    assert all(c.settings == 12 for c in found)  # held-out ones too
    assert table.ignored == ()
