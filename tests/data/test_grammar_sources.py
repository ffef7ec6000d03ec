"""The grammar as a source: determinism, splits, mixtures, difficulty parameters and errors."""

import collections
import dataclasses
import json
import math
import os
import random
import statistics
import subprocess
import sys

import pytest
import sacrebleu

from finetune_scaling.data.grammar.config import GrammarConfig
from finetune_scaling.data.grammar.lexicon import VERBS, make_grammar
from finetune_scaling.data.grammar.syntax import sample_sentence
from finetune_scaling.data.sources import GrammarSource, open_source, source_from_config
from finetune_scaling.errors import ConfigError, DataError

DEFAULT = GrammarConfig()

PRINT_RECORDS = """
import json
from finetune_scaling.data.sources import GrammarSource, open_source
sources = (GrammarSource("translation", "dev", 20, ("A", "B")), GrammarSource("summarization", "train", 20, ("C",)),
           GrammarSource("monolingual", "train", 20, ("A", "B"), bilingual_share=0.5))
print(json.dumps([list(open_source(source)) for source in sources]))
"""


def pairs(config=DEFAULT, split="train", size=400, languages="AB"):
    return open_source(GrammarSource("translation", split, size, tuple(languages), grammar=config))


def summaries(config=DEFAULT, split="train", size=200):
    return open_source(GrammarSource("summarization", split, size, ("A",), grammar=config))


def monolingual(share=0.3, split="train", size=3000, languages="AB"):
    return open_source(GrammarSource("monolingual", split, size, tuple(languages), bilingual_share=share))


def meanings_of(text, name, config=DEFAULT):
    """Return the numbers of the meanings of the words of a text."""
    words = make_grammar(config).languages[name].words
    known = {form: meaning for meaning, word in enumerate(words) for forms in word.forms for form in forms}
    return [known[word] for word in text.split() if word in known]


def test_records_do_not_depend_on_process_or_hash_seed():
    command = [sys.executable, "-c", PRINT_RECORDS]
    environments = [{**os.environ, "PYTHONHASHSEED": seed} for seed in ("1", "2")]
    runs = [subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout for env in environments]
    assert runs[0] == runs[1]
    assert json.loads(runs[0])[0] == list(pairs(split="dev", size=20))


def test_records_are_random_access_and_do_not_depend_on_size():
    small, large = pairs(size=10), pairs(size=1000)
    forward = [small[index] for index in range(10)]
    assert [large[index] for index in reversed(range(10))] == forward[::-1]
    assert small[-1] == small[9]
    with pytest.raises(IndexError):
        small[10]


def test_record_fields():
    assert set(pairs(size=1)[0]) == {"source", "target", "source_language", "target_language", "target_nll"}
    summary = summaries(split="test", size=1)[0]
    assert summary["source_language"] == summary["target_language"] == "A"
    assert set(monolingual(0.0, size=1)[0]) == {"text", "language"}


@pytest.mark.parametrize("make", [pairs, summaries])
def test_splits_share_no_source(make):
    train, dev, test = (
        {record["source"] for record in make(split=split, size=400)} for split in ("train", "dev", "test")
    )
    assert train.isdisjoint(dev)
    assert train.isdisjoint(test)
    assert dev.isdisjoint(test)
    assert min(len(train), len(dev), len(test)) > 300


def test_pretraining_text_contains_no_held_out_sentence():
    seen = {part for record in monolingual() for part in record["text"].rstrip(".").replace(" = ", ". ").split(". ")}
    for languages in ("AB", "BA"):
        assert seen.isdisjoint(record["source"] for record in pairs(split="test", languages=languages))


def test_held_out_pretraining_text_is_not_pretrained_on():
    train, dev = ({record["text"] for record in monolingual(split=split)} for split in ("train", "dev"))
    assert len(dev) > 2000
    assert train.isdisjoint(dev)


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_mixture_is_equal_in_languages_and_bilingual_by_share(share):
    records = list(monolingual(share, size=1500, languages="ABC"))
    assert set(collections.Counter(record["language"] for record in records).values()) == {500}
    bilingual = [record for record in records if " = " in record["text"]]
    assert abs(len(bilingual) / 1500 - share) <= 3 * math.sqrt(share * (1 - share) / 1500)


def test_bilingual_text_is_a_sentence_and_its_translation():
    for record in monolingual(1.0, size=100):
        first, second = record["text"].split(" = ")
        other = "B" if record["language"] == "A" else "A"
        assert sorted(meanings_of(first, record["language"])) == sorted(meanings_of(second, other)) != []


