"""Documents about a topic and their stochastic summaries.

The subject of the first sentence is the topic; further sentences are about it more often than not. A summary tells
one of the sentences about the topic, the first most often, in words of its own and without some of its adjectives and
adverbs. The main verbs of a document differ, so that a summary determines the sentence that it tells, and its other
choices are visible in it: p(summary | document) is their product, exactly.
"""

import random
from collections.abc import Iterator, Sequence

from finetune_scaling.configuration import choose as choose_from
from finetune_scaling.data.grammar.choices import Choose, Distribution, coin, geometric, outcomes
from finetune_scaling.data.grammar.config import GrammarConfig
from finetune_scaling.data.grammar.lexicon import Grammar, Language, make_grammar
from finetune_scaling.data.grammar.parsing import parse
from finetune_scaling.data.grammar.syntax import (
    Clause,
    NounPhrase,
    Sentence,
    modifier_entropies,
    realization_entropy,
    realize,
    sample_sentence,
)
from finetune_scaling.errors import DataError

_TOPIC_RATE = 0.6

Document = tuple[Sentence, ...]


def sample_document(grammar: Grammar, stream: random.Random) -> Document:
    """Draws the meaning of a document of 1 to `document_sentences` sentences (2 at least where that is above 1)."""
    longest = grammar.config.document_sentences
    length = stream.randint(min(2, longest), longest)
    sentences = [sample_sentence(grammar, stream)]
    topic = sentences[0][0].subject.noun
    told = {sentences[0][0].verb}
    while len(sentences) < length:
        sentence = sample_sentence(grammar, stream, topic if stream.random() < _TOPIC_RATE else None)
        if sentence[0].verb not in told:
            sentences.append(sentence)
            told.add(sentence[0].verb)
    return tuple(sentences)


def join_sentences(sentences: Sequence[str]) -> str:
    """The text of a document from those of its sentences."""
    return ". ".join(sentences) + "."


def parse_document(text: str, language: Language) -> Document:
    """The meaning of a document's text; DataError where it is not one of `language`."""
    if not text.endswith("."):
        raise DataError(f"{text!r} is not a document of language {language.name}: it must end with a full stop")
    return tuple(parse(sentence, language)[0] for sentence in text[:-1].split(". "))


def summarize(config: GrammarConfig, document: Document, language: Language, choose: Choose) -> str:
    """Says a summary of `document`, asking `choose` which sentence, what to drop, and how to say the rest."""
    told, selection = _topic_sentences(config, document)
    drop = coin(config.drop_rate)
    sentence = [_compress_clause(clause, drop, choose) for clause in told[choose(selection)]]
    return realize(sentence, language, choose)


def summary_entropy(config: GrammarConfig, document: str, language: str) -> float:
    """H(summary | document) in nats, for one document's text."""
    spoken = choose_from(make_grammar(config).languages, language, "language")
    told, selection = _topic_sentences(config, parse_document(document, spoken))
    entropies = [_telling_entropy(config, sentence, spoken) for sentence in told]
    return selection.entropy + sum(p * h for p, h in zip(selection.probabilities, entropies, strict=True))


def summaries(config: GrammarConfig, document: str, language: str) -> Iterator[tuple[str, float]]:
    """Every summary of a document's text with its -log probability (nats): exponentially many in its length."""
    spoken = choose_from(make_grammar(config).languages, language, "language")
    meaning = parse_document(document, spoken)
    return outcomes(lambda choose: summarize(config, meaning, spoken, choose))


def _topic_sentences(config: GrammarConfig, document: Document) -> tuple[list[Sentence], Distribution]:
    topic = document[0][0].subject.noun
    told = [sentence for sentence in document if sentence[0].subject.noun == topic]
    return told, geometric(len(told), config.summary_spread)


def _compress_clause(clause: Clause, drop: Distribution, choose: Choose) -> Clause:
    return clause._replace(
        adverb=None if clause.adverb is None or choose(drop) else clause.adverb,
        subject=_compress_noun_phrase(clause.subject, drop, choose),
        object=None if clause.object is None else _compress_noun_phrase(clause.object, drop, choose),
    )


def _compress_noun_phrase(phrase: NounPhrase, drop: Distribution, choose: Choose) -> NounPhrase:
    return phrase._replace(adjective=None) if phrase.adjective is not None and choose(drop) else phrase


def _telling_entropy(config: GrammarConfig, sentence: Sentence, language: Language) -> float:
    # Dropping is one more choice for each modifier, and spares its other choices where it is dropped.
    modifiers = [entropy for clause in sentence for entropy in modifier_entropies(clause, language)]
    dropping = len(modifiers) * coin(config.drop_rate).entropy - config.drop_rate * sum(modifiers)
    return realization_entropy(sentence, language) + dropping
