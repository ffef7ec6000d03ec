"""The translation relation: p(target | source) is p(target | meaning), for a source determines its meaning.

A target determines the choices made in saying the meaning, so p is their product, exactly.
"""

import math
from collections.abc import Iterator

from finetune_scaling.configuration import choose as choose_from
from finetune_scaling.data.grammar.choices import outcomes
from finetune_scaling.data.grammar.config import GrammarConfig
from finetune_scaling.data.grammar.lexicon import Grammar, Language, make_grammar
from finetune_scaling.data.grammar.parsing import parse
from finetune_scaling.data.grammar.syntax import realization_entropy, realize
from finetune_scaling.errors import DataError


def translation_entropy(config: GrammarConfig, source: str, source_language: str, target_language: str) -> float:
    """H(target | source) in nats, for one source sentence. DataError where it is not a sentence of its language."""
    origin, destination = translation_pair(make_grammar(config), source_language, target_language)
    return realization_entropy(parse(source, origin)[0], destination)


def translation_nll(
    config: GrammarConfig, source: str, target: str, source_language: str, target_language: str
) -> float:
    """-log p(target | source) in nats; infinite where `target` is no translation of `source` at all."""
    origin, destination = translation_pair(make_grammar(config), source_language, target_language)
    meaning = parse(source, origin)[0]
    try:
        translated, nll = parse(target, destination)
    except DataError:
        return math.inf
    return nll if translated == meaning else math.inf


def translations(
    config: GrammarConfig, source: str, source_language: str, target_language: str
) -> Iterator[tuple[str, float]]:
    """Every translation of `source` with its -log probability (nats): exponentially many in its length.

    The first one is the likeliest: arm 0 of every choice is.
    """
    origin, destination = translation_pair(make_grammar(config), source_language, target_language)
    meaning = parse(source, origin)[0]
    return outcomes(lambda choose: realize(meaning, destination, choose))


def translation_pair(grammar: Grammar, source_language: str, target_language: str) -> tuple[Language, Language]:
    """The two languages; raises DataError where they are one."""
    origin = choose_from(grammar.languages, source_language, "source_language")
    destination = choose_from(grammar.languages, target_language, "target_language")
    if origin is destination:
        raise DataError(f"target_language = {target_language!r} is also the source language; choose another")
    return origin, destination
