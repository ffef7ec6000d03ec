"""The grammar's sources: determinism, splits, mixtures, difficulty parameters and errors."""

import collections
import dataclasses
import json
import math
import os
import statistics
import subprocess
import sys

import pytest
import sacrebleu

from finetune_scaling.data.grammar import (
    HARD,
    GrammarConfig,
    monolingual_source,
    summarization_source,
    translation_entropy,
    translation_source,
)
from finetune_scaling.data.grammar.lexicon import make_grammar
from finetune_scaling.data.grammar.parsing import parse
from finetune_scaling.errors import ConfigError, DataError

DEFAULT = GrammarConfig()

PRINT_RECORDS = """
import json
from finetune_scaling.data.grammar import *
config = GrammarConfig(seed=3)
sources = (translation_source(config, "A", "B", "dev", 20), summarization_source(config, "C", "train", 20),
           monolingual_source(config, ["A", "B"], 20, 0.5))
print(json.dumps([list(source) for source in sources]))
"""


def pairs(config=DEFAULT, split="train", size=400, source="A", target="B"):
    return list(translation_source(config, source, target, split, size))


def test_records_do_not_depend_on_process_or_hash_seed():
    runs = [
        subprocess.run(
            [sys.executable, "-c", PRINT_RECORDS],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1]
    here = list(translation_source(GrammarConfig(seed=3), "A", "B", "dev", 20))
    assert json.loads(runs[0])[0] == here


def test_records_are_random_access_and_do_not_depend_on_size():
    small, large = (translation_source(DEFAULT, "A", "B", "train", size) for size in (10, 1000))
    forward = [small[index] for index in range(10)]
    assert [large[index] for index in reversed(range(10))] == forward[::-1]
    assert small[-1] == small[9]
    with pytest.raises(IndexError):
        small[10]


def test_record_fields():
    assert set(pairs(size=1)[0]) == {"source", "target", "source_language", "target_language", "target_nll"}
    summary = summarization_source(DEFAULT, "B", "test", 1)[0]
    assert summary["source_language"] == summary["target_language"] == "B"
    assert set(monolingual_source(DEFAULT, ["A"], 1, 0.0)[0]) == {"text", "language"}


@pytest.mark.parametrize("make", [pairs, lambda split: list(summarization_source(DEFAULT, "A", split, 400))])
def test_splits_share_no_source(make):
    train, dev, test = ({record["source"] for record in make(split=split)} for split in ("train", "dev", "test"))
    assert train.isdisjoint(dev)
    assert train.isdisjoint(test)
    assert dev.isdisjoint(test)
    assert min(len(train), len(dev), len(test)) > 300


def test_pretraining_text_contains_no_held_out_sentence():
    records = monolingual_source(DEFAULT, ["A", "B"], 3000, 0.3)
    seen = {part for record in records for part in record["text"].rstrip(".").replace(" = ", ". ").split(". ")}
    for source, target in ("AB", "BA"):
        assert seen.isdisjoint(record["source"] for record in pairs(split="test", source=source, target=target))


def test_held_out_pretraining_text_is_not_pretrained_on():
    train = {record["text"] for record in monolingual_source(DEFAULT, ["A", "B"], 3000, 0.3, "train")}
    dev = {record["text"] for record in monolingual_source(DEFAULT, ["A", "B"], 300, 0.3, "dev")}
    assert len(dev) > 250
    assert train.isdisjoint(dev)


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_mixture_is_equal_in_languages_and_bilingual_by_share(share):
    records = list(monolingual_source(DEFAULT, ["A", "B", "C"], 3000, share))
    assert set(collections.Counter(record["language"] for record in records).values()) == {1000}
    bilingual = [record for record in records if " = " in record["text"]]
    assert abs(len(bilingual) / 3000 - share) <= 3 * math.sqrt(share * (1 - share) / 3000)


def test_bilingual_text_is_a_sentence_and_its_translation():
    languages = make_grammar(DEFAULT).languages
    for record in monolingual_source(DEFAULT, ["A", "B"], 100, 1.0):
        first, second = record["text"].split(" = ")
        other = "B" if record["language"] == "A" else "A"
        assert parse(first, languages[record["language"]])[0] == parse(second, languages[other])[0]


@pytest.mark.parametrize("config", [DEFAULT, HARD])
def test_copying_scores_near_zero(config):
    for source, target in ("AB", "AC", "BC"):
        records = pairs(config, source=source, target=target)
        references = [[record["target"] for record in records]]
        assert sacrebleu.corpus_bleu([record["source"] for record in records], references).score < 0.5


def test_the_seed_changes_the_family():
    words = [
        {word for record in pairs(GrammarConfig(seed=seed)) for word in record["source"].split()} for seed in (0, 1)
    ]
    assert len(words[0] & words[1]) < 0.3 * len(words[0])


def mean_length(config):
    return statistics.mean(len(record["source"].split()) for record in pairs(config))


def vocabulary(config):
    return len({word for record in pairs(config) for word in record["source"].split()})


def entropy(config):
    return statistics.mean(translation_entropy(config, record["source"], "A", "B") for record in pairs(config))


def meanings(config):
    language = make_grammar(config).languages["A"]
    return [parse(record["source"], language)[0] for record in pairs(config)]


def adjectives(config):
    return sum(phrase.adjective is not None for phrase in (sentence[0].subject for sentence in meanings(config)))


def adverbs(config):
    return sum(sentence[0].adverb is not None for sentence in meanings(config))


def clauses(config):
    return sum(len(sentence) for sentence in meanings(config))


def deepest(config):
    return max(len(sentence) for sentence in meanings(config))


def articles(config):
    return len({form for forms in make_grammar(config).languages["A"].articles for form in forms})


def particles(config):
    particle = make_grammar(config).languages["A"].particle
    return sum(record["source"].endswith(f" {particle}") for record in pairs(config))


def common_noun(config):
    return -sum(sentence[0].subject.noun == 0 for sentence in meanings(config))


def document_words(config):
    return statistics.mean(len(r["source"].split()) for r in summarization_source(config, "A", "train", 200))


def summary_words(config):
    return -statistics.mean(len(r["target"].split()) for r in summarization_source(config, "A", "train", 200))


def first_sentence_summaries(config):
    """Minus the share of summaries that report the first sentence: they contain its verb."""
    language = make_grammar(config).languages["A"]
    records = summarization_source(config, "A", "train", 200)
    lead = [parse(record["source"].split(".")[0], language)[0][0].verb for record in records]
    reported = [parse(record["target"], language)[0][0].verb for record in records]
    return -sum(first == chosen for first, chosen in zip(lead, reported, strict=True))


@pytest.mark.parametrize(
    ("parameter", "low", "high", "measure"),
    [
        ("lexicon_size", 40, 400, vocabulary),
        ("zipf_exponent", 1.5, 0.5, common_noun),
        ("synonyms", 1, 3, vocabulary),
        ("synonyms", 1, 3, entropy),
        ("ambiguity", 0.1, 0.9, entropy),
        ("genders", 1, 3, articles),
        ("adjective_rate", 0.1, 0.7, adjectives),
        ("adverb_rate", 0.1, 0.7, adverbs),
        ("reordering_rate", 0.05, 0.4, entropy),
        ("particle_rate", 0.05, 0.4, particles),
        ("embedding_rate", 0.1, 0.7, clauses),
        ("max_clause_depth", 1, 4, deepest),
        ("max_clause_depth", 1, 4, mean_length),
        ("document_sentences", 1, 5, document_words),
        ("drop_rate", 0.0, 0.9, summary_words),
        ("summary_spread", 0.0, 0.9, first_sentence_summaries),
    ],
)
def test_parameter_changes_the_text_as_described(parameter, low, high, measure):
    assert measure(dataclasses.replace(DEFAULT, **{parameter: low})) < measure(
        dataclasses.replace(DEFAULT, **{parameter: high})
    )


def test_the_hard_setting_has_higher_entropy():
    assert entropy(HARD) > 1.5 * entropy(DEFAULT)
    assert vocabulary(HARD) > 2 * vocabulary(DEFAULT)
    assert mean_length(HARD) > mean_length(DEFAULT)


@pytest.mark.parametrize(
    ("field", "value"),
    [("lexicon_size", 5), ("genders", 4), ("ambiguity", 1.5), ("zipf_exponent", math.nan), ("synonyms", 1.5)],
)
def test_parameter_out_of_range_is_an_error(field, value):
    with pytest.raises(ConfigError, match=rf"grammar\.{field}"):
        GrammarConfig(**{field: value})


def test_config_without_entropy_is_refused():
    with pytest.raises(ConfigError, match=r"reordering_rate and grammar\.particle_rate"):
        GrammarConfig(reordering_rate=0, particle_rate=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: translation_source(DEFAULT, "A", "A", "train", 1), "target_language = 'A'"),
        (lambda: translation_source(DEFAULT, "A", "D", "train", 1), "target_language = 'D'.*A, B, C"),
        (lambda: translation_source(DEFAULT, "A", "B", "trian", 1), "split = 'trian'.*'train'"),
        (lambda: translation_source(DEFAULT, "A", "B", "train", 0), "size = 0"),
        (lambda: summarization_source(DEFAULT, "de", "train", 1), "language = 'de'"),
        (lambda: monolingual_source(DEFAULT, ["A", "D"], 1, 0.0), "languages = 'D'"),
        (lambda: monolingual_source(DEFAULT, [], 1, 0.0), "languages"),
        (lambda: monolingual_source(DEFAULT, ["A", "B"], 1, 1.5), "bilingual_share = 1.5"),
        (lambda: monolingual_source(DEFAULT, ["A"], 1, 0.5), "bilingual_share = 0.5"),
        (lambda: translation_entropy(DEFAULT, "hello", "A", "B"), "'hello' is not one of its words"),
    ],
)
def test_invalid_arguments_are_an_error(make, message):
    with pytest.raises((DataError, ConfigError), match=message):
        make()
