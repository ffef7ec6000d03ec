"""Translation: p(target | source) = p(target | meaning), because a source determines its meaning.

A target determines the choices of its realization, so p(target | meaning) is exactly their product.
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
    """Return H(target | source) in nats for one sentence. Raises DataError if it is not one of its language."""
    origin, destination = translation_pair(make_grammar(config), source_language, target_language)
    return realization_entropy(parse(source, origin)[0], destination)


def translation_nll(
    config: GrammarConfig, source: str, target: str, source_language: str, target_language: str
) -> float:
    """Return -log p(target | source) in nats; infinite if `target` is not a translation of `source`."""
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
    """Yield every translation of `source` with its nll (nats); their number is exponential in its length.

    The first one is the most probable, because category 0 of every choice is.
    """
    origin, destination = translation_pair(make_grammar(config), source_language, target_language)
    meaning = parse(source, origin)[0]
    return outcomes(lambda choose: realize(meaning, destination, choose))


def translation_pair(grammar: Grammar, source_language: str, target_language: str) -> tuple[Language, Language]:
    """Return the two languages. Raises DataError if they are equal."""
    origin = choose_from(grammar.languages, source_language, "source_language")
    destination = choose_from(grammar.languages, target_language, "target_language")
    if origin is destination:
        raise DataError(f"target_language = {target_language!r} is also the source language; choose another")
    return origin, destination
