"""Encoding of examples, truncated to their limits, and of documents, split into chunks, as compact ragged arrays."""

import array
import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Self

import numpy as np

from finetune_scaling.data.encoders.interface import ExampleEncoder
from finetune_scaling.data.encoders.make import make_encoder
from finetune_scaling.data.encoders.special_tokens import count_special_tokens, warn_of_special_tokens
from finetune_scaling.data.objectives import TokenSequence, prefix_lm
from finetune_scaling.data.templates import Template
from finetune_scaling.data.tokenizers.interface import SpecialTokens, Tokenizer
from finetune_scaling.errors import ConfigError, DataError

_BLOCK = 1024  # texts per call of the tokenizer


@dataclasses.dataclass(frozen=True)
class SequenceFormat:
    """Format of the sequence of an example; the same for training, evaluation and decoding.

    length: maximum number of tokens of a sequence (of a row, if rows are not packed).
    max_source_tokens: limit of the source text, which is truncated further if input + max_target_tokens exceeds
      `length`; the text of the template is never truncated.
    max_target_tokens: limit of the target, eos included. A longer target is truncated and gets no eos.
    bidirectional_input: attention within the input is bidirectional (prefix LM).
    mode: UL2 mode token in front of the input ("S": prefix LM), for bases that were pretrained with mode tokens.
    """

    length: int
    max_source_tokens: int
    max_target_tokens: int
    bidirectional_input: bool = False
    mode: Literal["", "R", "X", "S"] = ""

    def __post_init__(self) -> None:
        if self.max_source_tokens < 1 or self.max_target_tokens < 1:
            raise ConfigError(
                f"max_source_tokens = {self.max_source_tokens} and max_target_tokens = {self.max_target_tokens} must "
                "be at least 1"
            )
        if self.max_input_tokens < 1:
            raise ConfigError(
                f"length = {self.length} leaves no token for the input with max_target_tokens = "
                f"{self.max_target_tokens}; raise length or lower max_target_tokens"
            )

    @property
    def max_input_tokens(self) -> int:
        """Maximum number of tokens of the rendered input."""
        return self.length - self.max_target_tokens - bool(self.mode)


class RaggedArray(NamedTuple):
    """Arrays of unequal lengths, concatenated: item i is values[offsets[i]:offsets[i + 1]] (int32, int64)."""

    values: np.ndarray
    offsets: np.ndarray

    @classmethod
    def from_lists(cls, lists: Iterable[Sequence[int]]) -> Self:
        """Copy lists, which may be generated one at a time."""
        values, lengths = array.array("i"), array.array("q")
        for ids in lists:
            values.extend(ids)
            lengths.append(len(ids))
        return cls.from_lengths(np.array(values, np.int32), lengths)

    @classmethod
    def from_lengths(cls, values: np.ndarray, lengths: np.ndarray | array.array) -> Self:
        """Split values into consecutive items of `lengths`."""
        offsets = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, dtype=np.int64, out=offsets[1:])
        return cls(values, offsets)

    @property
    def lengths(self) -> np.ndarray:
        """Lengths of the items, int64[N]."""
        return np.diff(self.offsets)

    def item(self, index: int) -> np.ndarray:
        """Return a view of one item, int32[n]."""
        return self.values[self.offsets[index] : self.offsets[index + 1]]


class EncodedExamples(NamedTuple):
    """Token ids of N examples.

    inputs, targets: without bos and eos. has_eos: bool[N], False if the target is truncated. special_tokens: the bos
    and eos of the sequences.
    """

    inputs: RaggedArray
    targets: RaggedArray
    has_eos: np.ndarray
    special_tokens: SpecialTokens
    statistics: dict[str, Any]

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of each sequence, eos included, int64[N]."""
        return self.inputs.lengths + self.targets.lengths + self.has_eos

    def sequence(self, index: int, sequence_format: SequenceFormat) -> TokenSequence:
        """Return the training sequence of one example."""
        return prefix_lm(
            self.inputs.item(index),
            self.targets.item(index),
            self.special_tokens,
            bidirectional=sequence_format.bidirectional_input,
            append_eos=bool(self.has_eos[index]),
        )


class EncodedDocuments(NamedTuple):
    """Non-empty chunks of documents, and is_last (bool[N]): whether a chunk is the last of its document."""

    chunks: RaggedArray
    is_last: np.ndarray
    statistics: dict[str, Any]

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of each chunk, int64[N]."""
        return self.chunks.lengths

    def chunk(self, index: int) -> tuple[np.ndarray, bool]:
        """Return the ids of a chunk, int32[n], and whether it is the last of its document."""
        return self.chunks.item(index), bool(self.is_last[index])


