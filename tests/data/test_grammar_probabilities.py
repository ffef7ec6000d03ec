"""The grammar's probabilities are exact, by enumeration, sampling and closed forms; agreement and Zipf's law hold."""

import collections
import dataclasses
import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_scaling.data.grammar import (
    HARD,
    GrammarConfig,
    summaries,
    summarization_source,
    summary_entropy,
    translation_entropy,
    translation_nll,
    translation_source,
    translations,
)
from finetune_scaling.data.grammar.choices import Sampler, bernoulli, distribution, outcomes
from finetune_scaling.data.grammar.documents import parse_document, summarize
from finetune_scaling.data.grammar.lexicon import VERBS, make_grammar
from finetune_scaling.data.grammar.parsing import parse
from finetune_scaling.data.grammar.syntax import realize, sample_sentence
from finetune_scaling.errors import DataError

DEFAULT = GrammarConfig()
RICH = GrammarConfig(synonyms=3, ambiguity=0.6, genders=3, reordering_rate=0.3, particle_rate=0.2, drop_rate=0.4)
SMALL = dataclasses.replace(RICH, max_clause_depth=1, document_sentences=3, summary_spread=0.5, adverb_rate=0.5)


def short_records(config, source_language, target_language, longest=7, count=25):
    source = translation_source(config, source_language, target_language, "train", 10_000)
    return list(itertools.islice((r for r in source if len(r["source"].split()) <= longest), count))


@pytest.mark.parametrize("direction", ["AB", "BA", "AC", "CB"])
@pytest.mark.parametrize("config", [DEFAULT, RICH])
def test_translations_are_distinct_and_their_probabilities_sum_to_one(config, direction):
    for record in short_records(config, *direction):
        listed = list(translations(config, record["source"], *direction))
        targets = dict(listed)
        assert len(targets) == len(listed)
        assert math.fsum(math.exp(-nll) for nll in targets.values()) == pytest.approx(1, abs=1e-9)
        assert targets[record["target"]] == pytest.approx(record["target_nll"], abs=1e-9)


@pytest.mark.parametrize("direction", ["AB", "CA"])
def test_translation_entropy_is_that_of_the_enumeration(direction):
    for record in short_records(RICH, *direction):
        nlls = [nll for _, nll in translations(RICH, record["source"], *direction)]
        enumerated = math.fsum(nll * math.exp(-nll) for nll in nlls)
        assert translation_entropy(RICH, record["source"], *direction) == pytest.approx(enumerated, abs=1e-9)
        assert enumerated > 0


@pytest.mark.parametrize("config", [DEFAULT, HARD])
def test_sampled_nll_agrees_with_entropy_in_the_mean(config):
    records = list(translation_source(config, "A", "B", "test", 1500))
    excess = [r["target_nll"] - translation_entropy(config, r["source"], "A", "B") for r in records]
    assert abs(np.mean(excess)) < 4 * np.std(excess) / math.sqrt(len(excess))


def test_sampled_targets_have_the_enumerated_frequencies():
    source = short_records(RICH, "A", "B", longest=5, count=1)[0]["source"]
    grammar = make_grammar(RICH)
    meaning, stream = parse(source, grammar.languages["A"])[0], random.Random(0)
    samples = 20_000
    counts = collections.Counter(realize(meaning, grammar.languages["B"], Sampler(stream)) for _ in range(samples))
    for target, nll in translations(RICH, source, "A", "B"):
        p = math.exp(-nll)
        assert abs(counts[target] - samples * p) < 5 * math.sqrt(samples * p * (1 - p)) + 1


@pytest.mark.parametrize("config", [DEFAULT, HARD])
def test_nll_of_a_pair_of_texts_is_the_recorded_one(config):
    for record in translation_source(config, "B", "C", "dev", 200):
        assert translation_nll(config, record["source"], record["target"], "B", "C") == pytest.approx(
            record["target_nll"], abs=1e-9
        )


def test_nll_of_a_wrong_translation_is_infinite():
    first, second = itertools.islice(translation_source(DEFAULT, "A", "B", "train", 2), 2)
    for wrong in (second["target"], first["source"], "", f"{first['target']} {first['target']}"):
        assert translation_nll(DEFAULT, first["source"], wrong, "A", "B") == math.inf


def test_summaries_are_distinct_and_their_probabilities_sum_to_one():
    with_choice = 0
    for record in itertools.islice(summarization_source(SMALL, "A", "train", 100), 12):
        listed = list(summaries(SMALL, record["source"], "A"))
        targets = dict(listed)
        assert len(targets) == len(listed)
        assert math.fsum(math.exp(-nll) for nll in targets.values()) == pytest.approx(1, abs=1e-9)
        assert targets[record["target"]] == pytest.approx(record["target_nll"], abs=1e-9)
        enumerated = math.fsum(nll * math.exp(-nll) for nll in targets.values())
        assert summary_entropy(SMALL, record["source"], "A") == pytest.approx(enumerated, abs=1e-9)
        grammar = make_grammar(SMALL)
        language = grammar.languages["A"]
        with_choice += len({parse(target, language)[0][0].verb for target in targets}) > 1
    assert with_choice > 2  # documents with more than one sentence that a summary may report


