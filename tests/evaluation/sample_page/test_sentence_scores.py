"""Sentence scores equal those of sacrebleu and rouge-score."""

import pytest
import sacrebleu
from rouge_score import rouge_scorer

from finetune_scaling.errors import ConfigError
from finetune_scaling.evaluation.sample_page.samples import Sample
from finetune_scaling.evaluation.sample_page.sentence_scores import sentence_scores

PAIRS = [
    ("A cat sat on the mat.", "The cat sat on a mat."),
    ("", "Nothing was written."),
    ("Das ist gut", "Das ist sehr gut."),
    ("今天天气好", "今天天气很好"),
]


def examples(language):
    return [Sample(i, "source", ref, language, (hyp, None), (1.0, None)) for i, (hyp, ref) in enumerate(PAIRS)]


def test_chrf_equals_sacrebleu():
    scores = sentence_scores("chrf", examples("de"))
    direct = [(sacrebleu.sentence_chrf(hyp, [ref]).score, None) for hyp, ref in PAIRS]
    assert scores.rows == direct
    assert scores.signature.startswith("nrefs:1|case:mixed")


def test_english_rouge_l_equals_rouge_score():
    scores = sentence_scores("rougeL", examples("en"))
    scorer = rouge_scorer.RougeScorer(["rougeL"])
    assert [row[0] for row in scores.rows] == [100 * scorer.score(ref, hyp)["rougeL"].fmeasure for hyp, ref in PAIRS]
    assert "rouge-score-default" in scores.signature


def test_rouge_l_of_an_unknown_language_splits_ideographs():
    scores = sentence_scores("rougeL", examples(None))
    assert scores.rows[3][0] == pytest.approx(100 * 2 * 5 / (5 + 6))  # 5 of 5 characters, of 6
    assert scores.rows[0][0] == pytest.approx(100 * 4 / 6)  # cat sat on mat
    assert "tok:characters" in scores.signature


def test_an_unknown_score_is_an_error():
    with pytest.raises(ConfigError, match="rougel"):
        sentence_scores("rougel", examples("de"))
