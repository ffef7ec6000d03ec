"""Records of the language family, each a pure function of (config, split, index).

The hash of a sentence (or a document to summarize) determines its split, so that no source text is in two splits;
pretraining text contains only sentences of the training split.
"""

import random
import zlib
from collections.abc import Sequence
from typing import Any

from finetune_scaling.data.grammar.choices import Sampler
from finetune_scaling.data.grammar.documents import join_sentences, sample_document, summarize
from finetune_scaling.data.grammar.lexicon import Grammar, Language
from finetune_scaling.data.grammar.syntax import realize, sample_sentence

_HELD_OUT = {0: "dev", 1: "test"}  # of ten buckets

Record = dict[str, Any]


def translation_record(grammar: Grammar, languages: Sequence[Language], split: str, index: int) -> Record:
    """Return a sentence and its translation into the second language.

    Fields: source, target, source_language, target_language, and target_nll (-log p(target | source), nats). A source
    determines its meaning, and a target the choices of its realization, whose product its probability is.
    """
    origin, destination = languages
    stream = _stream(grammar, "translation", origin.name, destination.name, split, index)
    source = ""
    while not source or split_of(source) != split:
        meaning = sample_sentence(grammar, stream)
        source = realize(meaning, origin, Sampler(stream))
    sampler = Sampler(stream)
    target = realize(meaning, destination, sampler)
    return _pair(source, target, origin, destination, sampler.nll)


def summarization_record(grammar: Grammar, languages: Sequence[Language], split: str, index: int) -> Record:
    """Return a document and its summary, with the fields of `translation_record`; both are in the only language."""
    (language,) = languages
    stream = _stream(grammar, "summarization", language.name, split, index)
    text = ""
    while not text or split_of(text) != split:
        document = sample_document(grammar, stream)
        text = join_sentences([realize(sentence, language, Sampler(stream)) for sentence in document])
    sampler = Sampler(stream)
    summary = summarize(grammar.config, document, language, sampler)
    return _pair(text, summary, language, language, sampler.nll)


def monolingual_record(
    grammar: Grammar, languages: Sequence[Language], split: str, index: int, bilingual_share: float
) -> Record:
    """Return pretraining text, with the fields text and language; the languages alternate.

    The text is a document or, with probability `bilingual_share`, a sentence and its translation ("... = ...", language
    of the first). No text is in two splits, and none contains a held-out source of a task.
    """
    first = index % len(languages)
    stream = _stream(grammar, "pretraining", "+".join(language.name for language in languages), split, index)
    second = None
    if stream.random() < bilingual_share:
        second = languages[(first + stream.randrange(1, len(languages))) % len(languages)]
    while True:
        text, sentences = _pretraining_text(grammar, languages[first], second, stream)
        # The text, with full stops, has another hash than one of its sentences.
        if split_of(text) == split and all(split_of(sentence) == "train" for sentence in sentences):
            return {"text": text, "language": languages[first].name}


def split_of(text: str) -> str:
    """Return the split of a source text; a tenth each is dev and test."""
    return _HELD_OUT.get(zlib.crc32(text.encode()) % 10, "train")


def _stream(grammar: Grammar, *name: str | int) -> random.Random:
    # random.Random hashes a string seed with SHA-512, so PYTHONHASHSEED has no effect.
    return random.Random("/".join(map(str, (grammar.config.seed, *name))))


def _pair(source: str, target: str, origin: Language, destination: Language, nll: float) -> Record:
    languages = {"source_language": origin.name, "target_language": destination.name}
    return {"source": source, "target": target, **languages, "target_nll": nll}


def _pretraining_text(
    grammar: Grammar, language: Language, translated: Language | None, stream: random.Random
) -> tuple[str, list[str]]:
    """Return a document or, if `translated` is a language, a sentence and its translation; also all sentences."""
    if translated is not None:
        meaning = sample_sentence(grammar, stream)
        pair = [realize(meaning, one, Sampler(stream)) for one in (language, translated)]
        return " = ".join(pair), pair
    document = sample_document(grammar, stream)
    sentences = [realize(sentence, language, Sampler(stream)) for sentence in document]
    return join_sentences(sentences), sentences
