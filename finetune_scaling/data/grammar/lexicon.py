"""Meanings that the family shares, and the words of each language for them.

Meanings are numbered; each part of speech has a range, in descending order of frequency. A language has one or more
words for a meaning, each a consonant-final stem with regular endings: a vowel for gender (nouns, adjectives, articles)
or tense (verbs), then a consonant for the plural. No word form occurs twice in the family.
"""

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


class Language(NamedTuple):
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


class Grammar(NamedTuple):
    """The language family of a config.

    meanings, frequencies: the range of meanings of each part of speech, and their Zipf distribution.
    """

    config: GrammarConfig
    meanings: dict[str, range]
    frequencies: dict[str, Distribution]
    languages: dict[str, Language]


@functools.lru_cache(maxsize=16)
def make_grammar(config: GrammarConfig) -> Grammar:
    """Build the family, a pure function of the config."""
    meanings = _meanings(config)
    # Rank r of n has probability r^-s / sum_k k^-s.
    frequencies = {
        part: distribution([rank**-config.zipf_exponent for rank in range(1, len(numbers) + 1)])
        for part, numbers in meanings.items()
    }
    taken: set[str] = set()
    languages = {name: _make_language(config, meanings, name, taken) for name in TYPOLOGIES}
    return Grammar(config, meanings, frequencies, languages)


def _meanings(config: GrammarConfig) -> dict[str, range]:
    """Divide the meanings among the parts of speech."""
    counts = {part: int(share * config.lexicon_size) for part, share in _SHARES.items()}
    counts["noun"] += config.lexicon_size - sum(counts.values())
    starts = itertools.accumulate(counts.values(), initial=0)
    return {part: range(start, start + counts[part]) for part, start in zip(counts, starts, strict=False)}


def _make_language(config: GrammarConfig, meanings: dict[str, range], name: str, taken: set[str]) -> Language:
    typology = TYPOLOGIES[name]
    stream = random.Random(f"lexicon/{config.seed}/{name}")
    plural = stream.choice(typology.codas)
    endings = _endings(typology, plural, config.genders)
    (complementizer,), (particle,) = (_new_word(stream, typology, ("",), taken) for _ in range(2))
    articles = tuple(_new_word(stream, typology, endings["adjective"], taken) for _ in range(2))
    words: dict[int, Words] = {}
    for part, meaning in _by_rank(meanings):
        words[meaning] = _make_words(stream, config, typology, part, endings, taken)
    return Language(
        name=name,
        typology=typology,
        words=tuple(words[meaning] for meaning in range(config.lexicon_size)),
        articles=(articles[0], articles[1]),
        complementizer=complementizer,
        particle=particle,
        order=bernoulli(config.reordering_rate),
        adjective_side=bernoulli(config.reordering_rate),
        particle_choice=bernoulli(config.particle_rate),
    )


def _endings(typology: Typology, plural: str, genders: int) -> dict[str, tuple[str, ...]]:
    vowels = typology.vowels
    agreeing = tuple(vowel + number for vowel in vowels[:genders] for number in ("", plural))
    tensed = tuple(vowel + number for vowel in vowels[:2] for number in ("", plural))
    return {"adjective": agreeing, "adverb": ("",), **dict.fromkeys(VERBS, tensed)}


def _by_rank(meanings: dict[str, range]) -> list[tuple[str, int]]:
    pairs = [(part, meaning) for part, numbers in meanings.items() for meaning in numbers]
    return sorted(pairs, key=lambda pair: pair[1] - meanings[pair[0]].start)


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
