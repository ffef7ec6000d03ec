"""Meanings of sentences, and their realization in a language.

A sentence is a chain of clauses, each of which embeds the next ("she says that ..."). Meanings are shared by all
languages. A realization makes free choices (synonyms, order, particle), all visible in the text, so that a text
determines its meaning and every choice, and p(text | meaning) is the product over the choices.
"""

import random
from collections.abc import Sequence
from typing import NamedTuple

from finetune_scaling.data.grammar.choices import Choose
from finetune_scaling.data.grammar.lexicon import Grammar, Language

_TRANSITIVE_RATE = 0.7
_PLURAL_RATE = 0.35
_DEFINITE_RATE = 0.5
_PAST_RATE = 0.4


class NounPhrase(NamedTuple):
    """Meaning of a noun phrase; noun and adjective are meaning numbers."""

    noun: int
    adjective: int | None
    plural: bool
    definite: bool


class Clause(NamedTuple):
    """Meaning of a clause; verb and adverb are meaning numbers."""

    verb: int
    past: bool
    adverb: int | None
    subject: NounPhrase
    object: NounPhrase | None


Sentence = tuple[Clause, ...]


def sample_sentence(grammar: Grammar, stream: random.Random, topic: int | None = None) -> Sentence:
    """Sample a meaning; `topic` fixes the noun of the first subject."""
    config, uniform = grammar.config, stream.random
    clauses = []
    for depth in range(1, config.max_clause_depth + 1):
        embeds = depth < config.max_clause_depth and uniform() < config.embedding_rate
        clauses.append(_sample_clause(grammar, stream, embeds, topic if depth == 1 else None))
        if not embeds:
            break
    return tuple(clauses)


def _sample_clause(grammar: Grammar, stream: random.Random, embeds: bool, topic: int | None) -> Clause:
    uniform = stream.random
    transitive = not embeds and uniform() < _TRANSITIVE_RATE
    part = "clausal" if embeds else "transitive" if transitive else "intransitive"
    return Clause(
        verb=_sample_meaning(grammar, part, stream),
        past=uniform() < _PAST_RATE,
        adverb=_sample_meaning(grammar, "adverb", stream) if uniform() < grammar.config.adverb_rate else None,
        subject=_sample_noun_phrase(grammar, stream, topic),
        object=_sample_noun_phrase(grammar, stream, None) if transitive else None,
    )


def _sample_noun_phrase(grammar: Grammar, stream: random.Random, topic: int | None) -> NounPhrase:
    uniform = stream.random
    return NounPhrase(
        noun=_sample_meaning(grammar, "noun", stream) if topic is None else topic,
        adjective=_sample_meaning(grammar, "adjective", stream) if uniform() < grammar.config.adjective_rate else None,
        plural=uniform() < _PLURAL_RATE,
        definite=uniform() < _DEFINITE_RATE,
    )


def _sample_meaning(grammar: Grammar, part: str, stream: random.Random) -> int:
    return grammar.meanings[part].start + grammar.frequencies[part].sample(stream)


def realize(sentence: Sequence[Clause], language: Language, choose: Choose) -> str:
    """Realize `sentence` in `language`; `choose` makes the free choices."""
    link = f" {language.complementizer} "
    text = link.join([_realize_clause(clause, language, choose) for clause in sentence])
    return f"{text} {language.particle}" if choose(language.particle_choice) else text


def _realize_clause(clause: Clause, language: Language, choose: Choose) -> str:
    typology = language.typology
    position = typology.verb_positions[choose(language.order)]
    verbs = language.words[clause.verb]
    verb = verbs.forms[choose(verbs.distribution)][2 * clause.past + clause.subject.plural]
    parts = [_realize_noun_phrase(clause.subject, language, choose)]
    if clause.object is not None:
        parts.append(_realize_noun_phrase(clause.object, language, choose))
    parts.insert(position, verb)
    if clause.adverb is not None:
        adverbs = language.words[clause.adverb]
        parts.insert(0 if typology.adverb_first else len(parts), adverbs.forms[choose(adverbs.distribution)][0])
    return " ".join(parts)


def _realize_noun_phrase(phrase: NounPhrase, language: Language, choose: Choose) -> str:
    typology, nouns = language.typology, language.words[phrase.noun]
    word = choose(nouns.distribution)
    agreement = 2 * nouns.genders[word] + phrase.plural
    text = nouns.forms[word][phrase.plural]
    if phrase.adjective is not None:
        adjectives = language.words[phrase.adjective]
        adjective = adjectives.forms[choose(adjectives.distribution)][agreement]
        last = typology.adjective_last != choose(language.adjective_side)
        text = f"{text} {adjective}" if last else f"{adjective} {text}"
    article = language.articles[phrase.definite][agreement]
    return f"{text} {article}" if typology.article_last else f"{article} {text}"
