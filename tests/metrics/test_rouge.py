"""ROUGE: equal to rouge-score for English, and correct for languages that rouge-score's tokenizer does not support."""

import json
import lzma
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score import rouge_scorer

from finetune_scaling.errors import ConfigError
from finetune_scaling.metrics.corpus import Corpus
from finetune_scaling.metrics.registry import score
from finetune_scaling.metrics.rouge import (
    ROUGE_METRICS,
    SENTENCES,
    rouge,
    rouge_f1,
    rouge_signature,
    rouge_tokenizer,
    split_sentences,
)

CHINESE = "这个软件包提供运行时库。"


def mean_rouge(metric, hypotheses, references, language, stemming=None):
    return rouge(metric, stemming).score(Corpus(hypotheses, references, language))["score"]


def mean_of_rouge_score(hypotheses, references, metric, **options):
    scorer = rouge_scorer.RougeScorer([metric], **options)
    pairs = zip(hypotheses, references, strict=True)
    values = [scorer.score_multi(own, text)[metric].fmeasure for text, own in pairs]
    return pytest.approx(100 * sum(values) / len(values), rel=1e-12)


def descriptions(folder, language, count):
    with lzma.open(folder / "sum_ddtp" / f"{language}.test.jsonl.xz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file][:count]
    return [row["document"].split("\n\n")[0] for row in rows], [[row["summary"]] for row in rows]


@pytest.mark.parametrize("metric", ROUGE_METRICS)
@pytest.mark.parametrize("language", ["zh", "zh_CN", "ja", "de", "en", "fr", "hi", "A"])
def test_identical_texts_score_100(metric, language):
    text = {"zh": CHINESE, "zh_CN": CHINESE, "ja": "これはテストです。", "hi": "यह परीक्षण वाक्य है"}.get(
        language, "Größe der Tür"
    )
    assert mean_rouge(metric, [text], [[text]], language) == 100.0


@pytest.mark.parametrize("metric", ROUGE_METRICS)
def test_rouge_scores_default_tokenizer_scores_identical_chinese_texts_0(metric):
    assert mean_of_rouge_score([CHINESE], [[CHINESE]], metric) == 0.0


@pytest.mark.parametrize("stemming", [False, True])
@pytest.mark.parametrize("metric", ROUGE_METRICS)
def test_english_equals_rouge_score_on_real_text(shared_data, metric, stemming):
    hypotheses, references = descriptions(shared_data, "en", 150)
    ours = rouge_f1(metric, Corpus(hypotheses, references, "en"), stemming)
    theirs = rouge_scorer.RougeScorer([metric], use_stemmer=stemming)
    expected = [theirs.score(own[0], text)[metric].fmeasure for text, own in zip(hypotheses, references, strict=True)]
    assert ours.tolist() == expected
    assert 0.01 < ours.mean() < 0.99


@pytest.mark.parametrize("stemming", [False, True])
@pytest.mark.parametrize("metric", ROUGE_METRICS)
def test_english_equals_rouge_score_with_several_references_and_sentences(metric, stemming):
    hypotheses = ["The cats sat.\nA dog ran away.", "", "Naïve texts"]
    references = [["A cat sat.\nThe dog runs.", "Dogs ran away.\nThe cat sat."], ["not empty"], ["naive text", "naïve"]]
    ours = rouge_f1(metric, Corpus(hypotheses, references, "en"), stemming)
    theirs = rouge_scorer.RougeScorer([metric], use_stemmer=stemming)
    pairs = zip(hypotheses, references, strict=True)
    assert ours.tolist() == [theirs.score_multi(own, text)[metric].fmeasure for text, own in pairs]
    assert mean_rouge(metric, hypotheses, references, "en", stemming) == pytest.approx(100 * ours.mean(), rel=1e-12)


def test_stemming_is_selected_by_name_and_needs_a_stemmer():
    cats, cat = ["the cats"], [["the cat"]]
    assert mean_rouge("rouge1", cats, cat, "en") == mean_rouge("rouge1", cats, cat, "en", False) == pytest.approx(50)
    assert mean_rouge("rouge1", cats, cat, "en", True) == 100
    german, stored = ["Speicherbehälter"], [["Speicherbehältern"]]
    assert mean_rouge("rouge1", german, stored, "de") == mean_rouge("rouge1", german, stored, "de", True) == 100
    assert mean_rouge("rouge1", german, stored, "de", False) == 0
    with pytest.raises(ConfigError, match="no stemmer is available for language 'zh'"):
        mean_rouge("rouge1", [CHINESE], [[CHINESE]], "zh", True)


def test_equal_scores_of_one_line_segments_are_said_and_sentences_can_be_split():
    one_line, lines = ["It rained. We left."], ["It rained.\nWe left."]
    reference = [["We left. It rained."]]
    names = ["rougeL", "rougeLsum", SENTENCES]
    scores = score(one_line, reference, "en", metrics=names)
    assert scores["rougeL"]["score"] == scores["rougeLsum"]["score"] == pytest.approx(50)
    assert "equals rougeL" in scores["rougeLsum"]["note"]
    assert "note" not in scores["rougeL"]
    assert scores[SENTENCES]["score"] == pytest.approx(100)
    assert "|sent:lines+marks|" in scores[SENTENCES]["signature"]
    split = score(lines, [["We left.\nIt rained."]], "en", metrics=names)
    assert "note" not in split["rougeLsum"]
    mixed = score(one_line + lines, reference + reference, "en", metrics=names)
    assert "1 of 2 segments have several lines" in mixed["rougeLsum"]["note"]
    assert split["rougeLsum"]["score"] == split[SENTENCES]["score"] == pytest.approx(100)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ('He said "go." Then 3.5 left…  Why?!', ['He said "go."', "Then 3.5 left…", "Why?!"]),
        ("你好。你是谁?「我。」好", ["你好。", "你是谁?「我。」", "好"]),
        ("他来了！我走了。", ["他来了！", "我走了。"]),
        ("यह एक है।यह दो है।", ["यह एक है।", "यह दो है।"]),
        ("no mark", ["no mark"]),
        ("", []),
    ],
)
def test_sentences_end_at_their_marks(text, sentences):
    assert [line.strip() for line in split_sentences(text).split("\n") if line.strip()] == sentences


