"""Decoding of many prompts: batches of similar lengths, chunk by chunk, until every text has ended."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from finetune_scaling.decoding.beam import Beam, candidate_count
from finetune_scaling.decoding.buckets import Group, bucket, groups, rows_for
from finetune_scaling.decoding.programs import Batch, Programs, TextDecoder, make_programs
from finetune_scaling.decoding.search import Outputs, RowInputs, Search
from finetune_scaling.decoding.settings import DecodingConfig
from finetune_scaling.decoding.single_sequence import Sampling, SingleSequence, greedy
from finetune_scaling.decoding.stopping import stop_table
from finetune_scaling.errors import ConfigError
from finetune_scaling.models.cache import slot_count, unstacks_layers
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.models.language_model import Params
from finetune_scaling.progress import log_progress
from finetune_scaling.sharding.axes import DEFAULT_RULES, AxisRules
from finetune_scaling.sharding.batches import global_array
from finetune_scaling.trees import Tree
from finetune_scaling.tuning.method import TuningMethod

_MIN_CHUNK_SLOTS = 32  # with fewer, compiling a program costs more than it saves


@dataclasses.dataclass(frozen=True)
class Generation:
    """A generated text: its tokens without the end, its score in beam search, and whether the length limit ended it."""

    tokens: list[int]
    score: float | None = None
    at_limit: bool = False


def make_decoder(
    config: ModelConfig,
    tuning: TuningMethod,
    settings: DecodingConfig,
    *,
    longest: int,
    end_ids: tuple[int, ...],
    pad_id: int,
    bidirectional_input: bool = False,
    axes: AxisRules = DEFAULT_RULES,
) -> TextDecoder:
    """Return a decoder with these settings. Raises ConfigError if the vocabulary is too small for the beams."""
    check_beams(settings, config, end_ids)
    search: Search = SingleSequence(greedy, pad_id)
    if settings.method == "beam":
        search = Beam(
            settings.beams, settings.length_penalty, settings.length_penalty_form, settings.early_stopping, pad_id
        )
    elif settings.method == "sample":
        sampling = Sampling(settings.temperature, settings.top_k, settings.top_p, settings.min_p, settings.seed)
        search = SingleSequence(sampling, pad_id)
    return TextDecoder(config, tuning, search, longest, end_ids, bidirectional_input, axes)


def check_beams(settings: DecodingConfig, config: ModelConfig, end_ids: Sequence[int] = (0,)) -> None:
    """Raise ConfigError if the vocabulary is too small for the beams; by default, of texts with one end id."""
    candidates = candidate_count(settings.beams, end_ids)
    if settings.method == "beam" and candidates > config.vocab_size:
        raise ConfigError(
            f"decoding.beams = {settings.beams} needs a vocabulary of at least {candidates} tokens, not "
            f"{config.vocab_size}. Fix: lower it"
        )


def generate(
    decoder: TextDecoder,
    settings: DecodingConfig,
    trainable: Tree,
    frozen: Tree,
    prompts: Sequence[Sequence[int]],
    *,
    batch_size: int,
    token_bytes: Sequence[bytes] = (),
    sharding: NamedSharding | None = None,
    multiple: int = 1,
) -> list[list[Generation]]:
    """Return the n_best texts of every prompt, best first.

    token_bytes: the bytes of each token; needed if the settings have stop strings. A text that ends with a stop string
    includes the tokens that complete it. sharding: of a batch's rows over the mesh in context, into `multiple` shards.
    """
    programs = make_programs(decoder, unstacks_layers())
    table = stop_table(settings.stop, token_bytes) if settings.stop else None
    batch_decoder = _BatchDecoder(decoder, programs, programs.prepare(trainable, frozen), table, multiple)
    texts: list[list[Generation]] = [[] for _ in prompts]
    rows = batch_size + -batch_size % multiple
    batches = groups([len(prompt) for prompt in prompts], rows, multiple)
    for group in log_progress(batches, len(batches), "decoded batches"):
        written = batch_decoder.decode(group, _batch(group, prompts, settings, decoder, sharding))
        for number, row_texts in written.items():
            limit = _limit(len(prompts[number]), settings, decoder)
            texts[number] = [_mark_limit(text, limit) for text in row_texts[: settings.n_best]]
    return texts


def _batch(
    group: Group,
    prompts: Sequence[Sequence[int]],
    settings: DecodingConfig,
    decoder: TextDecoder,
    sharding: NamedSharding | None,
) -> Batch:
    """Return a group as arrays; rows of padding have no prompt and end at once."""
    tokens = np.zeros((group.rows, group.width), np.int32)
    lengths, limits, examples = (np.zeros(group.rows, np.int32) for _ in range(3))
    for row, number in enumerate(group.members):
        prompt = prompts[number]
        tokens[row, : len(prompt)] = prompt
        lengths[row], examples[row] = len(prompt), number
        limits[row] = _limit(len(prompt), settings, decoder)
    batch = Batch(tokens, lengths, RowInputs(limits, examples))
    return batch if sharding is None else jax.tree.map(lambda array: global_array(array, sharding), batch)


def _limit(length: int, settings: DecodingConfig, decoder: TextDecoder) -> int:
    if settings.max_length_ratio is None:
        return decoder.longest
    return max(1, min(decoder.longest, math.ceil(settings.max_length_ratio * length)))


@dataclasses.dataclass(frozen=True)
class _BatchDecoder:
    """Decodes one batch at a time: runs the programs, collects ended texts and resizes the batch."""

    decoder: TextDecoder
    programs: Programs
    params: Params
    table: np.ndarray | None
    multiple: int

    def decode(self, group: Group, batch: Batch) -> dict[int, list[Generation]]:
        """Return the texts of each of the group's prompts, best first, by the prompt's index."""
        written: dict[int, list[Generation]] = {}
        owners: list[int | None] = [*group.members, *[None] * (group.rows - len(group.members))]
        slots = self._slots_after(self.decoder.tuning.prompt_length + group.width, group.width)
        decoding = self.programs.prefill(self.params, batch, self.table, slots=slots)
        while True:
            decoding, texts = self.programs.chunk(self.params, decoding, self.table)
            texts = jax.tree.map(np.asarray, texts)
            for row, number in enumerate(owners):
                if number is not None and texts.ended[row]:
                    written[number] = _row_texts(texts, row, self.decoder.end_ids)
            if texts.ended.all():
                return written
            decoding, owners = self._resize(decoding, owners, texts.ended, group.width)

    def _resize(self, decoding: Any, owners: list[int | None], ended: np.ndarray, width: int) -> Any:
        """Add slots for the next chunk, and remove ended rows if they are half of the batch."""
        running = np.flatnonzero(~ended)
        rows = rows_for(len(running), len(owners), self.multiple)
        padding = np.flatnonzero(ended)[: rows - len(running)]
        chosen = np.sort(np.concatenate([running, padding]))
        slots = self._slots_after(slot_count(decoding.cache), width)
        decoding = self.programs.resize(decoding, chosen.astype(np.int32), slots=slots)
        return decoding, [None if ended[row] else owners[row] for row in chosen]

    def _slots_after(self, used: int, width: int) -> int:
        """Return the number of slots of the chunk after one with `used` slots: the next bucket, up to the total."""
        most = -(-self.decoder.slots(width) // 16) * 16
        return min(bucket(used + max(_MIN_CHUNK_SLOTS, self.decoder.search.width)), most)


def _row_texts(texts: Outputs, row: int, end_ids: tuple[int, ...]) -> list[Generation]:
    scores = [None] * texts.lengths.shape[1] if texts.scores is None else map(float, texts.scores[row])
    return [
        Generation(_without(tokens[:length].tolist(), end_ids), score, not _ends(tokens[:length], end_ids))
        for tokens, length, score in zip(texts.tokens[row], texts.lengths[row], scores, strict=True)
    ]


def _mark_limit(text: Generation, limit: int) -> Generation:
    """Return a text that did not end with eos with at_limit only if it has as many tokens as allowed."""
    return dataclasses.replace(text, at_limit=text.at_limit and len(text.tokens) >= limit)


def _ends(tokens: Sequence[int], end_ids: tuple[int, ...]) -> bool:
    return len(tokens) > 0 and int(tokens[-1]) in end_ids


def _without(tokens: list[int], end_ids: tuple[int, ...]) -> list[int]:
    return tokens[:-1] if _ends(tokens, end_ids) else tokens
