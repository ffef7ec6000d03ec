"""Batches by number: batch k is a pure function of (seed, k), so a run that resumes at step k needs no other state.

Order and iteration are grain's: MapDatasets are indexed, reshuffled every epoch and repeated without end; texts are
encoded once, when a dataset is made, and kept as compact arrays.
"""

import dataclasses
import functools
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Protocol

import grain
import numpy as np

from finetune_scaling.data.encoding import (
    EncodedDocuments,
    EncodedExamples,
    SequenceFormat,
    Template,
    encode_documents,
    encode_examples,
)
from finetune_scaling.data.objectives import (
    ObjectiveConfig,
    TokenSequence,
    apply_objective,
    max_text_tokens,
    required_sentinels,
    sample_denoisers,
    sequence_lengths,
)
from finetune_scaling.data.packing import Batch, deal, fill_rate, pack_batch, plan_packing
from finetune_scaling.data.tokenizers.interface import Tokenizer
from finetune_scaling.errors import ConfigError

# Rows that count as without end: grain's own endless repeat overflows len() when it is batched by one.
_ENDLESS = 2**50
EMPTY = None  # key of a row of padding
_PLAN_STREAM, _EPOCH_STREAM, _NOISE_STREAM = 0, 1, 2  # keep the draws of one seed apart


@dataclasses.dataclass(frozen=True)
class Batches:
    """Batches by number, and what is known of them.

    keys: grain MapDataset of each batch's rows as keys; assemble: makes a batch of keys, EMPTY for a row of padding;
    rows_per_epoch: rows (sequences, where unpacked) of one pass over the data; statistics: token counts and truncations
    for the log, as plain data.
    """

    keys: grain.MapDataset
    assemble: Callable[[Sequence[Any]], Batch]
    batch_size: int
    rows_per_epoch: int
    statistics: dict[str, Any]

    @property
    def dataset(self) -> grain.MapDataset:
        """The batches themselves."""
        return self.keys.map(self.assemble)

    def padded(self, multiple: int) -> "Batches":
        """These batches with rows of padding behind, so that their number of rows is divisible."""
        extra = [EMPTY] * (-self.batch_size % multiple)
        return self._with_keys(lambda keys: [*keys, *extra], self.batch_size + len(extra)) if extra else self

    def part(self, rows: Sequence[int]) -> "Batches":
        """Of each batch the rows at these places only, which a process makes for its own devices."""
        if list(rows) == list(range(self.batch_size)):
            return self
        return self._with_keys(lambda keys: [keys[row] for row in rows], self.batch_size)

    def _with_keys(self, change: Callable[[Sequence[Any]], list[Any]], batch_size: int) -> "Batches":
        return dataclasses.replace(self, keys=self.keys.map(change), batch_size=batch_size)

    @property
    def batches_per_epoch(self) -> float:
        """Steps that one pass over the data takes; a batch may belong to two epochs."""
        return self.rows_per_epoch / self.batch_size

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, step: int) -> Batch:
        if not 0 <= step < len(self):
            raise IndexError(f"batch {step} of {len(self)}")
        return self.dataset[step]


class Documents(Protocol):
    """Text that is encoded and cut to chunks already, in memory or on disk.

    lengths: int[N], tokens of each chunk; statistics: plain data for the log.
    """

    @property
    def lengths(self) -> np.ndarray: ...

    @property
    def statistics(self) -> dict[str, Any]: ...

    def chunk(self, index: int) -> tuple[np.ndarray, bool]:
        """Ids of a chunk, int32[n], and whether it is the last of its document."""
        ...


def finetuning_batches(
    examples: Sequence[Mapping[str, Any]],
    tokenizer: Tokenizer,
    template: Template,
    form: SequenceFormat,
    *,
    batch_size: int,
    seed: int,
    pack: bool = False,
    row_length: int | None = None,
) -> Batches:
    """Endless training batches [batch_size, form.length] of one example a row, reshuffled every epoch.

    With `pack`, rows of `row_length` tokens (form.length by default) hold several examples each, and batch_size counts
    rows. Raises DataError without examples, ConfigError where limits and lengths contradict each other.
    """
    encoded = encode_examples(examples, tokenizer, template, form)
    if pack:
        rows = _packed_examples(encoded, tokenizer, form, row_length or form.length, seed)
        return rows.endless(batch_size, encoded.statistics)
    if row_length is not None:
        raise ConfigError("row_length is for packed rows; set pack, or leave row_length out")

    def assemble(indices: Sequence[int]) -> Batch:
        return pack_batch([[encoded.sequence(i, tokenizer, form)] for i in indices], form.length)

    order = _shuffled(len(encoded.ends), seed).batch(batch_size, batch_fn=list)
    return Batches(order, assemble, batch_size, len(encoded.ends), encoded.statistics)


