"""Corpus scores against sacrebleu, and errors for invalid corpora."""

import json
import lzma
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU, CHRF, TER

from finetune_scaling.errors import ConfigError, DataError
from finetune_scaling.metrics import sacrebleu_metrics
from finetune_scaling.metrics.corpus import read_corpus
from finetune_scaling.metrics.registry import DEFAULT_METRICS, LEARNED_METRICS, score, score_corpus

NEWS = "the cat sat on the mat"


def worsened(text, seed):
    """Return the text without a few characters and with two words exchanged."""
    generator = random.Random(seed)
    words = "".join(char for char in text if generator.random() > 0.05).split()
    if len(words) > 3:
        position = generator.randrange(len(words) - 1)
        words[position], words[position + 1] = words[position + 1], words[position]
    return " ".join(words)


def sacrebleu_scorers(language):
    """Return the same metrics, constructed with sacrebleu."""
    asian = language == "zh"
    scorers = {
        "bleu": BLEU(tokenize="zh" if asian else "13a"),
        "chrf": CHRF(),
        "chrf++": CHRF(word_order=2),
        "ter": TER(normalized=asian, asian_support=asian),
    }
    return scorers | {
        f"bleu-{tokenizer}": BLEU(tokenize=tokenizer) for tokenizer in ("13a", "intl", "char", "zh", "none")
    }


@pytest.mark.parametrize("language", ["de", "zh"])
def test_real_translations_have_sacrebleu_scores(shared_data, language):
    with lzma.open(shared_data / "mt_news" / f"en-{language}.test.jsonl.xz", "rt", encoding="utf-8") as file:
        references = [json.loads(line)[language] for line in file][:60]
    hypotheses = [worsened(text, seed) for seed, text in enumerate(references)]
    theirs = sacrebleu_scorers(language)
    ours = score(hypotheses, [[text] for text in references], language, metrics=list(theirs))
    for name, metric in theirs.items():
        expected = metric.corpus_score(hypotheses, [references]).score
        assert ours[name] == {"score": expected, "signature": str(metric.get_signature())}
        assert 0 < expected < 100 or (name, language) == ("bleu-none", "zh")


def test_several_references_are_transposed_for_sacrebleu():
    hypotheses = [NEWS, "a dog"]
    references = [["the cat sat on a mat", "a cat sat there"], ["the dog", "a small dog"]]
    streams = [["the cat sat on a mat", "the dog"], ["a cat sat there", "a small dog"]]
    theirs = sacrebleu_scorers("en")
    ours = score(hypotheses, references, "en", metrics=[*theirs, "rouge1", "f1"])
    for name, metric in theirs.items():
        assert ours[name]["score"] == metric.corpus_score(hypotheses, streams).score
        assert ours[name]["signature"].startswith("nrefs:2|")
    assert ours["rouge1"]["signature"].startswith("nrefs:2|")
    assert ours["f1"]["signature"].startswith("nrefs:2|")


def test_the_number_of_references_may_vary():
    names = [*DEFAULT_METRICS, "exact_match", "f1"]
    scores = score(["a b c d e", "x y"], [["a b c d e", "q"], ["x y"]], "A", metrics=names)
    assert all(value["signature"].startswith("nrefs:var|") for value in scores.values())
    assert {name: value["score"] for name, value in scores.items()} == pytest.approx(
        {name: 0 if name == "ter" else 100 for name in names}
    )


@pytest.mark.parametrize(
    ("language", "text"), [("zh", "这个软件包提供运行时库。"), ("de", "Die Größe der Datei ist 3 MB.")]
)
def test_identical_texts_are_perfect_in_every_metric(language, text):
    scores = score([text], [[text]], language)
    assert set(scores) == {"bleu", "chrf", "chrf++", "ter", "rouge1", "rouge2", "rougeL", "rougeLsum"}
    assert scores["ter"]["score"] == 0
    assert all(value["score"] == pytest.approx(100) for name, value in scores.items() if name != "ter")


def test_chinese_ter_counts_characters():
    ours = score(["我喜欢吃苹果"], [["我喜欢吃苹梨"]], "zh", metrics=["ter"])["ter"]
    assert ours["score"] == pytest.approx(100 / 6)
    assert TER().corpus_score(["我喜欢吃苹果"], [["我喜欢吃苹梨"]]).score == 100


