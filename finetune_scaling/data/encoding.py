"""From text to token ids, once: examples cut to their limits, documents cut to chunks, in compact ragged arrays."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, Self

import numpy as np

from finetune_scaling.data.objectives import TokenSequence, prefix_lm
from finetune_scaling.data.tokenizers.interface import Tokenizer
from finetune_scaling.errors import ConfigError, DataError

_BLOCK = 1024  # texts that are encoded in one call


class Template(Protocol):
    """Anything that turns an example into the text of its input and of its target."""

    def render(self, example: Mapping[str, Any]) -> tuple[str, str]: ...


@dataclasses.dataclass(frozen=True)
class SequenceFormat:
    """How an example becomes one sequence; the same for training, evaluation and decoding, so all see the same input.

    length: most tokens of one sequence (the row, where rows are not packed).
    max_source_tokens: the source text is cut to this, and further where input + max_target_tokens exceeds `length`;
      the template's own text never is.
    max_target_tokens: the target with its eos. A longer one is cut and then carries no eos, because it does not end.
    bidirectional_input: the input is attended to in both directions.
    mode: UL2 mode token in front of the input ("S" is prefix LM), for bases that were pretrained with them.
    """

    length: int
    max_source_tokens: int
    max_target_tokens: int
    bidirectional_input: bool = False
    mode: Literal["", "R", "X", "S"] = ""

    def __post_init__(self) -> None:
        if self.max_source_tokens < 1 or self.max_target_tokens < 1:
            raise ConfigError("max_source_tokens and max_target_tokens must be at least 1")
        if self.max_input_tokens < 1:
            raise ConfigError(
                f"length = {self.length} leaves no token for the input beside max_target_tokens = "
                f"{self.max_target_tokens}; raise length or lower max_target_tokens"
            )

    @property
    def max_input_tokens(self) -> int:
        """Most tokens of the rendered input."""
        return self.length - self.max_target_tokens - bool(self.mode)


class RaggedArray(NamedTuple):
    """Arrays of unequal lengths end to end, int32 and int64: item i is values[offsets[i]:offsets[i + 1]]."""

    values: np.ndarray
    offsets: np.ndarray

    @classmethod
    def from_lists(cls, lists: Iterable[Sequence[int]]) -> Self:
        """Copies the lists; they may come one at a time."""
        lengths: list[int] = []
        blocks = []
        for block in _blocks(lists):
            lengths.extend(map(len, block))
            blocks.append(np.fromiter(itertools.chain.from_iterable(block), np.int32))
        values = np.concatenate([np.zeros(0, np.int32), *blocks])
        return cls(values, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64))

    @property
    def lengths(self) -> np.ndarray:
        """int64[N]."""
        return np.diff(self.offsets)

    def item(self, index: int) -> np.ndarray:
        """A view of one item, int32[n]."""
        return self.values[self.offsets[index] : self.offsets[index + 1]]


class EncodedExamples(NamedTuple):
    """Token ids of N examples: inputs, targets (without eos), whether the target is whole (bool[N]), statistics."""

    inputs: RaggedArray
    targets: RaggedArray
    ends: np.ndarray
    statistics: dict[str, Any]

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each sequence, eos counted, int64[N]."""
        return self.inputs.lengths + self.targets.lengths + self.ends

    def sequence(self, index: int, tokenizer: Tokenizer, form: SequenceFormat) -> TokenSequence:
        """The training sequence of one example."""
        return prefix_lm(
            self.inputs.item(index),
            self.targets.item(index),
            tokenizer.special_tokens,
            bidirectional=form.bidirectional_input,
            ends=bool(self.ends[index]),
        )


