"""SentencePiece tokenizers, trained by us: fixed special ids, lossless, and no text can spell a special token.

Text is taken as it is (no normalisation, no dummy prefix, whitespace kept); with byte fallback
decode(encode(text)) == text for every text. Special tokens are control symbols, which encode never yields; a newline is
always a token of its own.
"""

import collections
import dataclasses
import hashlib
import io
import itertools
import os
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import sentencepiece

from finetune_scaling.configuration import plain
from finetune_scaling.data.text_tokenizer import SpecialTokens, TextTokenizer, explain_text, longest_prefix
from finetune_scaling.data.tokenizers.imported import is_imported, load_imported_tokenizer, read_model_fields
from finetune_scaling.errors import ConfigError, DataError
from finetune_scaling.files import (
    Location,
    disk_errors,
    location,
    read_json,
    sha256,
    write_atomically,
    write_json_atomically,
)

PAD_ID, EOS_ID, BOS_ID, UNK_ID = 0, 1, 2, 3
MODES = ("R", "X", "S")
MODEL_FILE = "tokenizer.model"
RECORD_FILE = "tokenizer.json"
SMALLEST, LARGEST = 256, 131_072

_FIXED_PIECES = 4 + len(MODES) + 1  # pad, eos, bos, unk; the modes; newline
_LEAST_ALPHABET = 16
_SPACE_SYMBOL = "\u2581"  # SentencePiece writes a space as this, and would decode the real character to a space
_UNUSABLE = frozenset("\0\t\r\n\u2581\u2585")  # characters that SentencePiece's trainer keeps for itself
_LONGEST_LINE = 1000  # characters; the trainer drops sentences above 4,192 bytes


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    """What to train.

    vocab_size: total number of ids, special tokens and bytes included, 256 to 131,072.
    byte_fallback: characters outside the vocabulary become their UTF-8 bytes (256 ids) and not <unk>.
    sentinels: ids that mark masked spans in UL2's denoisers.
    character_coverage: share of the text's characters that the alphabet covers; with byte fallback the alphabet also
      stops at half of the ordinary pieces, so that a small vocabulary over Chinese still has room for words.
    max_sentences: lines to train on, sampled evenly (from `seed`) where there are more.
    """

    vocab_size: int
    model_type: Literal["unigram", "bpe"] = "unigram"
    byte_fallback: bool = True
    sentinels: int = 100
    character_coverage: float = 0.9995
    max_sentences: int = 500_000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.character_coverage <= 1:
            raise ConfigError(f"tokenizer.character_coverage = {self.character_coverage} must lie in (0, 1]")
        if self.sentinels < 0 or self.max_sentences < 1:
            raise ConfigError("tokenizer.sentinels must be at least 0 and tokenizer.max_sentences at least 1")
        smallest = max(SMALLEST, self.reserved + _LEAST_ALPHABET)
        if not smallest <= self.vocab_size <= LARGEST:
            raise ConfigError(
                f"tokenizer.vocab_size = {self.vocab_size} is outside {smallest}..{LARGEST}: the special tokens, "
                f"{self.sentinels} sentinels{' and 256 bytes' if self.byte_fallback else ''} take {self.reserved} ids; "
                "raise vocab_size, take fewer sentinels or turn byte_fallback off"
            )

    @property
    def reserved(self) -> int:
        """Ids that no text is learned into: special tokens, newline, sentinels, bytes."""
        return _FIXED_PIECES + self.sentinels + (256 if self.byte_fallback else 0)