def test_empty_hypotheses_stay_in_the_corpus():
    references = [["the cat sat on the mat"], ["the dog ran away today"]]
    half = score([references[0][0], ""], references, "en")
    assert half["rouge1"]["score"] == 50
    assert 0 < half["bleu"]["score"] < 100
    nothing = score(["", ""], references, "en")
    assert {name: value["score"] for name, value in nothing.items()} == {
        name: 100 * (name == "ter") for name in DEFAULT_METRICS
    }


@pytest.mark.parametrize(("language", "text"), [("ja", "これは本です"), ("ko", "이것은 책이다")])
def test_without_mecab_japanese_and_korean_are_scored_by_characters(monkeypatch, language, text):
    monkeypatch.setattr(sacrebleu_metrics, "_has_mecab", lambda language: False)
    assert "|tok:char|" in score([text], [[text]], language, metrics=["bleu"])["bleu"]["signature"]
    with pytest.raises(ConfigError, match=rf"bleu-{language}-mecab needs MeCab: pip install .*\[{language}\]"):
        score([text], [[text]], language, metrics=[f"bleu-{language}-mecab"])
    monkeypatch.setattr(sacrebleu_metrics, "_has_mecab", lambda language: True)
    assert sacrebleu_metrics.bleu_tokenizer(language) == f"{language}-mecab"


@pytest.mark.parametrize(("language", "text"), [("ja", "これは本です"), ("ko", "이것은 책이다")])
def test_with_mecab_japanese_and_korean_are_scored_by_words(language, text):
    if not sacrebleu_metrics._has_mecab(language):
        pytest.skip(f"MeCab for {language} is not installed: pip install 'finetune-scaling[{language}]'")
    entry = score([text], [[text]], language, metrics=["bleu"])["bleu"]
    scorer = BLEU(tokenize=f"{language}-mecab")
    expected = scorer.corpus_score([text], [[text]]).score
    assert entry == {"score": expected, "signature": str(scorer.get_signature())}


@pytest.mark.parametrize(
    ("language", "tokenizer"), [("zh_CN", "zh"), ("de", "13a"), ("en", "13a"), ("A", "13a"), ("fr", "13a")]
)
def test_bleu_tokenizer_follows_the_language(language, tokenizer):
    assert sacrebleu_metrics.bleu_tokenizer(language) == tokenizer


@given(st.lists(st.tuples(st.text(max_size=30), st.text(max_size=30).filter(str.strip)), min_size=1, max_size=5))
def test_any_text_has_a_score_in_every_metric(pairs):
    hypotheses, references = [pair[0] for pair in pairs], [[pair[1]] for pair in pairs]
    scores = score(hypotheses, references, "zh", metrics=[*DEFAULT_METRICS, "exact_match", "f1"])
    assert all(value["score"] >= 0 for value in scores.values())
    assert all(value["score"] <= 100 + 1e-9 for name, value in scores.items() if name != "ter")


@pytest.mark.parametrize(
    ("hypotheses", "references", "sources", "message"),
    [
        ([], [], None, "no segments"),
        (["a", "b"], [["a"]], None, "2 hypotheses, but 1 references"),
        (["a"], [["a"]], ["x", "y"], "1 hypotheses, but 2 sources"),
        (["a", "b"], [["a"], []], None, r"references\[1\] is \[\]"),
        (["a", "b"], ["a", "b"], None, r"references\[0\] is 'a'"),
        (["a"], [[3]], None, r"references\[0\] has 3, which is no text"),
        (["a", "b"], [["a"], [" "]], None, r"references\[1\] has only empty references"),
        (["a", "b"], [["a", ""], ["", ""]], None, r"references\[1\] has only empty references"),
    ],
)
def test_invalid_corpora_are_errors(hypotheses, references, sources, message):
    with pytest.raises(DataError, match=message):
        score(hypotheses, references, "en", sources)


