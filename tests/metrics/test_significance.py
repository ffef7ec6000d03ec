"""Paired tests and intervals against sacrebleu, closed forms, enumeration and simulations."""

import math
import os
import random
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU, CHRF, TER
from sacrebleu.significance import PairedTest
from scipy import stats

from finetune_scaling.metrics.corpus import Corpus
from finetune_scaling.metrics.sacrebleu_metrics import bleu, chrf, ter
from finetune_scaling.metrics.significance import (
    Procedure,
    RatioScore,
    compare_corpora,
    compare_ratios,
    holm,
    randomization_p,
)

WORDS = ["der", "die", "das", "ein", "Haus", "Baum", "See", "steht", "liegt", "am", "im", "alten", "neuen", "und"]


def sentences(count, seed):
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(5, 15))) for _ in range(count)]


def worsened(texts, share, seed):
    draw = random.Random(seed)
    return [" ".join(word for word in text.split() if draw.random() > share) for text in texts]


def corpora(references, *systems):
    return [Corpus(texts, [[reference] for reference in references], "de") for texts in systems]


def sacrebleu_test(monkeypatch, scorer, systems, streams, test, samples, seed):
    """Run sacrebleu's own test as its command line does."""
    monkeypatch.setenv("SACREBLEU_SEED", str(seed))
    named = [(str(position), texts) for position, texts in enumerate(systems)]
    confidence = 1000 if test == "ar" else -1
    paired = PairedTest(named, {"m": scorer}, streams, test_type=test, n_samples=samples, n_ar_confidence=confidence)
    signatures, columns = paired()
    results = next(column for name, column in columns.items() if name != "System")
    return results, str(next(iter(signatures.values())))


@pytest.mark.parametrize(("test", "theirs", "samples"), [("randomization", "ar", 400), ("bootstrap", "bs", 300)])
@pytest.mark.parametrize(
    ("metric", "scorer"),
    [(bleu(), BLEU), (chrf(2), lambda: CHRF(word_order=2)), (ter(), TER)],
    ids=["bleu", "chrf", "ter"],
)
def test_corpus_metrics_equal_sacrebleu(monkeypatch, metric, scorer, test, theirs, samples):
    references = sentences(60, 1)
    systems = [worsened(references, share, position) for position, share in enumerate((0.2, 0.22, 0.4))]
    expected, signature = sacrebleu_test(monkeypatch, scorer(), systems, [references], theirs, samples, 7)
    monkeypatch.delenv("SACREBLEU_SEED")
    outcomes, ours = compare_corpora(metric, corpora(references, *systems), Procedure(test, samples, 7))
    assert ours == signature
    assert "SACREBLEU_SEED" not in os.environ
    for outcome, result in zip(outcomes, expected, strict=True):
        assert outcome.score == result.score
        assert outcome.p_value == result.p_value
        assert (outcome.mean, outcome.low, outcome.high) == (
            result.mean,
            result.mean - result.ci,
            result.mean + result.ci,
        )


def test_several_references_equal_sacrebleu(monkeypatch):
    first, second = sentences(40, 1), sentences(40, 2)
    systems = [worsened(first, 0.2, 1), worsened(second, 0.3, 2)]
    expected, _ = sacrebleu_test(monkeypatch, BLEU(), systems, [first, second], "ar", 200, 12345)
    both = [Corpus(texts, list(zip(first, second, strict=True)), "de") for texts in systems]
    outcomes, _ = compare_corpora(bleu(), both, Procedure("randomization", 200))
    assert (outcomes[1].score, outcomes[1].p_value) == (expected[1].score, expected[1].p_value)


class MeanInSacrebleu:
    """A mean over segments as a sacrebleu metric: hypotheses are numbers, statistics are (number, 1)."""

    def _extract_corpus_statistics(self, hypotheses, references):
        return [[float(text), 1.0] for text in hypotheses]

    def _compute_score_from_stats(self, sums):
        return SimpleNamespace(score=sums[0] / sums[1], name="mean")

    def _aggregate_and_compute(self, stats):
        return self._compute_score_from_stats(np.sum(stats, axis=0))

    def get_signature(self):
        return SimpleNamespace(update=lambda *_: None)


@pytest.mark.parametrize(("test", "theirs", "samples"), [("randomization", "ar", 500), ("bootstrap", "bs", 400)])
def test_means_equal_sacrebleus_procedure(monkeypatch, test, theirs, samples):
    draw = np.random.default_rng(0)
    base = draw.normal(50, 10, 80)
    others = [base + draw.normal(1.0, 6, 80), base + draw.normal(0.2, 6, 80)]
    texts = [[repr(float(value)) for value in values] for values in (base, *others)]
    expected, _ = sacrebleu_test(monkeypatch, MeanInSacrebleu(), texts, [texts[0]], theirs, samples, 99)
    outcomes = compare_ratios([RatioScore.mean_of(v) for v in (base, *others)], Procedure(test, samples, 99))
    for outcome, result in zip(outcomes, expected, strict=True):
        assert outcome.score == pytest.approx(result.score, rel=1e-12)
        assert outcome.mean == pytest.approx(result.mean, rel=1e-6)  # sacrebleu resamples in float32
        assert outcome.high - outcome.mean == pytest.approx(result.ci, rel=1e-4)
        assert outcome.p_value == (None if result.p_value is None else pytest.approx(result.p_value, abs=1e-12))


