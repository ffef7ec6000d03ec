"""Meanings that the family shares, and the words of each language for them.

Meanings are numbered; each part of speech has a range, in descending order of frequency. A language has one or more
words for a meaning, each a consonant-final stem with regular endings: a vowel for gender (nouns, adjectives, articles)
or tense (verbs), then a consonant for the plural. No word form occurs twice in the family.
"""

import dataclasses
import functools
import itertools
import random
from typing import NamedTuple

from finetune_scaling.data.grammar.choices import Distribution, bernoulli, distribution, geometric
from finetune_scaling.data.grammar.config import GrammarConfig

_SHARES = {"noun": 0.42, "transitive": 0.2, "intransitive": 0.1, "clausal": 0.06, "adjective": 0.16, "adverb": 0.06}
_STEMS_PER_LENGTH = 25  # failed samples before stems get another syllable; frequent words come first and stay short
VERBS = ("transitive", "intransitive", "clausal")


class Typology(NamedTuple):
    """Word order and sounds of a language.

    verb_positions: index of the verb among (subject, object) in the usual and in the rarer order: (1, 0) is SVO or VSO,
    (2, 0) is SOV or VSO. The two also differ for clauses without an object.
    """

    verb_positions: tuple[int, int]
    adjective_last: bool
    article_last: bool
    adverb_first: bool
    onsets: tuple[str, ...]
    vowels: tuple[str, str, str]
    codas: tuple[str, ...]


TYPOLOGIES = {
    "A": Typology((1, 0), False, False, False, tuple("ptkmnsl"), ("a", "i", "u"), tuple("ptkmnsl")),
    "B": Typology((2, 0), True, False, True, tuple("bdgvzrj"), ("e", "o", "u"), tuple("bdgvzr")),
    "C": Typology((0, 2), True, True, True, ("f", "h", "w", "y", "ch", "x"), ("o", "a", "e"), ("f", "h", "ch", "x")),
}


class Words(NamedTuple):
    """The words of one meaning: word k has forms[k][ending] and, if a noun, genders[k]."""

    distribution: Distribution
    forms: tuple[tuple[str, ...], ...]
    genders: tuple[int, ...]


class Analysis(NamedTuple):
    """Analysis of a word form: part of speech, meaning (articles: definiteness), index of the synonym, and ending."""

    part: str
    meaning: int
    word: int
    ending: int


@dataclasses.dataclass(frozen=True)
class Language:
    """One language: its words and the distributions of its free choices.

    Endings are numbered: nouns by plural (0, 1), adjectives and articles by 2 * gender + plural, verbs by 2 * past +
    plural.
    """

    name: str
    typology: Typology
    words: tuple[Words, ...]
    articles: tuple[tuple[str, ...], tuple[str, ...]]
    complementizer: str
    particle: str
    order: Distribution
    adjective_side: Distribution
    particle_choice: Distribution
    analyses: dict[str, Analysis]


@dataclasses.dataclass(frozen=True)
class Lexicon:
    """The range of meanings of each part of speech, and their Zipf distributions."""

    meanings: dict[str, range]
    frequencies: dict[str, Distribution]


@dataclasses.dataclass(frozen=True)
class Grammar:
    """The language family of a config."""

    config: GrammarConfig
    lexicon: Lexicon
    languages: dict[str, Language]


@functools.lru_cache(maxsize=16)
def make_grammar(config: GrammarConfig) -> Grammar:
    """Build the family, a pure function of the config."""
    lexicon = make_lexicon(config)
    taken: set[str] = set()
    languages = {name: _make_language(config, lexicon, name, taken) for name in TYPOLOGIES}
    return Grammar(config, lexicon, languages)


def make_lexicon(config: GrammarConfig) -> Lexicon:
    """Divide the meanings among the parts of speech; rank r of n has probability r^-s / sum_k k^-s."""
    counts = {part: int(share * config.lexicon_size) for part, share in _SHARES.items()}
    counts["noun"] += config.lexicon_size - sum(counts.values())
    starts = itertools.accumulate(counts.values(), initial=0)
    meanings = {part: range(start, start + counts[part]) for part, start in zip(counts, starts, strict=False)}
    return Lexicon(meanings, {part: _zipf(count, config.zipf_exponent) for part, count in counts.items()})


