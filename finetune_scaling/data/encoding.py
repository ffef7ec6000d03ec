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
from finetune_scaling.data.encoders.special_tokens import (
    count_special_tokens,
    find_special_tokens,
    warn_of_special_tokens,
)
from finetune_scaling.data.objectives import TokenSequence, prefix_lm
from finetune_scaling.data.templates import Template
from finetune_scaling.data.tokenizers.interface import SpecialTokens, Tokenizer
from finetune_scaling.data.worker_processes import map_in_processes
from finetune_scaling.errors import ConfigError, DataError
from finetune_scaling.progress import log_progress

_BLOCK = 1024  # texts per call of the tokenizer
_WORTH_A_PROCESS = 20_000  # examples whose encoding takes longer than the start of a process
_PROGRESS = f"encoding, in blocks of {_BLOCK:,} examples"


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
    """N arrays of unequal lengths: item i is values[starts[i] : starts[i] + lengths[i]] (int32, int64[N], int64[N])."""

    values: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray

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
        lengths = np.asarray(lengths, np.int64)
        return cls(values, np.cumsum(lengths) - lengths, lengths)

    def select(self, indices: np.ndarray) -> Self:
        """Return the items at `indices`, int64[n], without copying their values."""
        return type(self)(self.values, self.starts[indices], self.lengths[indices])

    def item(self, index: int) -> np.ndarray:
        """Return a view of one item, int32[n]."""
        start = self.starts[index]
        return self.values[start : start + self.lengths[index]]


class EncodedExamples(NamedTuple):
    """Token ids of N examples.

    inputs, targets: without bos and eos. has_eos: bool[N], False if the target is truncated. is_truncated: bool[N],
    True if the source is. found_tokens: the examples whose texts contain each special token, int64[n]. special_tokens:
    the bos and eos of the sequences.
    """

    inputs: RaggedArray
    targets: RaggedArray
    has_eos: np.ndarray
    is_truncated: np.ndarray
    found_tokens: Mapping[str, np.ndarray]
    special_tokens: SpecialTokens

    def select(self, indices: np.ndarray) -> Self:
        """Return the examples at `indices`, int64[n], without copying their ids."""
        found = {token: np.flatnonzero(np.isin(indices, examples)) for token, examples in self.found_tokens.items()}
        return self._replace(
            inputs=self.inputs.select(indices),
            targets=self.targets.select(indices),
            has_eos=self.has_eos[indices],
            is_truncated=self.is_truncated[indices],
            found_tokens={token: examples for token, examples in found.items() if len(examples)},
        )

    @property
    def statistics(self) -> dict[str, Any]:
        """The numbers of examples, truncated texts and tokens, for the log."""
        statistics = {
            "examples": len(self.has_eos),
            "truncated_sources": int(np.count_nonzero(self.is_truncated)),
            "truncated_targets": int(np.count_nonzero(~self.has_eos)),
            "input_tokens": quantiles(self.inputs.lengths),
            "target_tokens": quantiles(self.targets.lengths + self.has_eos),
            "tokens_per_example": float(np.mean(self.lengths)),
        }
        return statistics | ({"special_tokens": self.special_token_counts} if self.found_tokens else {})

    @property
    def special_token_counts(self) -> dict[str, int]:
        """The number of examples that contain each special token, the most frequent first."""
        counts = {token: len(examples) for token, examples in self.found_tokens.items()}
        return dict(sorted(counts.items(), key=lambda count: (-count[1], count[0])))

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
    """Render, encode and truncate all examples, and warn of special tokens in them. Raises DataError without any."""
    encoded = encode_quietly(examples, tokenizer, template, sequence_format)
    warn_of_examples(encoded, tokenizer, template)
    return encoded