class Tokenizer:
    """A SentencePiece model whose special ids are pad 0, eos 1, bos 2, unk 3, then modes and sentinels.

    model: its file's bytes.
    """

    pad_id, eos_id, bos_id, unk_id = PAD_ID, EOS_ID, BOS_ID, UNK_ID

    def __init__(self, model: bytes, name: str = "tokenizer"):
        """Reads the bytes of a model made by `train_tokenizer`; DataError, with `name`, where they are not."""
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
            pieces = [self._processor.id_to_piece(i) for i in range(self._processor.vocab_size())]
        except RuntimeError as error:
            raise DataError(f"{name}: not a SentencePiece model, or a damaged one; make it again") from error
        self.model = model
        self._name = name
        self.vocab_size = len(pieces)
        self.digest = hashlib.sha256(model).hexdigest()
        self.special = _find_special(pieces, name)
        self.mode_ids = self.special.mode_ids
        self.sentinel_ids = self.special.sentinel_ids
        self._space_symbol_ids = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in _SPACE_SYMBOL.encode()]

    def __reduce__(self) -> tuple[type["Tokenizer"], tuple[bytes, str]]:
        return Tokenizer, (self.model, self._name)  # to other processes it goes as its bytes

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)  # so that what is encoded once is found again by a tokenizer that is read again

    @property
    def continuing(self) -> "Tokenizer":
        """Itself: a text is encoded as it is, wherever it stands."""
        return self

    def encode(self, text: str) -> list[int]:
        """Ids of the text alone: no bos, eos or other special token. DataError where the text is not valid Unicode."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of many texts at once."""
        try:
            plain_ids = self._processor.encode(list(texts), num_threads=1)
        except (TypeError, UnicodeEncodeError) as error:
            raise explain_text(texts, error) from error
        return [
            self._encode_around_space_symbols(text) if _SPACE_SYMBOL in text else ids
            for text, ids in zip(texts, plain_ids, strict=True)
        ]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids; special tokens are left out, bytes that form no character become U+FFFD."""
        return self._processor.decode([int(i) for i in ids])

    def token_bytes(self) -> list[bytes]:
        """What each id adds to a text, in UTF-8: nothing for special tokens, one byte for the ids of bytes."""
        processor = self._processor
        return [
            bytes([int(processor.id_to_piece(i)[1:-1], 16)]) if processor.is_byte(i) else self.decode([i]).encode()
            for i in range(self.vocab_size)
        ]

    def truncate(self, text: str, max_tokens: int) -> str:
        """The longest prefix of `text`, cut where a token ends, that encodes to at most `max_tokens` ids."""
        if len(self.encode(text)) <= max_tokens:
            return text
        # Any other character in the space symbol's place leaves the offsets, in characters, as they are.
        offsets = self._processor.encode(text.replace(_SPACE_SYMBOL, "?"), out_type="offset_mapping")["offsets"]
        return longest_prefix(text, (end for _, end in offsets), max_tokens, self.encode)

    def save(self, out_dir: str | os.PathLike, config: TokenizerConfig | None = None) -> Path:
        """Writes tokenizer.model and tokenizer.json (its digest, its size, and `config` where given) into `out_dir`."""
        folder = Path(out_dir)
        record: dict[str, Any] = {"digest": self.digest, "vocab_size": self.vocab_size}
        if config is not None:
            record["config"] = plain(config)
        # The record goes first: a kill in between leaves it without a model, which counts as no tokenizer.
        write_json_atomically(folder / RECORD_FILE, record)
        write_atomically(folder / MODEL_FILE, self.model)
        return folder / MODEL_FILE

    def _encode_around_space_symbols(self, text: str) -> list[int]:
        parts = self._processor.encode(text.split(_SPACE_SYMBOL))
        return list(itertools.chain(parts[0], *([*self._space_symbol_ids, *part] for part in parts[1:])))


def train_tokenizer(texts: Iterable[str], config: TokenizerConfig, out_dir: str | os.PathLike) -> Tokenizer:
    """Trains SentencePiece on `texts` (one thread: the same texts give the same bytes) and saves it into `out_dir`.

    Raises DataError where there is too little text for the vocabulary, ConfigError where the alphabet does not fit it.
    """
    lines = _sample_lines(texts, config)
    if not lines:
        raise DataError("the tokenizer has no text to learn from: every text is empty; check the source's text field")
    alphabet = _choose_alphabet(lines, config)
    tokenizer = Tokenizer(_train(_fragments(lines, alphabet), config))
    tokenizer.save(out_dir, config)
    return tokenizer


def load_tokenizer(path: str | os.PathLike) -> TextTokenizer:
    """Reads a tokenizer, ours or a public model's, from its directory or, ours, its model file.

    They may be in an object store. Raises DataError, naming the file, where it is missing or damaged; WorkdirError
    where the object store cannot be read.
    """
    if not os.fspath(path):
        raise DataError(
            "tokenizer is empty: the public model was converted without its files; convert it again with "
            "--tokenizer=DIR, or give a run its own: --config.tokenizer=DIR"
        )
    with disk_errors(path):
        place = location(path)
        if place.is_dir() and is_imported(place):
            return load_imported_tokenizer(place, read_model_fields(place))
        return _read(place)


def load_own_tokenizer(path: str | os.PathLike) -> Tokenizer:
    """Reads a tokenizer of ours from its directory or its model file, which may be in an object store.

    Raises DataError, naming the file, where it is missing, damaged, or not one of ours; WorkdirError where the object
    store cannot be read.
    """
    with disk_errors(path):
        return _read(location(path))


def _read(path: Location) -> Tokenizer:
    file = path / MODEL_FILE if path.is_dir() else path
    if not file.is_file():
        raise DataError(f"{file}: no such tokenizer; make one with `python -m finetune_scaling.prepare tokenizer`")
    record = file.with_name(RECORD_FILE)
    if file.name == MODEL_FILE and record.is_file() and read_json(record).get("digest") != sha256(file):
        raise DataError(f"{file}: not the bytes that {RECORD_FILE} beside it records; make the tokenizer again")
    return Tokenizer(file.read_bytes(), str(file))


def _find_special(pieces: list[str], name: str) -> SpecialTokens:
    ids = {piece: i for i, piece in enumerate(pieces)}
    fixed = {"<pad>": PAD_ID, "</s>": EOS_ID, "<s>": BOS_ID, "<unk>": UNK_ID}
    modes = {mode: ids.get(f"<{mode}>") for mode in MODES}
    if any(ids.get(piece) != i for piece, i in fixed.items()) or None in modes.values():
        raise DataError(
            f"{name}: this SentencePiece model lacks pad 0, eos 1, bos 2, unk 3 or the modes {', '.join(MODES)}; "
            "make one with `python -m finetune_scaling.prepare tokenizer`"
        )
    sentinels = itertools.takewhile(lambda i: i is not None, (ids.get(_sentinel(n)) for n in itertools.count()))
    return SpecialTokens(BOS_ID, EOS_ID, modes, tuple(sentinels), UNK_ID)  # type: ignore[arg-type]


def _sentinel(number: int) -> str:
    return f"<sentinel_{number}>"


def _sample_lines(texts: Iterable[str], config: TokenizerConfig) -> list[str]:
    """Reservoir sample (Vitter's algorithm R) of the texts' lines, so that a long corpus needs no second pass."""
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
            for start in range(0, len(line), _LONGEST_LINE):
                yield line[start : start + _LONGEST_LINE]


def _choose_alphabet(lines: list[str], config: TokenizerConfig) -> frozenset[str]:
    counts = collections.Counter(itertools.chain.from_iterable(lines))
    for character in _UNUSABLE:
        counts.pop(character, None)
    covered = config.character_coverage * counts.total()
    # Ties are broken by the character, so that the order of the texts cannot matter here.
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
    """The lines, broken at characters outside the alphabet: no piece is learned with one."""
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
            control_symbols=[f"<{mode}>" for mode in MODES] + [_sentinel(n) for n in range(config.sentinels)],
            user_defined_symbols=["\n"],
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise _explain(error, config) from error
    return model.getvalue()


def _explain(error: RuntimeError, config: TokenizerConfig) -> Exception:
    largest = re.search(r"value <= (\d+)", str(error))
    if largest:
        return DataError(
            f"tokenizer.vocab_size = {config.vocab_size} is too large for this text, which allows at most "
            f"{largest[1]}; lower vocab_size or train on more text"
        )
    if "sentences_.empty()" in str(error):
        return DataError("the tokenizer has no text to learn from: no usable character; check the source's text field")
    return error
