"""Documents about a topic and their stochastic summaries.

The subject of the first sentence is the topic; most other sentences are about it too. A summary reports one of the
sentences about the topic, most often the first, with newly chosen words and without some of its adjectives and adverbs.
The main verbs of a document differ, so that a summary determines the sentence that it reports. Its other choices are
visible in its text, so p(summary | document) is exactly their product.
"""

import random
from collections.abc import Iterator, Sequence

from finetune_scaling.configuration import choose as choose_from
from finetune_scaling.data.grammar.choices import Choose, Distribution, bernoulli, geometric, outcomes
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
    """Sample the meaning of a document of up to `document_sentences` sentences."""
    max_length = grammar.config.document_sentences
    length = stream.randint(min(2, max_length), max_length)
    sentences = [sample_sentence(grammar, stream)]
    topic = sentences[0][0].subject.noun
    verbs = {sentences[0][0].verb}
    while len(sentences) < length:
        sentence = sample_sentence(grammar, stream, topic if stream.random() < _TOPIC_RATE else None)
        if sentence[0].verb not in verbs:
            sentences.append(sentence)
            verbs.add(sentence[0].verb)
    return tuple(sentences)


def join_sentences(sentences: Sequence[str]) -> str:
    """Join sentences to the text of a document."""
    return ". ".join(sentences) + "."


def parse_document(text: str, language: Language) -> Document:
    """Return the meaning of a document's text. Raises DataError if it is not a document of `language`."""
    if not text.endswith("."):
        raise DataError(f"{text!r} is not a document of language {language.name}: it must end with a full stop")
    return tuple(parse(sentence, language)[0] for sentence in text[:-1].split(". "))


def summarize(config: GrammarConfig, document: Document, language: Language, choose: Choose) -> str:
    """Generate a summary of `document`: `choose` decides on the sentence, dropped words, and the realization."""
    candidates, selection = _topic_sentences(config, document)
    drop = bernoulli(config.drop_rate)
    sentence = [_compress_clause(clause, drop, choose) for clause in candidates[choose(selection)]]
    return realize(sentence, language, choose)


def summary_entropy(config: GrammarConfig, document: str, language: str) -> float:
    """Return H(summary | document) in nats for the text of one document."""
    grammar_language = choose_from(make_grammar(config).languages, language, "language")
    candidates, selection = _topic_sentences(config, parse_document(document, grammar_language))
    entropies = [_compression_entropy(config, sentence, grammar_language) for sentence in candidates]
    return selection.entropy + sum(p * h for p, h in zip(selection.probabilities, entropies, strict=True))


def summaries(config: GrammarConfig, document: str, language: str) -> Iterator[tuple[str, float]]:
    """Yield every summary of a document's text with its nll (nats); their number is exponential in its length."""
    grammar_language = choose_from(make_grammar(config).languages, language, "language")
    meaning = parse_document(document, grammar_language)
    return outcomes(lambda choose: summarize(config, meaning, grammar_language, choose))


def _topic_sentences(config: GrammarConfig, document: Document) -> tuple[list[Sentence], Distribution]:
    topic = document[0][0].subject.noun
    candidates = [sentence for sentence in document if sentence[0].subject.noun == topic]
    return candidates, geometric(len(candidates), config.summary_spread)


def _compress_clause(clause: Clause, drop: Distribution, choose: Choose) -> Clause:
    return clause._replace(
        adverb=None if clause.adverb is None or choose(drop) else clause.adverb,
        subject=_compress_noun_phrase(clause.subject, drop, choose),
        object=None if clause.object is None else _compress_noun_phrase(clause.object, drop, choose),
    )


def _compress_noun_phrase(phrase: NounPhrase, drop: Distribution, choose: Choose) -> NounPhrase:
    return phrase._replace(adjective=None) if phrase.adjective is not None and choose(drop) else phrase


def _compression_entropy(config: GrammarConfig, sentence: Sentence, language: Language) -> float:
    # Dropping is one more choice for each modifier; a dropped modifier has no other choices.
    modifiers = [entropy for clause in sentence for entropy in modifier_entropies(clause, language)]
    dropping = len(modifiers) * bernoulli(config.drop_rate).entropy - config.drop_rate * sum(modifiers)
    return realization_entropy(sentence, language) + dropping