@pytest.mark.parametrize("language", ["de", "zh"])
def test_missing_references_are_left_out_as_by_sacrebleu(tmp_path, caplog, language):
    first = ["the cat sat on a mat", "a dog barks at a cat", "", "one more"]
    second = ["a cat was on the mat", "  ", "dogs bark", "one other more"]
    hypotheses = [NEWS, "a dog", "a dog barks", "one more"]
    files = [write(tmp_path / name, *own) for name, own in (("a", first), ("b", second), ("h", hypotheses))]
    corpus = read_corpus(files[2], files[:2], None, language)
    assert "b: 1 of 4 references are empty" in caplog.text
    theirs = sacrebleu_scorers(language)
    ours = score_corpus(corpus, [*theirs, "rouge1", "f1"])
    streams = [[(text.strip() and text) or None for text in own] for own in (first, second)]
    for name, metric in theirs.items():
        assert ours[name]["score"] == metric.corpus_score(hypotheses, streams).score, name
        assert ours[name]["signature"] == str(metric.get_signature())
    assert all("nrefs:var" in entry["signature"] for entry in ours.values())
    with_none = [list(own) for own in zip(*streams, strict=True)]
    assert score(hypotheses, with_none, language, metrics=list(ours)) == ours


def test_unknown_metrics_and_languages_are_errors():
    with pytest.raises(ConfigError, match="'blue' is unknown; did you mean 'bleu'"):
        score(["a"], [["a"]], "en", metrics=["blue"])
    with pytest.raises(ConfigError, match=r"unknown; choose one of bleu, .*f1, bleurt"):
        score(["a"], [["a"]], "en", metrics=["meteor-9"])
    for name in LEARNED_METRICS:  # "did you mean 'bleu'" would mislead
        with pytest.raises(ConfigError, match=f"{name} is a learned metric. Fix: .*{name}.py"):
            score(["a"], [["a"]], "en", metrics=[name])
        assert (Path(__file__).parents[2] / "configs" / "metrics" / f"{name}.py").is_file()
    with pytest.raises(DataError, match="'German' is not a language code"):
        score(["a"], [["a"]], "German")


def write(path, *segments):
    path.write_bytes("".join(f"{segment}\n" for segment in segments).encode())
    return path


def test_files_have_the_scores_of_their_segments(tmp_path):
    hypotheses = write(tmp_path / "hyp.txt", "das\u2028Haus", "", "ein Baum steht hier")
    first = write(tmp_path / "ref0.txt", "das Haus", "leer", "ein Baum stand da")
    second = write(tmp_path / "ref1.txt", "ein Haus", "nichts", "hier steht ein Baum")
    sources = write(tmp_path / "src.txt", "the house", "empty", "a tree stands here")
    corpus = read_corpus(hypotheses, [first, second], sources, "de")
    ours = score_corpus(corpus)
    references = [["das Haus", "ein Haus"], ["leer", "nichts"], ["ein Baum stand da", "hier steht ein Baum"]]
    assert ours == score(["das\u2028Haus", "", "ein Baum steht hier"], references, "de")
    with_space = score(["das Haus", "", "ein Baum steht hier"], references, "de", metrics=["rouge1"])
    assert ours["rouge1"] == with_space["rouge1"]
    few = score_corpus(corpus, ["bleu-char", "f1"])
    assert list(few) == ["bleu-char", "f1"]
    assert json.loads(json.dumps(ours)) == ours


def test_files_of_unequal_length_and_empty_references_are_errors(tmp_path):
    hypotheses, references = write(tmp_path / "hyp.txt", "a", "b"), write(tmp_path / "ref.txt", "a")
    with pytest.raises(DataError, match=r"ref\.txt: 1 segments, but .*hyp\.txt has 2"):
        read_corpus(hypotheses, [references], None, "en")
    with pytest.raises(DataError, match=r"src\.txt"):
        read_corpus(hypotheses, [hypotheses], tmp_path / "src.txt", "en")
    gap = write(tmp_path / "gap.txt", "a", "")
    with pytest.raises(DataError, match=r"gap\.txt, line 2: the reference is empty"):
        read_corpus(hypotheses, [gap], None, "en")
    with pytest.raises(DataError, match=r"gap\.txt and .*gap\.txt, line 2: the reference is empty"):
        read_corpus(hypotheses, [gap, gap], None, "en")
    with pytest.raises(DataError, match="name at least one"):
        read_corpus(hypotheses, [], None, "en")
