"""Documents about a topic and their stochastic summaries.

The subject of the first sentence is the topic; most other sentences are about it too. A summary reports one of the
sentences about the topic, most often the first, with newly chosen words and without some of its adjectives and adverbs.
The main verbs of a document differ, so that a summary determines the sentence that it reports. Its other choices are
visible in its text, so p(summary | document) is exactly their product.
"""

import random
from collections.abc import Sequence

from finetune_scaling.data.grammar.choices import Choose, Distribution, bernoulli, geometric
from finetune_scaling.data.grammar.config import GrammarConfig
from finetune_scaling.data.grammar.lexicon import Grammar, Language
from finetune_scaling.data.grammar.syntax import Clause, NounPhrase, Sentence, realize, sample_sentence

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


def summarize(config: GrammarConfig, document: Document, language: Language, choose: Choose) -> str:
    """Generate a summary of `document`: `choose` decides on the sentence, dropped words, and the realization."""
    topic = document[0][0].subject.noun
    candidates = [sentence for sentence in document if sentence[0].subject.noun == topic]
    chosen = candidates[choose(geometric(len(candidates), config.summary_spread))]
    drop = bernoulli(config.drop_rate)
    return realize([_compress_clause(clause, drop, choose) for clause in chosen], language, choose)


def _compress_clause(clause: Clause, drop: Distribution, choose: Choose) -> Clause:
    return clause._replace(
        adverb=None if clause.adverb is None or choose(drop) else clause.adverb,
        subject=_compress_noun_phrase(clause.subject, drop, choose),
        object=None if clause.object is None else _compress_noun_phrase(clause.object, drop, choose),
    )


def _compress_noun_phrase(phrase: NounPhrase, drop: Distribution, choose: Choose) -> NounPhrase:
    return phrase._replace(adjective=None) if phrase.adjective is not None and choose(drop) else phrase