def encode_quietly(
    examples: Sequence[Mapping[str, Any]], tokenizer: Tokenizer, template: Template, sequence_format: SequenceFormat
) -> EncodedExamples:
    """Render, encode and truncate all examples, in several processes if there are many.

    Raises DataError if there are none.
    """
    if len(examples) == 0:
        raise DataError("there are no examples; check the task's files and split")
    encode = BlockEncoder(tokenizer, template, sequence_format)
    blocks = log_progress(_blocks(examples[i] for i in range(len(examples))), -(-len(examples) // _BLOCK), _PROGRESS)
    return _concatenate_examples(list(map_in_processes(encode, blocks, len(examples) // _WORTH_A_PROCESS)))


class BlockEncoder:
    """Encodes blocks of examples. It is pickled without its encoder, which is made again in another process."""

    def __init__(self, tokenizer: Tokenizer, template: Template, sequence_format: SequenceFormat):
        """Raise ConfigError as `make_encoder` does."""
        self._settings = tokenizer, template, sequence_format
        self._encoder, self._format = make_encoder(tokenizer, template), sequence_format

    def __reduce__(self) -> tuple[type["BlockEncoder"], tuple[Tokenizer, Template, SequenceFormat]]:
        return BlockEncoder, self._settings

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> EncodedExamples:
        """Render, encode and truncate examples."""
        inputs, is_truncated = _encode_inputs(examples, self._encoder, self._format)
        targets = self._encoder.targets(examples)
        limit = self._format.max_target_tokens
        texts = [f"{one['source']}\0{one['target']}" for one in examples]
        found = find_special_tokens(self._encoder.tokenizer, texts)
        return EncodedExamples(
            RaggedArray.from_lists(inputs),
            RaggedArray.from_lists(ids[:limit] for ids in targets),
            np.array([len(ids) < limit for ids in targets], np.bool_),
            np.array(is_truncated, np.bool_),
            {token: np.array(positions, np.int64) for token, positions in found.items()},
            self._encoder.special_tokens,
        )


def warn_of_examples(encoded: EncodedExamples, tokenizer: Tokenizer, template: Template) -> None:
    """Warn of special tokens in the texts of examples."""
    if counts := encoded.special_token_counts:
        effect = make_encoder(tokenizer, template).effect_of_special_tokens
        warn_of_special_tokens(counts, f"{len(encoded.has_eos):,} examples", effect)


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
) -> tuple[list[list[int]], list[bool]]:
    """Return the input ids of the examples, mode token included, and whether each source is truncated."""
    inputs = encoder.inputs(examples)
    is_truncated = [
        len(ids) > sequence_format.max_input_tokens
        or encoder.tokenizer.has_more_ids(example["source"], sequence_format.max_source_tokens)
        for example, ids in zip(examples, inputs, strict=True)
    ]
    for i in np.flatnonzero(is_truncated).tolist():
        inputs[i] = _encode_truncated_input(examples[i], encoder, sequence_format)
    prefix = [_mode_id(encoder.tokenizer, sequence_format.mode)] if sequence_format.mode else []
    return [prefix + ids for ids in inputs], is_truncated


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


def _concatenate_examples(blocks: Sequence[EncodedExamples]) -> EncodedExamples:
    found: dict[str, list[np.ndarray]] = {}
    start = 0
    for block in blocks:
        for token, examples in block.found_tokens.items():
            found.setdefault(token, []).append(start + examples)
        start += len(block.has_eos)
    return EncodedExamples(
        _concatenate([block.inputs for block in blocks]),
        _concatenate([block.targets for block in blocks]),
        np.concatenate([block.has_eos for block in blocks]),
        np.concatenate([block.is_truncated for block in blocks]),
        {token: np.concatenate(parts) for token, parts in found.items()},
        blocks[0].special_tokens,
    )


def _concatenate(parts: Sequence[RaggedArray]) -> RaggedArray:
    lengths = np.concatenate([part.lengths for part in parts])
    return RaggedArray.from_lengths(np.concatenate([part.values for part in parts]), lengths)


def _blocks(items: Iterable[Any]) -> Iterator[list[Any]]:
    iterator = iter(items)
    while block := list(itertools.islice(iterator, _BLOCK)):
        yield block
