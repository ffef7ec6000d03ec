"""The grammar's probabilities are exact, by enumeration, sampling and closed forms; agreement and Zipf's law hold."""

import collections
import dataclasses
import math
import random
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_scaling.data.grammar import records
from finetune_scaling.data.grammar.choices import Sampler, bernoulli, distribution
from finetune_scaling.data.grammar.config import GrammarConfig
from finetune_scaling.data.grammar.lexicon import VERBS, Grammar, make_grammar
from finetune_scaling.data.grammar.syntax import realize, sample_sentence
from finetune_scaling.data.sources import GrammarSource, open_source

DEFAULT = GrammarConfig()
RICH = GrammarConfig(synonyms=3, ambiguity=0.6, genders=3, reordering_rate=0.3, particle_rate=0.2, drop_rate=0.4)
SMALL = dataclasses.replace(RICH, max_clause_depth=1, document_sentences=3, summary_spread=0.5, adverb_rate=0.5)


def outcomes(program) -> Iterator[tuple[str, float]]:
    """Yield every result of program(choose) with -log of its probability: replay a script, then choose category 0."""
    scripts: list[list[int]] = [[]]
    while scripts:
        script = scripts.pop()
        chosen: list[tuple[int, tuple[float, ...]]] = []

        def choose(distribution, script=script, chosen=chosen) -> int:
            category = script[len(chosen)] if len(chosen) < len(script) else 0
            chosen.append((category, distribution.nlls))
            return category

        yield program(choose), math.fsum(nlls[category] for category, nlls in chosen)
        path = [category for category, _ in chosen]
        for step in range(len(script), len(chosen)):
            others = [category for category, nll in enumerate(chosen[step][1]) if category and nll < math.inf]
            scripts += [[*path[:step], category] for category in others]


def short_meanings(config: GrammarConfig, count: int, longest: int = 7) -> list[tuple]:
    """Sample distinct meanings whose text in A has at most `longest` words."""
    grammar, stream = make_grammar(config), random.Random(0)
    found: dict[tuple, None] = {}
    while len(found) < count:
        meaning = sample_sentence(grammar, stream)
        if len(realize(meaning, grammar.languages["A"], Sampler(stream)).split()) <= longest:
            found[meaning] = None
    return list(found)


@pytest.mark.parametrize("name", ["A", "B", "C"])
@pytest.mark.parametrize("config", [DEFAULT, RICH])
def test_realizations_are_distinct_and_their_probabilities_sum_to_one(config, name):
    language = make_grammar(config).languages[name]
    for meaning in short_meanings(config, 25):
        texts = list(outcomes(lambda choose, meaning=meaning: realize(meaning, language, choose)))
        assert len(dict(texts)) == len(texts) > 1
        assert math.fsum(math.exp(-nll) for _, nll in texts) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("name", ["A", "B", "C"])
def test_a_text_determines_its_meaning(name):
    config = dataclasses.replace(SMALL, lexicon_size=24, synonyms=2, zipf_exponent=2.0)
    language = make_grammar(config).languages[name]
    meaning_of: dict[str, tuple] = {}
    for meaning in short_meanings(config, 400):
        for text, _ in outcomes(lambda choose, meaning=meaning: realize(meaning, language, choose)):
            assert meaning_of.setdefault(text, meaning) == meaning


@pytest.mark.parametrize(
    ("dataset", "languages", "program"), [("translation", "BC", "realize"), ("summarization", "A", "summarize")]
)
def test_the_recorded_nll_is_that_of_the_enumeration(monkeypatch, dataset, languages, program):
    """The last text of a record is its target; its program is called again with every choice."""
    calls = []
    original = getattr(records, program)
    monkeypatch.setattr(records, program, lambda *arguments: calls.append(arguments) or original(*arguments))
    several = 0
    for record in open_source(GrammarSource(dataset, "train", 12, tuple(languages), grammar=SMALL)):
        *arguments, _ = calls[-1]
        listed = list(outcomes(lambda choose, arguments=arguments: original(*arguments, choose)))
        targets = dict(listed)
        assert len(targets) == len(listed)
        assert math.fsum(math.exp(-nll) for nll in targets.values()) == pytest.approx(1, abs=1e-9)
        assert targets[record["target"]] == pytest.approx(record["target_nll"], abs=1e-9)
        several += len(targets) > 10
    assert several > 2