def encode_examples(
    examples: Sequence[Mapping[str, Any]], tokenizer: Tokenizer, template: Template, sequence_format: SequenceFormat
) -> EncodedExamples:
    """Render, encode and truncate all examples. Raises DataError if there are none."""
    if len(examples) == 0:
        raise DataError("there are no examples; check the task's files and split")
    encoder = make_encoder(tokenizer, template)
    found_tokens: Counter[str] = Counter()
    truncated_sources = truncated_targets = 0
    has_eos: list[bool] = []
    inputs, targets = [], []
    for block in _blocks(examples[i] for i in range(len(examples))):
        block_inputs, block_truncated = _encode_inputs(block, encoder, sequence_format)
        block_targets = encoder.targets(block)
        fits = [len(ids) < sequence_format.max_target_tokens for ids in block_targets]
        inputs.append(RaggedArray.from_lists(block_inputs))
        targets.append(RaggedArray.from_lists(ids[: sequence_format.max_target_tokens] for ids in block_targets))
        has_eos.extend(fits)
        found_tokens.update(count_special_tokens(tokenizer, [f"{one['source']}\0{one['target']}" for one in block]))
        truncated_sources += block_truncated
        truncated_targets += fits.count(False)
    encoded = EncodedExamples(
        _concatenate(inputs), _concatenate(targets), np.array(has_eos), encoder.special_tokens, statistics={}
    )
    statistics = _example_statistics(encoded, truncated_sources, truncated_targets)
    if found_tokens:
        statistics["special_tokens"] = dict(found_tokens.most_common())
        warn_of_special_tokens(
            statistics["special_tokens"], f"{len(examples):,} examples", encoder.effect_of_special_tokens
        )
    return encoded._replace(statistics=statistics)


def encode_prompts(
    examples: Sequence[Mapping[str, Any]], tokenizer: Tokenizer, template: Template, sequence_format: SequenceFormat
) -> list[list[int]]:
    """Return the prompt of every example for decoding: bos and the input ids, exactly as in training.

    Raises DataError if a prompt is empty.
    """
    encoder = make_encoder(tokenizer, template)
    bos = encoder.special_tokens.bos_id
    prefix = [] if bos is None else [bos]
    prompts: list[list[int]] = []
    found_tokens: Counter[str] = Counter()
    for block in _blocks(examples[i] for i in range(len(examples))):
        found_tokens.update(count_special_tokens(tokenizer, [one["source"] for one in block]))
        prompts.extend([*prefix, *ids] for ids in _encode_inputs(block, encoder, sequence_format)[0])
    if [] in prompts:
        raise DataError(
            f"example {prompts.index([])}: the prompt is empty, because the input is and the tokenizer adds no bos; "
            "remove the example, or add text to the task's template"
        )
    if found_tokens:
        warn_of_special_tokens(
            dict(found_tokens.most_common()), f"{len(examples):,} prompts", encoder.effect_of_special_tokens
        )
    return prompts


def encode_documents(texts: Sequence[str], tokenizer: Tokenizer, chunk_tokens: int) -> EncodedDocuments:
    """Encode texts and split them into chunks of at most `chunk_tokens` ids. Raises DataError if all are empty."""
    found_tokens: Counter[str] = Counter()
    encoded = encode_texts(_counted((texts[i] for i in range(len(texts))), tokenizer, found_tokens), tokenizer)
    documents = int(np.count_nonzero(encoded.lengths))
    if not documents:
        raise DataError("no text to pretrain on: every text is empty; check the source's text field")
    chunks, is_last = split_documents(encoded, chunk_tokens)
    statistics = {
        "documents": documents,
        "empty_documents": len(texts) - documents,
        "chunks": len(chunks.lengths),
        "text_tokens": len(chunks.values),
        "chunk_tokens": quantiles(chunks.lengths),
    }
    if found_tokens:
        counts = dict(found_tokens.most_common())
        warn_of_special_tokens(counts, f"{len(texts):,} documents", ExampleEncoder.effect_of_special_tokens)
        statistics["special_tokens"] = counts
    return EncodedDocuments(chunks, is_last, statistics)


def _counted(texts: Iterable[str], tokenizer: Tokenizer, found_tokens: Counter[str]) -> Iterator[str]:
    """Yield the texts; count those that contain each special token in `found_tokens`."""
    for text in texts:
        found_tokens.update(count_special_tokens(tokenizer, [text]))
        yield text