def pretraining_batches(
    texts: Sequence[str],
    tokenizer: Tokenizer,
    objective: ObjectiveConfig,
    *,
    batch_size: int,
    length: int,
    seed: int,
) -> Batches:
    """Endless packed batches [batch_size, length] of the texts under the objective.

    Texts are cut to chunks that fit a row under every denoiser. Which chunks share a row, their denoisers and their
    noise change from epoch to epoch. Raises DataError without text, ConfigError where there are too few sentinels.
    """
    documents = _encode(texts, tokenizer, objective, length)
    return document_batches(documents, tokenizer, objective, batch_size=batch_size, length=length, seed=seed)


def document_batches(
    documents: Documents,
    tokenizer: Tokenizer,
    objective: ObjectiveConfig,
    *,
    batch_size: int,
    length: int,
    seed: int,
) -> Batches:
    """Like `pretraining_batches`, of encoded chunks of at most `max_text_tokens(length, objective)` tokens."""
    _check_sentinels(tokenizer, objective, length)
    rows = _packed_documents(documents, tokenizer, objective, length, seed)
    return rows.endless(batch_size, documents.statistics)


def evaluation_batches(
    examples: Sequence[Mapping[str, Any]],
    tokenizer: Tokenizer,
    template: Template,
    form: SequenceFormat,
    *,
    batch_size: int,
) -> Batches:
    """Each example once, in order: batches [batch_size, form.length], the last one filled up with empty rows.

    A batch has a further field `example`, int32[batch_size]: the row's index into `examples`, -1 for an empty row.
    """
    encoded = encode_examples(examples, tokenizer, template, form)
    total = len(encoded.ends)

    def assemble(rows: Sequence[int | None]) -> Batch:
        sequences = [[] if i is EMPTY else [encoded.sequence(i, tokenizer, form)] for i in rows]
        example = np.array([-1 if i is EMPTY else i for i in rows], np.int32)
        return pack_batch(sequences, form.length) | {"example": example}

    return Batches(_in_order(total, batch_size), assemble, batch_size, total, encoded.statistics)


def pretraining_evaluation_batches(
    texts: Sequence[str],
    tokenizer: Tokenizer,
    objective: ObjectiveConfig,
    *,
    batch_size: int,
    length: int,
    seed: int,
) -> Batches:
    """Every text once, packed as in `pretraining_batches`, noise fixed by `seed`; empty rows fill the last batch."""
    documents = _encode(texts, tokenizer, objective, length)
    rows = _packed_documents(documents, tokenizer, objective, length, seed)
    return rows.finite(batch_size, documents.statistics)


def iterate(batches: Batches, start_step: int = 0, *, threads: int = 1, buffer: int = 4) -> Generator[Batch]:
    """Batches start_step, start_step + 1, ... made ahead by background threads; starting late costs nothing.

    Closing the iterator (or leaving a `for` loop over it and dropping it) ends its threads.
    """
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=buffer)
    iterator = iter(batches.dataset[start_step:].to_iter_dataset(options))
    try:
        yield from iterator
    finally:
        iterator.close()


