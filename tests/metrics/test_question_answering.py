"""Exact match and token F1: known values, and a reference implementation of SQuAD's rules."""

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_scaling.metrics.registry import score


def scores(hypothesis, references, language="en"):
    found = score([hypothesis], [references], language, metrics=["exact_match", "f1"])
    return found["exact_match"]["score"], found["f1"]["score"]


@pytest.mark.parametrize(
    ("hypothesis", "reference", "exact", "f1"),
    [
        ("The Denver Broncos!", "denver broncos", 100, 100),
        ("the cat sat", "a cat sat down", 0, 200 * 2 / 5),  # articles are no tokens
        ("cat cat cat", "cat", 0, 200 * 1 / 4),  # each token of the reference is found once
        ("theatre", "atre", 0, 0),  # articles are whole words
        ("", "the", 100, 100),  # no tokens in either
        ("the", "-", 100, 100),
        ("", "cat", 0, 0),
        ("U.S.A.", "usa", 100, 100),
    ],
)
def test_english_is_scored_as_in_squad(hypothesis, reference, exact, f1):
    assert scores(hypothesis, [reference]) == pytest.approx((exact, f1))


@pytest.mark.parametrize(
    ("language", "hypothesis", "reference", "exact", "f1"),
    [
        ("de", "Die Größe der Tür.", "die größe der tür", 100, 100),
        ("de", "die Tür", "der Tür", 0, 50),
        ("zh", "我喜欢苹果。", "我喜欢梨子", 0, 60),
        ("zh", "我喜欢苹果。", "我喜欢苹果", 100, 100),
        ("fr", "a the an", "the a an", 0, 100),  # no articles of English are taken out of another language
    ],
)
def test_other_languages_use_unicode_tokens(language, hypothesis, reference, exact, f1):
    assert scores(hypothesis, [reference], language) == pytest.approx((exact, f1))


def test_the_best_reference_counts_for_each_metric():
    assert scores("a big dog", ["small cat", "big dogs", "big dog"]) == (100, 100)
    assert scores("big dog", ["small cat", "dog"]) == pytest.approx((0, 200 / 3))


def test_signatures_name_the_normalization():
    english = score(["a"], [["a"]], "en", metrics=["f1"])["f1"]["signature"]
    assert english == "nrefs:1|case:lc|norm:squad|tok:spaces|score:mean-x100"
    chinese = score(["好"], [["好", "坏"]], "zh", metrics=["exact_match"])["exact_match"]["signature"]
    assert chinese == "nrefs:2|case:lc|tok:characters|stem:no|score:mean-x100"


def plain_squad(text):
    kept = "".join(char for char in text.lower() if char not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())


def plain_f1(hypothesis, reference):
    left, right = plain_squad(hypothesis).split(), plain_squad(reference).split()
    if not left or not right:
        return float(left == right)
    shared = sum(min(left.count(word), right.count(word)) for word in set(left))
    if not shared:
        return 0.0
    precision, recall = shared / len(left), shared / len(right)
    return 2 * precision * recall / (precision + recall)


PHRASES = st.lists(st.sampled_from(["the", "A", "cat.", "cats", "an", "-", "dog"]), max_size=6).map(" ".join)


@given(PHRASES, PHRASES.filter(bool))
def test_english_scores_equal_those_of_a_reference_implementation(hypothesis, reference):
    exact, f1 = scores(hypothesis, [reference])
    assert exact == 100 * (plain_squad(hypothesis) == plain_squad(reference))
    assert f1 == pytest.approx(100 * plain_f1(hypothesis, reference))
