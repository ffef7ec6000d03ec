"""Encoded examples from the data cache: a split is encoded once per tokenizer, template and limits.

The examples of a run are selected from those of the complete split, so that runs with other numbers of examples and
other seeds share them. A small share of a large split is encoded on its own.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import sentencepiece
import tokenizers

from finetune_scaling.data.chat_template import ChatTemplate
from finetune_scaling.data.data_cache import Entry, cache_directory, cached, is_large
from finetune_scaling.data.digests import examples_key
from finetune_scaling.data.encoders.make import make_encoder
from finetune_scaling.data.encoding import (
    EncodedExamples,
    RaggedArray,
    SequenceFormat,
    encode_examples,
    encode_quietly,
    warn_of_examples,
)
from finetune_scaling.data.examples import Examples
from finetune_scaling.data.templates import Template
from finetune_scaling.data.tokenizers.interface import Tokenizer

_TEMPLATES = (Template, ChatTemplate)  # not those of few-shot evaluation, which have demonstrations
_SMALL_SHARE = 0.1  # of a split, below which only the examples of the run are encoded
_LIBRARIES = {"tokenizers": tokenizers.__version__, "sentencepiece": sentencepiece.__version__}


def encode_cached(
    examples: Sequence[Mapping[str, Any]], tokenizer: Tokenizer, template: Template, sequence_format: SequenceFormat
) -> EncodedExamples:
    """Return `encode_examples`, from the data cache for many examples of a split with the template of its task."""
    if not isinstance(examples, Examples) or not _is_stored(examples, template):
        return encode_examples(examples, tokenizer, template, sequence_format)
    complete, indices = examples.complete(), examples.indices
    if indices is not None and len(indices) < _SMALL_SHARE * len(complete):
        complete, indices = examples, None
    entry = cached(
        "encoded",
        _key(complete, tokenizer, template, sequence_format),
        lambda: _as_entry(encode_quietly(complete, tokenizer, template, sequence_format)),
    )
    encoded = _from_entry(entry, tokenizer, template)
    if indices is not None:
        encoded = encoded.select(indices)
    warn_of_examples(encoded, tokenizer, template)
    return encoded


def _is_stored(examples: Examples, template: Template) -> bool:
    return is_large(len(examples)) and type(template) in _TEMPLATES and cache_directory() is not None


def _key(
    examples: Examples, tokenizer: Tokenizer, template: Template, sequence_format: SequenceFormat
) -> dict[str, Any]:
    encoder = make_encoder(tokenizer, template)
    languages = [(part.part.source_language, part.part.target_language) for part in examples.parts]
    names = ("source_language", "target_language")
    # Their ids show what the names of languages, the chat template and the current date in it add to every example.
    samples = [{"source": "a", "target": "a", **dict(zip(names, pair, strict=True))} for pair in languages]
    return {
        "examples": examples_key(examples),
        "languages": languages,
        "tokenizer": tokenizer.digest,
        "libraries": _LIBRARIES,
        "encoder": encoder.identity,
        "template": template,
        "samples": [encoder.inputs(samples), encoder.targets(samples)],
        "max_source_tokens": sequence_format.max_source_tokens,
        "max_input_tokens": sequence_format.max_input_tokens,
        "max_target_tokens": sequence_format.max_target_tokens,
        "mode": sequence_format.mode,
    }


def _as_entry(encoded: EncodedExamples) -> Entry:
    arrays = {
        "inputs": encoded.inputs.values,
        "input_lengths": encoded.inputs.lengths,
        "targets": encoded.targets.values,
        "target_lengths": encoded.targets.lengths,
        "has_eos": encoded.has_eos,
        "is_truncated": encoded.is_truncated,
    }
    found = {f"found_{number}": examples for number, examples in enumerate(encoded.found_tokens.values())}
    return Entry({"found_tokens": list(encoded.found_tokens)}, arrays | found)


def _from_entry(entry: Entry, tokenizer: Tokenizer, template: Template) -> EncodedExamples:
    arrays = entry.arrays
    return EncodedExamples(
        RaggedArray.from_lengths(arrays["inputs"], arrays["input_lengths"]),
        RaggedArray.from_lengths(arrays["targets"], arrays["target_lengths"]),
        arrays["has_eos"],
        arrays["is_truncated"],
        {token: arrays[f"found_{number}"] for number, token in enumerate(entry.value["found_tokens"])},
        make_encoder(tokenizer, template).special_tokens,
    )