def _zipf(ranks: int, exponent: float) -> Distribution:
    return distribution([rank**-exponent for rank in range(1, ranks + 1)])


def _make_language(config: GrammarConfig, lexicon: Lexicon, name: str, taken: set[str]) -> Language:
    typology = TYPOLOGIES[name]
    stream = random.Random(f"lexicon/{config.seed}/{name}")
    plural = stream.choice(typology.codas)
    endings = _endings(typology, plural, config.genders)
    (complementizer,), (particle,) = (_new_word(stream, typology, ("",), taken) for _ in range(2))
    articles = tuple(_new_word(stream, typology, endings["adjective"], taken) for _ in range(2))
    words: dict[int, Words] = {}
    for part, meaning in _by_rank(lexicon):
        words[meaning] = _make_words(stream, config, typology, part, endings, taken)
    ordered = tuple(words[meaning] for meaning in range(config.lexicon_size))
    return Language(
        name=name,
        typology=typology,
        words=ordered,
        articles=(articles[0], articles[1]),
        complementizer=complementizer,
        particle=particle,
        order=bernoulli(config.reordering_rate),
        adjective_side=bernoulli(config.reordering_rate),
        particle_choice=bernoulli(config.particle_rate),
        analyses=_analyses(lexicon, ordered, articles),
    )


def _endings(typology: Typology, plural: str, genders: int) -> dict[str, tuple[str, ...]]:
    vowels = typology.vowels
    agreeing = tuple(vowel + number for vowel in vowels[:genders] for number in ("", plural))
    tensed = tuple(vowel + number for vowel in vowels[:2] for number in ("", plural))
    return {"adjective": agreeing, "adverb": ("",), **dict.fromkeys(VERBS, tensed)}


def _by_rank(lexicon: Lexicon) -> list[tuple[str, int]]:
    pairs = [(part, meaning) for part, meanings in lexicon.meanings.items() for meaning in meanings]
    return sorted(pairs, key=lambda pair: pair[1] - lexicon.meanings[pair[0]].start)


def _make_words(
    stream: random.Random,
    config: GrammarConfig,
    typology: Typology,
    part: str,
    endings: dict[str, tuple[str, ...]],
    taken: set[str],
) -> Words:
    count = stream.randint(1, config.synonyms)
    genders = tuple(stream.randrange(config.genders) for _ in range(count))
    forms = []
    for gender in genders:
        word_endings = endings["adjective"][2 * gender : 2 * gender + 2] if part == "noun" else endings[part]
        forms.append(_new_word(stream, typology, word_endings, taken))
    return Words(geometric(count, config.ambiguity), tuple(forms), genders)


def _new_word(stream: random.Random, typology: Typology, endings: tuple[str, ...], taken: set[str]) -> tuple[str, ...]:
    for attempt in itertools.count():
        syllables = 1 + attempt // _STEMS_PER_LENGTH
        stem = "".join(stream.choice(typology.onsets) + stream.choice(typology.vowels) for _ in range(syllables))
        stem += stream.choice(typology.codas)
        forms = tuple(stem + ending for ending in endings)
        # The stem is reserved too, so that no two words differ only in their endings.
        if taken.isdisjoint((stem, *forms)):
            taken.update((stem, *forms))
            return forms
    raise AssertionError("unreachable: stems grow until one is free")


def _analyses(lexicon: Lexicon, words: tuple[Words, ...], articles: tuple[tuple[str, ...], ...]) -> dict[str, Analysis]:
    analyses = {
        form: Analysis("article", definite, 0, ending)
        for definite, forms in enumerate(articles)
        for ending, form in enumerate(forms)
    }
    for part, meanings in lexicon.meanings.items():
        for meaning in meanings:
            for word, forms in enumerate(words[meaning].forms):
                analyses |= {form: Analysis(part, meaning, word, ending) for ending, form in enumerate(forms)}
    return analyses