def test_sampled_texts_have_the_enumerated_frequencies():
    (meaning,) = short_meanings(RICH, 1, longest=5)
    language, stream, samples = make_grammar(RICH).languages["B"], random.Random(0), 10_000
    counts = collections.Counter(realize(meaning, language, Sampler(stream)) for _ in range(samples))
    for text, nll in outcomes(lambda choose: realize(meaning, language, choose)):
        p = math.exp(-nll)
        assert abs(counts[text] - samples * p) < 5 * math.sqrt(samples * p * (1 - p)) + 1


def analyses(grammar: Grammar, name: str) -> dict[str, tuple[str, int, int]]:
    """Return the part of speech, the gender (of nouns) and the ending of each word form of a language."""
    language = grammar.languages[name]
    found = {form: ("article", 0, i) for forms in language.articles for i, form in enumerate(forms)}
    for part, meanings in grammar.meanings.items():
        for words in (language.words[meaning] for meaning in meanings):
            for gender, forms in zip(words.genders, words.forms, strict=True):
                found |= {form: ("verb" if part in VERBS else part, gender, i) for i, form in enumerate(forms)}
    return found


@pytest.mark.parametrize("name", ["A", "B", "C"])
def test_agreement_in_every_sentence(name):
    """Number on articles, nouns, adjectives and verbs, gender on articles and adjectives: read off the endings."""
    grammar, stream = make_grammar(RICH), random.Random(5)
    language, known = grammar.languages[name], analyses(grammar, name)
    agreeing = 0
    for _ in range(300):
        (meaning, *_) = sample_sentence(grammar, stream)
        found = collections.defaultdict(list)
        for word in realize([meaning], language, Sampler(stream)).split():
            part, *form = known.get(word, ("particle",))
            found[part].append(form)
        phrases = [meaning.subject, *([meaning.object] if meaning.object else [])]
        assert [number for _, number in found["noun"]] == [phrase.plural for phrase in phrases]
        endings = [2 * gender + number for gender, number in found["noun"]]
        assert [ending for _, ending in found["article"]] == endings
        described = [ending for ending, phrase in zip(endings, phrases, strict=True) if phrase.adjective is not None]
        assert [ending for _, ending in found["adjective"]] == described
        agreeing += len(described)
        assert [ending % 2 for _, ending in found["verb"]] == [meaning.subject.plural]
    assert agreeing > 50


def test_word_forms_are_unique_in_the_family():
    grammar = make_grammar(GrammarConfig(lexicon_size=600, synonyms=3, genders=3))
    forms = [
        form
        for language in grammar.languages.values()
        for words in (*(word.forms for word in language.words), language.articles)
        for forms in words
        for form in forms
    ]
    assert len(set(forms)) == len(forms) > 3000


@pytest.mark.parametrize("exponent", [0.7, 1.4])
def test_noun_frequencies_follow_zipfs_law(exponent):
    grammar = make_grammar(GrammarConfig(lexicon_size=200, zipf_exponent=exponent))
    stream = random.Random(1)
    counts = collections.Counter(sample_sentence(grammar, stream)[0].subject.noun for _ in range(30_000))
    nouns = grammar.meanings["noun"]
    ranks = np.arange(1, 31)
    frequencies = [counts[nouns.start + rank - 1] for rank in ranks]
    slope = np.polyfit(np.log(ranks), np.log(frequencies), 1, w=np.sqrt(frequencies))[0]
    assert slope == pytest.approx(-exponent, abs=0.05)


@settings(deadline=None)
@given(st.lists(st.floats(0, 10), min_size=1, max_size=6), st.integers(0, 2**32))
def test_a_sampler_never_chooses_a_category_of_probability_zero(weights, seed):
    weights[0] += 0.1
    drawn, sampler = distribution(weights), Sampler(random.Random(seed))
    assert all(drawn.nlls[sampler(drawn)] < math.inf for _ in range(20))
    assert math.isfinite(sampler.nll)


def test_the_sum_of_choices_is_the_nll():
    sampler = Sampler(random.Random(0))
    expected = sum(math.log(4) if sampler(bernoulli(0.25)) else math.log(4 / 3) for _ in range(20))
    assert sampler.nll == pytest.approx(expected)