@pytest.mark.parametrize("languages", ["AB", "AC", "BC"])
def test_copying_scores_near_zero(languages):
    records = pairs(languages=languages)
    references = [[record["target"] for record in records]]
    assert sacrebleu.corpus_bleu([record["source"] for record in records], references).score < 0.5


def test_the_seed_changes_the_family():
    first, second = (
        {word for record in pairs(GrammarConfig(seed=seed)) for word in record["source"].split()} for seed in (0, 1)
    )
    assert len(first & second) < 0.3 * len(first)


def mean_length(config):
    return statistics.mean(len(record["source"].split()) for record in pairs(config))


def vocabulary(config):
    return len({word for record in pairs(config) for word in record["source"].split()})


def entropy(config):
    return statistics.mean(record["target_nll"] for record in pairs(config))


def sentences(config):
    stream = random.Random(0)
    return [sample_sentence(make_grammar(config), stream) for _ in range(400)]


def adjectives(config):
    return sum(first.subject.adjective is not None for first, *_ in sentences(config))


def adverbs(config):
    return sum(first.adverb is not None for first, *_ in sentences(config))


def clauses(config):
    return sum(map(len, sentences(config)))


def deepest(config):
    return max(map(len, sentences(config)))


def articles(config):
    return len({form for forms in make_grammar(config).languages["A"].articles for form in forms})


def particles(config):
    particle = make_grammar(config).languages["A"].particle
    return sum(record["source"].endswith(f" {particle}") for record in pairs(config))


def other_nouns(config):
    return sum(first.subject.noun != 0 for first, *_ in sentences(config))


def document_words(config):
    return statistics.mean(len(record["source"].split()) for record in summaries(config))


def dropped_words(config):
    return -statistics.mean(len(record["target"].split()) for record in summaries(config))


def summaries_of_later_sentences(config):
    """Count the summaries whose main verb is not that of the first sentence."""
    grammar = make_grammar(config)
    verbs = {meaning for part in VERBS for meaning in grammar.meanings[part]}

    def main_verb(text):
        return next(meaning for meaning in meanings_of(text, "A", config) if meaning in verbs)

    return sum(main_verb(record["source"].split(".")[0]) != main_verb(record["target"]) for record in summaries(config))


@pytest.mark.parametrize(
    ("parameter", "low", "high", "measure"),
    [
        ("lexicon_size", 40, 400, vocabulary),
        ("zipf_exponent", 1.5, 0.5, other_nouns),
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
        ("drop_rate", 0.0, 0.9, dropped_words),
        ("summary_spread", 0.0, 0.9, summaries_of_later_sentences),
    ],
)
def test_parameter_changes_the_text_as_described(parameter, low, high, measure):
    configs = [dataclasses.replace(DEFAULT, **{parameter: value}) for value in (low, high)]
    assert measure(configs[0]) < measure(configs[1])


@pytest.mark.parametrize(
    ("field", "value"), [("lexicon_size", 5), ("genders", 4), ("ambiguity", 1.5), ("zipf_exponent", math.nan)]
)
def test_parameter_out_of_range_is_an_error(field, value):
    with pytest.raises(ConfigError, match=rf"grammar\.{field}"):
        GrammarConfig(**{field: value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"languages": ("A", "A")}, "needs 2 different ones of A, B, C"),
        ({"languages": ("A", "D")}, "'D'.*needs 2 different ones of A, B, C"),
        ({"languages": ("A",)}, "needs 2"),
        ({"split": "trian"}, "split = 'trian'.*'train'"),
        ({"size": 0}, "size = 0"),
        ({"dataset": "summarization"}, "needs 1"),
        ({"dataset": "monolingual", "languages": ()}, "needs 1"),
        ({"dataset": "monolingual", "languages": ("A", "B", "B")}, "needs 3 different"),
        ({"dataset": "monolingual", "bilingual_share": 1.5}, "bilingual_share = 1.5"),
        ({"dataset": "monolingual", "languages": ("A",), "bilingual_share": 0.5}, "bilingual_share = 0.5"),
        ({"grammar": {"synonyms": 1.5}}, "synonyms"),
    ],
)
def test_invalid_fields_are_an_error(changes, message):
    source = {"kind": "grammar", "dataset": "translation", "split": "train", "size": 1, "languages": ("A", "B")}
    with pytest.raises(ConfigError, match=message):
        source_from_config({**source, **changes}, "source")


def test_a_field_that_the_dataset_lacks_is_an_error():
    with pytest.raises(DataError, match="no field 'text'"):
        open_source(GrammarSource("translation", "train", 1, ("A", "B")), ("text",))