def p_value(left, right, procedure):
    return compare_ratios([RatioScore.mean_of(left), RatioScore.mean_of(right)], procedure)[1].p_value


@given(st.lists(st.tuples(*[st.integers(0, 4)] * 2), min_size=2, max_size=7))
def test_few_segments_have_scipys_exact_p(pairs):
    left, right = (np.array(values, float) for values in zip(*pairs, strict=True))
    expected = stats.permutation_test((left, right), lambda a, b: np.mean(a) - np.mean(b), permutation_type="samples")
    assert p_value(left, right, Procedure("randomization", 200)) == pytest.approx(expected.pvalue, abs=1e-12)


def test_drawn_shuffles_approach_the_exact_p():
    draw = np.random.default_rng(5)
    left, right = RatioScore.mean_of(draw.normal(0, 1, 12)), RatioScore.mean_of(draw.normal(0.5, 1, 12))
    exact = compare_ratios([left, right], Procedure("randomization", 4096))[1].p_value
    drawn = randomization_p(left, right, np.random.default_rng(1).integers(2, size=(4000, 12), dtype=bool))
    error = math.sqrt(exact * (1 - exact) / 4000)
    assert 0 < abs(drawn - exact) < 4 * error


def test_one_differing_segment_is_not_significant_unlike_in_sacrebleu(monkeypatch):
    references = sentences(30, 1)
    base = worsened(references, 0.2, 1)
    better = [references[0], *base[1:]]
    theirs, _ = sacrebleu_test(monkeypatch, BLEU(), [base, better], [references], "ar", 500, 12345)
    assert theirs[1].p_value < 0.01  # every shuffle differs by exactly as much, and only larger ones are counted
    ours, _ = compare_corpora(bleu(), corpora(references, base, better), Procedure("randomization", 500))
    assert ours[1].p_value == 1
    values = np.zeros(30)
    one_right = values.copy()
    one_right[3] = 100
    assert p_value(values, one_right, Procedure("randomization")) == 1


@pytest.mark.parametrize("test", ["randomization", "bootstrap"])
def test_identical_systems_have_p_1(test):
    references = sentences(20, 1)
    base = worsened(references, 0.3, 1)
    procedure = Procedure(test, 100)
    assert compare_corpora(chrf(), corpora(references, base, base), procedure)[0][1].p_value == 1
    assert compare_ratios([RatioScore.mean_of(np.arange(20.0))] * 2, procedure)[1].p_value == 1


def test_losses_per_token_are_ratios_of_sums():
    sums, tokens = np.array([2.0, 9.0, 4.0]), np.array([1.0, 3.0, 2.0])
    base, system = RatioScore(sums, tokens), RatioScore(sums * 1.1, tokens)
    outcomes = compare_ratios([base, system], Procedure("randomization", 100))
    assert outcomes[0].score == 15 / 6
    assert outcomes[1].score == pytest.approx(16.5 / 6)
    assert outcomes[1].p_value == 2 / 2**3
    resamples = [
        sums[list(positions)].sum() / tokens[list(positions)].sum()
        for positions in np.random.default_rng(12345).choice(3, size=(1000, 3), replace=True)
    ]
    assert outcomes[0].mean == pytest.approx(np.mean(resamples), rel=1e-12)


def false_positive_rate(test):
    """Return how often p < 0.05 for two systems with the same distribution, in 400 simulations of 50 segments."""
    draw = np.random.default_rng(8)
    pairs = [[RatioScore.mean_of(draw.normal(0, 1, 50)) for _ in range(2)] for _ in range(400)]
    return sum(compare_ratios(pair, Procedure(test, 200))[1].p_value < 0.05 for pair in pairs) / 400


def test_the_false_positive_rate_of_randomization_is_the_level():
    assert stats.binomtest(round(400 * false_positive_rate("randomization")), 400, 0.05).pvalue > 1e-3


def test_the_false_positive_rate_of_sacrebleus_bootstrap_is_twice_the_level():
    """It compares centered absolute differences with the observed difference, which is effectively one-sided."""
    assert 0.07 < false_positive_rate("bootstrap") < 0.15
    assert Procedure().test == "randomization"


def test_intervals_have_nominal_coverage():
    draw = np.random.default_rng(9)
    held = 0
    for _ in range(400):
        outcome = compare_ratios([RatioScore.mean_of(draw.exponential(1.0, 200))], Procedure("bootstrap", 500))[0]
        held += outcome.low <= 1.0 <= outcome.high
    assert 0.91 <= held / 400 <= 0.98


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        ([], []),
        ([0.03], [0.03]),
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # Wikipedia's example of the method
        ([0.5, 0.6], [1.0, 1.0]),
        ([0.02, 0.02], [0.04, 0.04]),
    ],
)
def test_holm_adjusted_p_values(p_values, adjusted):
    assert holm(p_values) == pytest.approx(adjusted)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_adjusted_p_values_keep_their_order_and_never_decrease(p_values):
    adjusted = holm(p_values)
    assert all(p <= a <= min(1, len(p_values) * p + 1e-12) for p, a in zip(p_values, adjusted, strict=True))
    assert [a for _, a in sorted(zip(p_values, adjusted, strict=True))] == sorted(adjusted)