def test_sampled_summaries_agree_with_their_entropy_in_the_mean():
    records = list(summarization_source(HARD, "C", "test", 500))
    excess = [r["target_nll"] - summary_entropy(HARD, r["source"], "C") for r in records]
    assert abs(np.mean(excess)) < 4 * np.std(excess) / math.sqrt(len(excess))


def test_documents_are_parsed_correctly():
    grammar = make_grammar(HARD)
    record = summarization_source(HARD, "B", "train", 1)[0]
    language = grammar.languages["B"]
    document = parse_document(record["source"], language)
    assert len({sentence[0].verb for sentence in document}) == len(document)
    texts = {summarize(HARD, document, language, Sampler(random.Random(i))) for i in range(50)}
    assert len(texts) > 5
    with pytest.raises(DataError, match="full stop"):
        parse_document(record["source"][:-1], language)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**9), st.sampled_from("ABC"), st.sampled_from([DEFAULT, RICH, HARD]))
def test_a_text_determines_its_meaning_and_choices(seed, name, config):
    grammar, stream = make_grammar(config), random.Random(seed)
    meaning, sampler = sample_sentence(grammar, stream), Sampler(stream)
    text = realize(meaning, grammar.languages[name], sampler)
    read, nll = parse(text, grammar.languages[name])
    assert read == meaning
    assert nll == pytest.approx(sampler.nll, abs=1e-9)


@pytest.mark.parametrize("name", ["A", "B", "C"])
def test_agreement_in_every_sentence(name):
    """Number on articles, nouns, adjectives and verbs, gender on articles and adjectives: read off the endings."""
    grammar = make_grammar(RICH)
    language, stream = grammar.languages[name], random.Random(5)
    agreeing = 0
    for _ in range(300):
        meaning = sample_sentence(grammar, stream)[:1]
        words = [
            language.analyses[w] for w in realize(meaning, language, Sampler(stream)).split() if w in language.analyses
        ]
        by_part = collections.defaultdict(list)
        for word in words:
            by_part["verb" if word.part in VERBS else word.part].append(word)
        phrases = [meaning[0].subject, *([meaning[0].object] if meaning[0].object else [])]
        for noun, article in zip(by_part["noun"], by_part["article"], strict=True):
            gender = language.words[noun.meaning].genders[noun.word]
            assert article.ending == 2 * gender + noun.ending
        for noun, phrase in zip(by_part["noun"], phrases, strict=True):
            assert noun.ending == phrase.plural
        described = [n for n, phrase in zip(by_part["noun"], phrases, strict=True) if phrase.adjective is not None]
        for noun, adjective in zip(described, by_part["adjective"], strict=True):
            agreeing += 1
            assert adjective.ending == 2 * language.words[noun.meaning].genders[noun.word] + noun.ending
        assert all(verb.ending % 2 == by_part["noun"][0].ending for verb in by_part["verb"])
    assert agreeing > 50


def test_wrong_agreement_or_order_is_an_error():
    language = make_grammar(DEFAULT).languages["A"]
    for record in short_records(DEFAULT, "A", "B", count=10):
        words = record["source"].split()
        noun = next(i for i, w in enumerate(words) if w in language.analyses and language.analyses[w].part == "noun")
        found = language.analyses[words[noun]]
        words[noun] = language.words[found.meaning].forms[found.word][1 - found.ending]
        with pytest.raises(DataError, match="agreement"):
            parse(" ".join(words), language)
        with pytest.raises(DataError, match="is not a sentence of language A"):
            parse(" ".join(reversed(record["source"].split())), language)


def test_word_forms_are_unique_in_the_family():
    for config in (DEFAULT, HARD):
        grammar = make_grammar(config)
        forms = [form for language in grammar.languages.values() for form in language.analyses]
        expected = sum(
            len(forms)
            for language in grammar.languages.values()
            for words in (*(w.forms for w in language.words), language.articles)
            for forms in words
        )
        assert len(set(forms)) == len(forms) == expected


@pytest.mark.parametrize("exponent", [0.7, 1.0, 1.4])
def test_noun_frequencies_follow_zipfs_law(exponent):
    grammar = make_grammar(GrammarConfig(lexicon_size=200, zipf_exponent=exponent))
    stream = random.Random(1)
    counts = collections.Counter(sample_sentence(grammar, stream)[0].subject.noun for _ in range(30_000))
    nouns = grammar.lexicon.meanings["noun"]
    ranks = np.arange(1, 31)
    frequencies = [counts[nouns.start + rank - 1] for rank in ranks]
    slope = np.polyfit(np.log(ranks), np.log(frequencies), 1, w=np.sqrt(frequencies))[0]
    assert slope == pytest.approx(-exponent, abs=0.05)


@given(st.lists(st.floats(0, 10), min_size=1, max_size=6), st.integers(0, 2**32))
def test_a_sampler_never_chooses_category_of_probability_zero(weights, seed):
    weights[0] += 0.1
    drawn, sampler = distribution(weights), Sampler(random.Random(seed))
    assert all(drawn.probabilities[sampler(drawn)] > 0 for _ in range(20))
    assert math.isfinite(sampler.nll)


def test_outcomes_omit_categories_of_probability_zero():
    assert [category for category, _ in outcomes(lambda choose: choose(bernoulli(0.0)))] == [0]
    assert dict(outcomes(lambda choose: (choose(bernoulli(0.25)), choose(bernoulli(0.5)))))[1, 1] == pytest.approx(
        math.log(8)
    )