class EncodedDocuments(NamedTuple):
    """Chunks of documents (never empty), and whether each is the last of its document (bool[N])."""

    chunks: RaggedArray
    ends: np.ndarray
    statistics: dict[str, Any]

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each chunk, int64[N]."""
        return self.chunks.lengths

    def chunk(self, index: int) -> tuple[np.ndarray, bool]:
        """Ids of a chunk, int32[n], and whether it is the last of its document."""
        return self.chunks.item(index), bool(self.ends[index])


def encode_examples(
    examples: Sequence[Mapping[str, Any]], tokenizer: Tokenizer, template: Template, form: SequenceFormat
) -> EncodedExamples:
    """Renders, encodes and cuts every example once. Raises DataError where there is none."""
    if len(examples) == 0:
        raise DataError("there are no examples; check the task's files and split")
    cut_sources = cut_targets = 0
    ends: list[bool] = []
    inputs, targets = [], []
    for block in _blocks(examples[i] for i in range(len(examples))):
        block_inputs, block_cut = _encode_inputs(block, tokenizer, template, form)
        block_targets = tokenizer.continuation.encode_batch([template.render(example)[1] for example in block])
        whole = [len(ids) < form.max_target_tokens for ids in block_targets]
        inputs.append(RaggedArray.from_lists(block_inputs))
        targets.append(RaggedArray.from_lists(ids[: form.max_target_tokens] for ids in block_targets))
        ends.extend(whole)
        cut_sources += block_cut
        cut_targets += len(whole) - sum(whole)
    encoded = EncodedExamples(_concatenate(inputs), _concatenate(targets), np.array(ends), {})
    return encoded._replace(statistics=_example_statistics(encoded, cut_sources, cut_targets))


def encode_prompts(
    examples: Sequence[Mapping[str, Any]], tokenizer: Tokenizer, template: Template, form: SequenceFormat
) -> list[list[int]]:
    """What decoding starts from, one list per example: bos and the input ids exactly as in training.

    Raises DataError where there is neither, and so nothing to start from.
    """
    bos = tokenizer.special_tokens.bos_id
    front = [] if bos is None else [bos]
    prompts: list[list[int]] = []
    for block in _blocks(examples[i] for i in range(len(examples))):
        prompts.extend([*front, *ids] for ids in _encode_inputs(block, tokenizer, template, form)[0])
    if [] in prompts:
        raise DataError(
            f"example {prompts.index([])}: its input is empty, and the model's tokenizer puts no token in front of it; "
            "leave it out, or write something in the task's template"
        )
    return prompts


def encode_documents(texts: Sequence[str], tokenizer: Tokenizer, chunk_tokens: int) -> EncodedDocuments:
    """Encodes texts and cuts each to chunks of at most `chunk_tokens` ids; DataError where there is no text at all."""
    encoded = encode_texts((texts[i] for i in range(len(texts))), tokenizer)
    documents = int(np.count_nonzero(encoded.lengths))
    if not documents:
        raise DataError("there is no text to pretrain on: every text is empty; check the source's text field")
    chunks, ends = cut_documents(encoded, chunk_tokens)
    statistics = {
        "documents": documents,
        "empty_documents": len(texts) - documents,
        "chunks": len(chunks.lengths),
        "text_tokens": len(chunks.values),
        "chunk_tokens": quantiles(chunks.lengths),
    }
    return EncodedDocuments(chunks, ends, statistics)


def encode_texts(texts: Iterable[str], tokenizer: Tokenizer) -> RaggedArray:
    """Ids of every text, in order; the texts may come one at a time."""
    return _concatenate([RaggedArray.from_lists(tokenizer.encode_batch(block)) for block in _blocks(texts)])


def cut_documents(documents: RaggedArray, chunk_tokens: int) -> tuple[RaggedArray, np.ndarray]:
    """Chunks of at most `chunk_tokens` ids (an empty document has none), and which end a document, bool[chunks]."""
    sizes, ends = _chunk_sizes(documents.lengths, chunk_tokens)
    return RaggedArray(documents.values, np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])), ends


def quantiles(lengths: np.ndarray) -> dict[str, float]:
    """Mean and quantiles of lengths [N >= 1] for the log."""
    marks = {"min": 0.0, "median": 0.5, "p95": 0.95, "max": 1.0}
    return {"mean": float(np.mean(lengths)), **{name: float(np.quantile(lengths, q)) for name, q in marks.items()}}


def _encode_inputs(
    examples: Sequence[Mapping[str, Any]], tokenizer: Tokenizer, template: Template, form: SequenceFormat
) -> tuple[list[list[int]], int]:
    """Input ids of the examples, mode token in front, and how many sources were cut."""
    sources = tokenizer.encode_batch([example["source"] for example in examples])
    inputs = tokenizer.encode_batch([template.render(example)[0] for example in examples])
    cut = 0
    for i, (source, ids) in enumerate(zip(sources, inputs, strict=True)):
        if len(source) > form.max_source_tokens or len(ids) > form.max_input_tokens:
            inputs[i] = _encode_cut_input(examples[i], tokenizer, template, form)
            cut += 1
    front = [_mode_id(tokenizer, form.mode)] if form.mode else []
    return [front + ids for ids in inputs], cut


def _mode_id(tokenizer: Tokenizer, mode: str) -> int:
    if mode not in tokenizer.mode_ids:
        raise ConfigError(
            f"sequence.mode = {mode!r}, but the tokenizer has no mode tokens, as those of public models; leave it out: "
            "--config.sequence.mode="
        )
    return tokenizer.mode_ids[mode]


def _encode_cut_input(
    example: Mapping[str, Any], tokenizer: Tokenizer, template: Template, form: SequenceFormat
) -> list[int]:
    """Shortens the source until it and the rendered input keep their limits."""
    budget = min(form.max_source_tokens, len(tokenizer.encode(example["source"])))
    while True:
        source = tokenizer.truncate(example["source"], budget)
        ids = tokenizer.encode(template.render({**example, "source": source})[0])
        excess = len(ids) - form.max_input_tokens
        if excess <= 0:
            return ids
        if budget == 0:
            raise ConfigError(
                f"length = {form.length} is too short for the template: its own text and max_target_tokens = "
                f"{form.max_target_tokens} need {excess} more; raise length, or lower max_target_tokens"
            )
        budget = max(0, budget - excess)


def _chunk_sizes(lengths: np.ndarray, chunk_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Sizes of the chunks of documents of `lengths`, in order, and which of them are a document's last."""
    counts = -(-lengths // chunk_tokens)  # empty documents have none
    last = np.cumsum(counts) - 1
    sizes = np.full(int(counts.sum()), chunk_tokens, np.int64)
    ends = np.zeros(len(sizes), np.bool_)
    occupied = counts > 0
    ends[last[occupied]] = True
    sizes[last[occupied]] = (lengths - (counts - 1) * chunk_tokens)[occupied]
    return sizes, ends


def _example_statistics(encoded: EncodedExamples, cut_sources: int, cut_targets: int) -> dict[str, Any]:
    return {
        "examples": len(encoded.ends),
        "truncated_sources": cut_sources,
        "truncated_targets": cut_targets,
        "input_tokens": quantiles(encoded.inputs.lengths),
        "target_tokens": quantiles(encoded.targets.lengths + encoded.ends),
        "tokens_per_example": float(np.mean(encoded.lengths)),
    }


def _concatenate(parts: Sequence[RaggedArray]) -> RaggedArray:
    lengths = np.concatenate([np.zeros(0, np.int64), *(part.lengths for part in parts)])
    values = np.concatenate([np.zeros(0, np.int32), *(part.values for part in parts)])
    return RaggedArray(values, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64))


def _blocks(items: Iterable[Any]) -> Iterator[list[Any]]:
    iterator = iter(items)
    while block := list(itertools.islice(iterator, _BLOCK)):
        yield block
