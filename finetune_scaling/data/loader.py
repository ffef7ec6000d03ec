"""Batches by index: batch k is a pure function of (seed, k), so a run that resumes at step k needs no other state.

Order and iteration are grain's: MapDatasets are indexed, reshuffled every epoch and repeated indefinitely. Texts are
encoded once, when a dataset is created, and kept as compact arrays.
"""

import dataclasses
import functools
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import grain
import numpy as np

from finetune_scaling.data.encoded_cache import encode_cached
from finetune_scaling.data.encoding import EncodedDocuments, EncodedExamples, SequenceFormat, encode_documents
from finetune_scaling.data.objectives import (
    ObjectiveConfig,
    TokenSequence,
    apply_objective,
    max_text_tokens,
    required_sentinels,
    sample_denoisers,
    sequence_lengths,
)
from finetune_scaling.data.packing import Batch, assign_items, fill_rate, pack_batch, stored_plan
from finetune_scaling.data.preparation.prepared import PreparedDocuments
from finetune_scaling.data.templates import Template
from finetune_scaling.data.tokenizers.interface import Tokenizer
from finetune_scaling.errors import ConfigError

# Rows of an endless dataset: the len() of grain's own endless repeat overflows at batch size 1.
_ENDLESS = 2**50
_PLAN_STREAM, _EPOCH_STREAM, _NOISE_STREAM = 0, 1, 2  # independent random streams of one seed


Documents = EncodedDocuments | PreparedDocuments


@dataclasses.dataclass(frozen=True)
class Batches:
    """Batches by index.

    keys: grain MapDataset with the keys of each batch's rows. assemble: builds a batch from keys (None: a padding row).
    rows_per_epoch: rows (sequences, if unpacked) of one pass over the data. statistics: token counts and truncations
    for the log, as plain data.
    """

    keys: grain.MapDataset
    assemble: Callable[[Sequence[Any]], Batch]
    batch_size: int
    rows_per_epoch: int
    statistics: dict[str, Any]

    @property
    def dataset(self) -> grain.MapDataset:
        """Return the batches as a grain MapDataset."""
        return self.keys.map(self.assemble)

    def enlarged(self, multiple: int) -> "Batches":
        """Return finite batches of the same rows, as many more per batch as make their number divisible by `multiple`.

        Padding rows fill the last batch only.
        """
        size = self.batch_size + -self.batch_size % multiple
        if size == self.batch_size:
            return self
        rows = [key for keys in self.keys for key in keys]
        rows += [None] * (-len(rows) % size)
        keys = grain.MapDataset.source([rows[start : start + size] for start in range(0, len(rows), size)])
        return dataclasses.replace(self, keys=keys, batch_size=size)

    def select_rows(self, rows: Sequence[int]) -> "Batches":
        """Return only these rows of each batch, those of a process's own devices."""
        if list(rows) == list(range(self.batch_size)):
            return self
        return dataclasses.replace(self, keys=self.keys.map(lambda keys: [keys[row] for row in rows]))

    @property
    def batches_per_epoch(self) -> float:
        """Steps per pass over the data; a batch may span two epochs."""
        return self.rows_per_epoch / self.batch_size

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, step: int) -> Batch:
        if not 0 <= step < len(self):
            raise IndexError(f"batch {step} of {len(self)}")
        return self.dataset[step]


def finetuning_batches(
    examples: Sequence[Mapping[str, Any]],
    tokenizer: Tokenizer,
    template: Template,
    sequence_format: SequenceFormat,
    *,
    batch_size: int,
    seed: int,
    pack: bool = False,
    row_length: int | None = None,
) -> Batches:
    """Return endless training batches [batch_size, length] of one example per row, reshuffled every epoch.

    length is that of the format. With `pack`, rows of `row_length` tokens (default: length) hold several examples each,
    and batch_size counts rows. Raises DataError without examples, ConfigError if limits and lengths are contradictory.
    """
    encoded = encode_cached(examples, tokenizer, template, sequence_format)
    if pack:
        rows = _packed_examples(encoded, sequence_format, row_length or sequence_format.length, seed)
        return rows.endless(batch_size)
    if row_length is not None:
        raise ConfigError("row_length is for packed rows; set pack, or remove row_length")

    def assemble(indices: Sequence[int]) -> Batch:
        sequences = [[encoded.sequence(i, sequence_format)] for i in indices]
        return pack_batch(sequences, sequence_format.length, bidirectional=sequence_format.bidirectional_input)

    order = _shuffled(len(encoded.has_eos), seed).batch(batch_size, batch_fn=list)
    return Batches(order, assemble, batch_size, len(encoded.has_eos), encoded.statistics)