def as_numbers(tokens, vocabulary):
    """Encode each token as a number, which rouge-score's default tokenizer keeps."""
    return " ".join(str(vocabulary.setdefault(token, len(vocabulary))) for token in tokens)


@pytest.mark.parametrize("language", ["de", "zh"])
@pytest.mark.parametrize("metric", ROUGE_METRICS)
def test_scores_equal_those_of_texts_with_tokens_encoded_as_numbers(shared_data, language, metric):
    hypotheses, references = descriptions(shared_data, language, 80)
    tokenize, vocabulary = rouge_tokenizer(language).tokenize, {}
    numbered = [
        "\n".join(as_numbers(tokenize(line), vocabulary) for line in text.split("\n"))
        for text in hypotheses + [own[0] for own in references]
    ]
    expected = mean_of_rouge_score(
        numbered[: len(hypotheses)], [[text] for text in numbered[len(hypotheses) :]], metric
    )
    ours = mean_rouge(metric, hypotheses, references, language)
    assert ours == expected
    assert 1 < ours < 99


def test_german_words_keep_umlauts_and_are_stemmed():
    text = "Die Größe der Überläufer: 30\N{NO-BREAK SPACE}MB"
    assert rouge_tokenizer("de").tokenize(text) == ["die", "gross", "der", "uberlauf", "30", "mb"]
    assert rouge_tokenizer("de").tokenize("Häusern gelaufen Geld Flüsse") == ["hau", "lauf", "geld", "fluss"]
    assert mean_rouge("rouge1", ["Speicherbehälter"], [["Speicherbehältern"]], "fr") == 0.0


def test_chinese_is_split_into_characters_foreign_words_and_numbers():
    assert rouge_tokenizer("zh").tokenize("用JAX训练3.5次，真好！") == [
        "用",
        "jax",
        "训",
        "练",
        "3",
        "5",
        "次",
        "真",
        "好",
    ]
    assert rouge_tokenizer("zh").tokenize("\U00020bb7野家々") == ["\U00020bb7", "野", "家", "々"]
    assert rouge_tokenizer("ja").tokenize("カタカナとひらがなABC") == [*"カタカナとひらがな", "abc"]


def test_partially_correct_chinese_has_the_expected_score():
    hypothesis, reference = "我喜欢苹果", "我喜欢梨子"  # 3 of 5 characters; 2 of 4 pairs
    assert mean_rouge("rouge1", [hypothesis], [[reference]], "zh") == pytest.approx(60)
    assert mean_rouge("rouge2", [hypothesis], [[reference]], "zh") == pytest.approx(50)
    assert mean_rouge("rougeL", [hypothesis], [[reference]], "zh") == pytest.approx(60)


def test_words_of_other_scripts_keep_their_vowel_signs():
    assert rouge_tokenizer("hi").tokenize("हिन्दी में, परीक्षण!") == ["हिन्दी", "में", "परीक्षण"]


@given(st.text(max_size=40), st.sampled_from(["de", "zh", "ja", "fr"]))
def test_scores_do_not_depend_on_the_normalization_form(text, language):
    tokenize = rouge_tokenizer(language).tokenize
    assert tokenize(unicodedata.normalize("NFD", text)) == tokenize(unicodedata.normalize("NFC", text))


@given(
    st.lists(st.text(max_size=30).filter(str.strip), min_size=1, max_size=4), st.sampled_from(["de", "zh", "en", "fr"])
)
def test_scores_are_between_0_and_100_and_never_decrease_with_more_references(texts, language):
    one = mean_rouge("rougeL", [texts[0]], [texts[-1:]], language)
    more = mean_rouge("rougeL", [texts[0]], [texts], language)
    assert 0 <= one <= more <= 100


def test_the_best_reference_counts_and_an_empty_hypothesis_scores_0():
    assert mean_rouge("rouge1", ["ein Haus", ""], [["Baum", "ein Haus"], ["Haus"]], "de") == 50.0


@pytest.mark.parametrize(
    ("language", "tokenizer"),
    [
        ("en", "tok:rouge-score-default|stem:no"),
        ("de", "tok:unicode-words|stem:cistem"),
        ("zh", "tok:characters|stem:no"),
        ("tr", "tok:unicode-words|stem:no"),
        ("B", "tok:unicode-words|stem:no"),
    ],
)
def test_signature_names_the_tokenizer(language, tokenizer):
    assert (
        rouge_signature("rouge1", language, "1")
        == f"nrefs:1|case:lc|{tokenizer}|score:mean-f1-x100|version:rouge-score-0.1.2"
    )
    assert "|sent:lines|" in rouge_signature("rougeLsum", language, "1")


def test_forced_stemming_is_in_name_and_signature():
    assert (rouge("rouge1", True).name, rouge("rouge1", False).name) == ("rouge1-stem", "rouge1-nostem")
    assert "|stem:porter|" in rouge_signature("rouge1", "en", "1", True)
    assert "|stem:no|" in rouge_signature("rouge1", "de", "1", False)