class _PackedRows:
    """Rows of one packing plan over slots; every epoch deals the items out to the slots anew.

    sizes: int[N], what makes two items exchangeable; lengths: (sizes[N], rng) -> (tokens[N], variants[N]), drawn once
    for the slots; sequence: (item, variant, rng) -> TokenSequence. An epoch far ahead costs no more than the first.
    """

    def __init__(
        self,
        sizes: np.ndarray,
        lengths: Callable[[np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]],
        sequence: Callable[[int, int, np.random.Generator], TokenSequence],
        length: int,
        seed: int,
    ):
        rng = np.random.default_rng([seed, _PLAN_STREAM])
        slot_sizes = rng.permutation(sizes)
        slot_lengths, self._variants = lengths(slot_sizes, rng)
        self._plan = plan_packing(slot_lengths, length)
        self._sequence, self._length, self._seed = sequence, length, seed
        # Two epochs are kept because a batch may belong to both.
        self._items = functools.lru_cache(maxsize=2)(
            lambda epoch: deal(sizes, slot_sizes, np.random.default_rng([seed, _EPOCH_STREAM, epoch]))
        )
        self.statistics = {"rows": self._plan.rows, "fill_rate": fill_rate(self._plan, slot_lengths, length)}

    def endless(self, batch_size: int, statistics: Mapping[str, Any]) -> Batches:
        """Rows shuffled within each epoch, without end."""
        count = self._plan.rows
        numbered = _shuffled(count, self._seed).map_with_index(lambda index, row: (index // count, row))
        keys = numbered.batch(batch_size, batch_fn=list)
        return Batches(keys, self._batch, batch_size, count, {**statistics, **self.statistics})

    def finite(self, batch_size: int, statistics: Mapping[str, Any]) -> Batches:
        """The rows of one epoch in order; empty rows fill the last batch."""
        count = self._plan.rows
        keys = _in_order(count, batch_size).map(lambda rows: [EMPTY if row is EMPTY else (0, row) for row in rows])
        return Batches(keys, self._batch, batch_size, count, {**statistics, **self.statistics})

    def _batch(self, rows: Sequence[tuple[int, int] | None]) -> Batch:
        return pack_batch([[] if row is EMPTY else self._row(*row) for row in rows], self._length)

    def _row(self, epoch: int, row: int) -> list[TokenSequence]:
        rng = np.random.default_rng([self._seed, _NOISE_STREAM, epoch, row])
        slots = self._plan.row(row)
        items = self._items(epoch)[slots].tolist()
        variants = self._variants[slots].tolist()
        return [self._sequence(item, variant, rng) for item, variant in zip(items, variants, strict=True)]


def _packed_examples(
    encoded: EncodedExamples, tokenizer: Tokenizer, form: SequenceFormat, row_length: int, seed: int
) -> _PackedRows:
    if row_length < form.length:
        raise ConfigError(f"row_length = {row_length} is shorter than one sequence (length = {form.length}); raise it")

    def lengths(sizes: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return sizes, np.zeros(len(sizes), np.int32)

    def sequence(item: int, variant: int, rng: np.random.Generator) -> TokenSequence:
        return encoded.sequence(item, tokenizer, form)

    return _PackedRows(encoded.lengths, lengths, sequence, row_length, seed)


def _encode(texts: Sequence[str], tokenizer: Tokenizer, objective: ObjectiveConfig, length: int) -> EncodedDocuments:
    _check_sentinels(tokenizer, objective, length)  # before the long part
    return encode_documents(texts, tokenizer, max_text_tokens(length, objective))


def _check_sentinels(tokenizer: Tokenizer, objective: ObjectiveConfig, length: int) -> None:
    needed = required_sentinels(length, objective)
    if needed > len(tokenizer.sentinel_ids):
        raise ConfigError(
            f"{objective.name} at length = {length} masks up to {needed} spans, but the tokenizer has "
            f"{len(tokenizer.sentinel_ids)} sentinels; train one with tokenizer.sentinels >= {needed}"
        )


def _packed_documents(
    documents: Documents, tokenizer: Tokenizer, objective: ObjectiveConfig, length: int, seed: int
) -> _PackedRows:
    def lengths(sizes: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        variants = sample_denoisers(len(sizes), objective, rng)
        return sequence_lengths(sizes, variants, objective), variants

    def sequence(item: int, variant: int, rng: np.random.Generator) -> TokenSequence:
        ids, ends = documents.chunk(item)
        return apply_objective(ids, variant, objective, tokenizer.special_tokens, rng, ends=ends)

    return _PackedRows(documents.lengths, lengths, sequence, length, seed)


def _in_order(count: int, batch_size: int) -> grain.MapDataset:
    """Each of `count` rows once, in batches; the last one filled up with EMPTY."""
    return grain.MapDataset.range(-(-count // batch_size)).map(
        lambda number: [row if row < count else EMPTY for row in range(number * batch_size, (number + 1) * batch_size)]
    )


def _shuffled(count: int, seed: int) -> grain.MapDataset:
    # Seeding the dataset, not shuffle(seed): the latter adds the epoch to the seed, and seeds 0 and 1 would overlap.
    return grain.MapDataset.range(count).seed(seed).shuffle().repeat(_ENDLESS // count)