def encode_corpus(
    texts: Sequence[str], tokenizer: Tokenizer, objective: ObjectiveConfig, length: int
) -> EncodedDocuments:
    """Encode texts in chunks that fit a row of `length` tokens under every denoiser.

    Raises DataError without text, ConfigError if the tokenizer has too few sentinels.
    """
    check_sentinels(tokenizer, objective, length)  # before the slow encoding
    return encode_documents(texts, tokenizer, max_text_tokens(length, objective))


def pretraining_batches(
    documents: Documents, tokenizer: Tokenizer, objective: ObjectiveConfig, *, batch_size: int, length: int, seed: int
) -> Batches:
    """Return endless packed batches [batch_size, length] of the chunks of `encode_corpus` under the objective.

    Which chunks share a row, their denoisers and their noise change from epoch to epoch.
    """
    return _packed_documents(documents, tokenizer, objective, length, seed).endless(batch_size)


def pretraining_evaluation_batches(
    documents: Documents, tokenizer: Tokenizer, objective: ObjectiveConfig, *, batch_size: int, length: int, seed: int
) -> Batches:
    """Return every chunk once, packed as in `pretraining_batches`, with noise fixed by `seed`."""
    return _packed_documents(documents, tokenizer, objective, length, seed).finite(batch_size)


def evaluation_batches(
    examples: Sequence[Mapping[str, Any]],
    tokenizer: Tokenizer,
    template: Template,
    sequence_format: SequenceFormat,
    *,
    batch_size: int,
) -> Batches:
    """Return batches [batch_size, length] of each example once, in order; padding rows fill the last batch.

    A batch has another field `example`, int32[batch_size]: the row's index into `examples`, -1 for a padding row.
    """
    encoded = encode_cached(examples, tokenizer, template, sequence_format)
    total = len(encoded.has_eos)

    def assemble(rows: Sequence[int | None]) -> Batch:
        sequences = [[] if i is None else [encoded.sequence(i, sequence_format)] for i in rows]
        example = np.array([-1 if i is None else i for i in rows], np.int32)
        bidirectional = sequence_format.bidirectional_input
        return pack_batch(sequences, sequence_format.length, bidirectional=bidirectional) | {"example": example}

    return Batches(_in_order(total, batch_size), assemble, batch_size, total, encoded.statistics)


def iterate(batches: Batches, start_step: int = 0, buffer: int = 4) -> Generator[Batch]:
    """Yield batches start_step, start_step + 1, ...; the steps before are not computed.

    A background thread assembles up to `buffer` batches ahead. Closing or garbage-collecting the iterator ends it.
    """
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=buffer)
    iterator = iter(batches.dataset[start_step:].to_iter_dataset(options))
    try:
        yield from iterator
    finally:
        iterator.close()