def encode_texts(texts: Iterable[str], tokenizer: Tokenizer) -> RaggedArray:
    """Encode texts, which may be generated one at a time, in order."""
    blocks = map(tokenizer.encode_batch, _blocks(texts))
    return RaggedArray.from_lists(itertools.chain.from_iterable(blocks))


def split_documents(documents: RaggedArray, chunk_tokens: int) -> tuple[RaggedArray, np.ndarray]:
    """Return chunks of at most `chunk_tokens` ids (none of an empty document) and is_last, bool[chunks]."""
    lengths = documents.lengths
    counts = -(-lengths // chunk_tokens)  # empty documents have none
    last = (np.cumsum(counts) - 1)[counts > 0]
    sizes = np.full(int(counts.sum()), chunk_tokens, np.int64)
    sizes[last] = (lengths - (counts - 1) * chunk_tokens)[counts > 0]
    is_last = np.zeros(len(sizes), np.bool_)
    is_last[last] = True
    return RaggedArray.from_lengths(documents.values, sizes), is_last


def quantiles(lengths: np.ndarray) -> dict[str, float]:
    """Return the mean and quantiles of lengths [N >= 1] for the log."""
    levels = {"min": 0.0, "median": 0.5, "p95": 0.95, "max": 1.0}
    return {"mean": float(np.mean(lengths)), **{name: float(np.quantile(lengths, q)) for name, q in levels.items()}}


def _encode_inputs(
    examples: Sequence[Mapping[str, Any]], encoder: ExampleEncoder, sequence_format: SequenceFormat
) -> tuple[list[list[int]], int]:
    """Return the input ids of the examples, mode token included, and the number of truncated sources."""
    sources = encoder.tokenizer.encode_batch([example["source"] for example in examples])
    inputs = encoder.inputs(examples)
    truncated = 0
    for i, (source, ids) in enumerate(zip(sources, inputs, strict=True)):
        if len(source) > sequence_format.max_source_tokens or len(ids) > sequence_format.max_input_tokens:
            inputs[i] = _encode_truncated_input(examples[i], encoder, sequence_format)
            truncated += 1
    prefix = [_mode_id(encoder.tokenizer, sequence_format.mode)] if sequence_format.mode else []
    return [prefix + ids for ids in inputs], truncated


def _mode_id(tokenizer: Tokenizer, mode: str) -> int:
    if mode not in tokenizer.special_tokens.mode_ids:
        raise ConfigError(
            f"sequence.mode = {mode!r}, but the tokenizer has no mode tokens (public models have none); unset it: "
            "--config.sequence.mode="
        )
    return tokenizer.special_tokens.mode_ids[mode]


def _encode_truncated_input(
    example: Mapping[str, Any], encoder: ExampleEncoder, sequence_format: SequenceFormat
) -> list[int]:
    """Truncate the source until it and the rendered input are within their limits."""
    tokenizer = encoder.tokenizer
    budget = min(sequence_format.max_source_tokens, len(tokenizer.encode(example["source"])))
    while True:
        source = tokenizer.truncate(example["source"], budget)
        ids = encoder.inputs([{**example, "source": source}])[0]
        excess = len(ids) - sequence_format.max_input_tokens
        if excess <= 0:
            return ids
        if budget == 0:
            raise ConfigError(
                f"length = {sequence_format.length} is too short for the template: its text and max_target_tokens = "
                f"{sequence_format.max_target_tokens} need {excess} more; raise length, or lower max_target_tokens"
            )
        budget = max(0, budget - excess)


def _example_statistics(encoded: EncodedExamples, truncated_sources: int, truncated_targets: int) -> dict[str, Any]:
    return {
        "examples": len(encoded.has_eos),
        "truncated_sources": truncated_sources,
        "truncated_targets": truncated_targets,
        "input_tokens": quantiles(encoded.inputs.lengths),
        "target_tokens": quantiles(encoded.targets.lengths + encoded.has_eos),
        "tokens_per_example": float(np.mean(encoded.lengths)),
    }


def _concatenate(parts: Sequence[RaggedArray]) -> RaggedArray:
    lengths = np.concatenate([part.lengths for part in parts])
    return RaggedArray.from_lengths(np.concatenate([part.values for part in parts]), lengths)


def _blocks(items: Iterable[Any]) -> Iterator[list[Any]]:
    iterator = iter(items)
    while block := list(itertools.islice(iterator, _BLOCK)):
        yield block
