"""Train a SentencePiece tokenizer on the text of a corpus."""

import collections
import dataclasses
import io
import itertools
import os
import random
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import sentencepiece

from finetune_scaling.configuration import plain
from finetune_scaling.data.corpus import CorpusConfig, CorpusTexts
from finetune_scaling.data.tokenizers.interface import MODES
from finetune_scaling.data.tokenizers.sentencepiece_tokenizer import (
    BOS_ID,
    EOS_ID,
    PAD_ID,
    UNK_ID,
    SentencePieceTokenizer,
    sentinel_piece,
)
from finetune_scaling.errors import ConfigError, DataError

MIN_VOCAB_SIZE, MAX_VOCAB_SIZE = 256, 131_072

_FIXED_PIECES = 4 + len(MODES) + 1  # pad, eos, bos, unk; the modes; newline
_MIN_ALPHABET = 16
_RESERVED_CHARACTERS = frozenset("\0\t\r\n\u2581\u2585")  # SentencePiece's trainer uses these itself
_MAX_LINE = 1000  # characters; the trainer drops sentences above 4,192 bytes


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    """Settings of tokenizer training.

    vocab_size: total number of ids, special tokens and bytes included, 256 to 131,072.
    byte_fallback: encode characters outside the vocabulary as UTF-8 bytes (256 ids) instead of <unk>.
    sentinels: ids that mark masked spans in UL2's denoisers.
    character_coverage: share of the text's characters that the alphabet covers; with byte fallback the alphabet takes
      at most half of the ordinary pieces, so that a small vocabulary over Chinese still has room for words.
    max_sentences: lines to train on, sampled uniformly (from `seed`) if there are more.
    """

    vocab_size: int
    model_type: Literal["unigram", "bpe"] = "unigram"
    byte_fallback: bool = True
    sentinels: int = 100
    character_coverage: float = 0.9995
    max_sentences: int = 500_000
    seed: int = 0

    def __post_init__(self) -> None:
        checks = (
            ("sentinels", self.sentinels >= 0, "at least 0"),
            ("max_sentences", self.max_sentences >= 1, "at least 1"),
            ("character_coverage", 0 < self.character_coverage <= 1, "above 0 and at most 1"),
        )
        for name, valid, requirement in checks:
            if not valid:
                raise ConfigError(f"tokenizer.{name} = {getattr(self, name)} must be {requirement}")
        smallest = max(MIN_VOCAB_SIZE, self.reserved + _MIN_ALPHABET)
        if not smallest <= self.vocab_size <= MAX_VOCAB_SIZE:
            raise ConfigError(
                f"tokenizer.vocab_size = {self.vocab_size} is outside {smallest}..{MAX_VOCAB_SIZE}: the "
                f"special tokens, {self.sentinels} sentinels{' and 256 bytes' if self.byte_fallback else ''} take "
                f"{self.reserved} ids; raise vocab_size, use fewer sentinels or turn byte_fallback off"
            )

    @property
    def reserved(self) -> int:
        """Number of ids that are not learned from text: special tokens, newline, sentinels, bytes."""
        return _FIXED_PIECES + self.sentinels + (256 if self.byte_fallback else 0)


@dataclasses.dataclass(frozen=True)
class TokenizerPreparation:
    """A tokenizer and the text that it is trained on (the training part of `corpus`)."""

    tokenizer: TokenizerConfig
    corpus: CorpusConfig


def prepare_tokenizer(preparation: TokenizerPreparation, out: str | Path) -> SentencePieceTokenizer:
    """Train a tokenizer on a corpus and save it; see `train_tokenizer`."""
    return train_tokenizer(CorpusTexts(preparation.corpus.train, "corpus.train"), preparation.tokenizer, out)


def train_tokenizer(
    texts: Iterable[str], config: TokenizerConfig, out_dir: str | os.PathLike
) -> SentencePieceTokenizer:
    """Train SentencePiece on `texts` and save it to `out_dir`; equal texts give equal bytes (one thread).

    Raises DataError if the text is too short for the vocabulary, ConfigError if the alphabet does not fit it.
    """
    lines = _sample_lines(texts, config)
    if not lines:
        raise DataError("the tokenizer has no text to learn from: every text is empty; check the source's text field")
    alphabet = _choose_alphabet(lines, config)
    tokenizer = SentencePieceTokenizer(_train(_fragments(lines, alphabet), config))
    tokenizer.save(out_dir, plain(config))
    return tokenizer


def _sample_lines(texts: Iterable[str], config: TokenizerConfig) -> list[str]:
    """Sample lines in one pass (reservoir sampling, Vitter 1985, algorithm R)."""
    generator = random.Random(config.seed)
    kept: list[str] = []
    for seen, line in enumerate(_lines(texts)):
        if len(kept) < config.max_sentences:
            kept.append(line)
        elif (slot := generator.randrange(seen + 1)) < config.max_sentences:
            kept[slot] = line
    return kept


def _lines(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        for line in text.split("\n"):
            for start in range(0, len(line), _MAX_LINE):
                yield line[start : start + _MAX_LINE]


def _choose_alphabet(lines: list[str], config: TokenizerConfig) -> frozenset[str]:
    counts = collections.Counter(itertools.chain.from_iterable(lines))
    for character in _RESERVED_CHARACTERS:
        counts.pop(character, None)
    covered = config.character_coverage * counts.total()
    # Ties are broken by the character, so that the order of the texts does not matter.
    ranked = sorted(counts, key=lambda character: (-counts[character], character))
    before = itertools.accumulate((counts[character] for character in ranked), initial=0)
    alphabet = [character for character, sum_before in zip(ranked, before, strict=False) if sum_before < covered]
    room = config.vocab_size - config.reserved
    if config.byte_fallback:
        alphabet = alphabet[: room // 2]
    elif len(alphabet) > room // 2:
        raise ConfigError(
            f"tokenizer.vocab_size = {config.vocab_size} is too small for an alphabet of {len(alphabet)} characters; "
            f"take at least {config.reserved + 2 * len(alphabet)}, turn byte_fallback on, or lower character_coverage"
        )
    return frozenset(alphabet)


def _fragments(lines: list[str], alphabet: frozenset[str]) -> Iterator[str]:
    """Split lines at characters outside the alphabet, so that no piece contains one."""
    for line in lines:
        for inside, characters in itertools.groupby(line, alphabet.__contains__):
            if inside:
                yield "".join(characters)


def _train(fragments: Iterator[str], config: TokenizerConfig) -> bytes:
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=fragments,
            model_writer=model,
            vocab_size=config.vocab_size,
            model_type=config.model_type,
            byte_fallback=config.byte_fallback,
            character_coverage=1.0,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            pad_id=PAD_ID,
            eos_id=EOS_ID,
            bos_id=BOS_ID,
            unk_id=UNK_ID,
            pad_piece="<pad>",
            control_symbols=[f"<{mode}>" for mode in MODES] + [sentinel_piece(n) for n in range(config.sentinels)],
            user_defined_symbols=["\n"],
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise _training_error(error, config) from error
    return model.getvalue()


def _training_error(error: RuntimeError, config: TokenizerConfig) -> Exception:
    largest = re.search(r"value <= (\d+)", str(error))
    if largest:
        return DataError(
            f"tokenizer.vocab_size = {config.vocab_size} is too large for this text, which allows at most "
            f"{largest[1]}; lower vocab_size or train on more text"
        )
    if "sentences_.empty()" in str(error):
        return DataError("the tokenizer has no text to learn from: no usable character; check the source's text field")
    return error