class _PackedRows:
    """Rows of one packing plan over slots; every epoch assigns the items to the slots again.

    sizes: int[N]; items of equal size are exchangeable. lengths: (sizes[N], rng) -> (tokens[N], denoisers[N]), sampled
    once for the slots. sequence: (item, denoiser, rng) -> TokenSequence. All epochs cost the same.
    """

    def __init__(
        self,
        sizes: np.ndarray,
        lengths: Callable[[np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]],
        sequence: Callable[[int, int, np.random.Generator], TokenSequence],
        length: int,
        seed: int,
        statistics: Mapping[str, Any],
        *,
        bidirectional: bool,
    ):
        rng = np.random.default_rng([seed, _PLAN_STREAM])
        slot_sizes = rng.permutation(sizes)
        slot_lengths, self._denoisers = lengths(slot_sizes, rng)
        self._plan = stored_plan(slot_lengths, length)
        self._sequence, self._length, self._seed, self._bidirectional = sequence, length, seed, bidirectional
        # Two epochs are kept, because a batch may span both.
        self._items = functools.lru_cache(maxsize=2)(
            lambda epoch: assign_items(sizes, slot_sizes, np.random.default_rng([seed, _EPOCH_STREAM, epoch]))
        )
        packed = {"rows": self._plan.rows, "fill_rate": fill_rate(self._plan, slot_lengths, length)}
        self._statistics = {**statistics, **packed}

    def endless(self, batch_size: int) -> Batches:
        """Return endless batches of rows that are shuffled within each epoch."""
        count = self._plan.rows
        numbered = _shuffled(count, self._seed).map_with_index(lambda index, row: (index // count, row))
        return Batches(numbered.batch(batch_size, batch_fn=list), self._batch, batch_size, count, self._statistics)

    def finite(self, batch_size: int) -> Batches:
        """Return the rows of one epoch in order; padding rows fill the last batch."""
        count = self._plan.rows
        keys = _in_order(count, batch_size).map(lambda rows: [None if row is None else (0, row) for row in rows])
        return Batches(keys, self._batch, batch_size, count, self._statistics)

    def _batch(self, rows: Sequence[tuple[int, int] | None]) -> Batch:
        sequences = [[] if row is None else self._row(*row) for row in rows]
        return pack_batch(sequences, self._length, bidirectional=self._bidirectional)

    def _row(self, epoch: int, row: int) -> list[TokenSequence]:
        rng = np.random.default_rng([self._seed, _NOISE_STREAM, epoch, row])
        slots = self._plan.row(row)
        items = self._items(epoch)[slots].tolist()
        denoisers = self._denoisers[slots].tolist()
        return [self._sequence(item, denoiser, rng) for item, denoiser in zip(items, denoisers, strict=True)]


def _packed_examples(
    encoded: EncodedExamples, sequence_format: SequenceFormat, row_length: int, seed: int
) -> _PackedRows:
    if row_length < sequence_format.length:
        raise ConfigError(
            f"row_length = {row_length} is shorter than one sequence (length = {sequence_format.length}); raise it"
        )

    def lengths(sizes: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return sizes, np.zeros(len(sizes), np.int32)

    def sequence(item: int, denoiser: int, rng: np.random.Generator) -> TokenSequence:
        return encoded.sequence(item, sequence_format)

    bidirectional = sequence_format.bidirectional_input
    return _PackedRows(
        encoded.lengths, lengths, sequence, row_length, seed, encoded.statistics, bidirectional=bidirectional
    )


def check_sentinels(tokenizer: Tokenizer, objective: ObjectiveConfig, length: int) -> None:
    """Raise ConfigError if the objective masks more spans of a row than the tokenizer has sentinels."""
    needed = required_sentinels(length, objective)
    if needed > len(tokenizer.special_tokens.sentinel_ids):
        raise ConfigError(
            f"{objective.name} at length = {length} masks up to {needed} spans, but the tokenizer has "
            f"{len(tokenizer.special_tokens.sentinel_ids)} sentinels; train one with tokenizer.sentinels >= {needed}"
        )


def _packed_documents(
    documents: Documents, tokenizer: Tokenizer, objective: ObjectiveConfig, length: int, seed: int
) -> _PackedRows:
    check_sentinels(tokenizer, objective, length)

    def lengths(sizes: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        denoisers = sample_denoisers(len(sizes), objective, rng)
        return sequence_lengths(sizes, denoisers, objective), denoisers

    def sequence(item: int, denoiser: int, rng: np.random.Generator) -> TokenSequence:
        ids, is_last = documents.chunk(item)
        return apply_objective(ids, denoiser, objective, tokenizer.special_tokens, rng, append_eos=is_last)

    bidirectional = objective.bidirectional
    return _PackedRows(
        documents.lengths, lengths, sequence, length, seed, documents.statistics, bidirectional=bidirectional
    )


def _in_order(count: int, batch_size: int) -> grain.MapDataset:
    """Return each of `count` rows once, in batches; None (padding) fills the last batch."""
    return grain.MapDataset.range(-(-count // batch_size)).map(
        lambda number: [row if row < count else None for row in range(number * batch_size, (number + 1) * batch_size)]
    )


def _shuffled(count: int, seed: int) -> grain.MapDataset:
    # The dataset is seeded instead of shuffle(seed), which adds the epoch to the seed: seeds 0 and 1 would overlap.
    return grain.MapDataset.range(count).seed(seed).shuffle().repeat(_ENDLESS // count)
