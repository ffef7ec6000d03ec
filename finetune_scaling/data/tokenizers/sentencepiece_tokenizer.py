"""SentencePiece tokenizers trained by this project: fixed special ids, lossless; texts have no special tokens.

Text is encoded unchanged (no normalization, no dummy prefix, whitespace kept); with byte fallback
decode(encode(text)) == text for every text. Special tokens are control symbols, which encode never returns; a newline
is always a separate token.
"""

import hashlib
import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import sentencepiece

from finetune_scaling.data.tokenizers.interface import MODES, SPACE_SYMBOL, SpecialTokens, Tokenizer, encoding_error
from finetune_scaling.errors import DataError
from finetune_scaling.files import disk_errors, location, read_json, sha256, write_atomically, write_json_atomically
from finetune_scaling.paths import user_path

PAD_ID, EOS_ID, BOS_ID, UNK_ID = 0, 1, 2, 3
MODEL_FILE = "tokenizer.model"
RECORD_FILE = "tokenizer.json"


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model with the special ids pad 0, eos 1, bos 2, unk 3, then modes and sentinels.

    model: the bytes of its file.
    """

    bos_id, unk_id = BOS_ID, UNK_ID

    def __init__(self, model: bytes, name: str = "tokenizer"):
        """Parse the bytes of a model made by `train_tokenizer`. Raises DataError, with `name`, if they are not one."""
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
            pieces = [self._processor.id_to_piece(i) for i in range(self._processor.vocab_size())]
        except RuntimeError as error:
            raise DataError(f"{name}: not a SentencePiece model, or damaged; train the tokenizer again") from error
        self.model = model
        self._name = name
        self.vocab_size = len(pieces)
        self.digest = hashlib.sha256(model).hexdigest()
        self.special_tokens = _find_special_tokens(pieces, name)
        self.special_token_ids = {
            piece: i for i, piece in enumerate(pieces) if self._processor.is_control(i) or self._processor.is_unknown(i)
        }
        self._space_symbol_ids = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE_SYMBOL.encode()]

    def __reduce__(self) -> tuple[type["SentencePieceTokenizer"], tuple[bytes, str]]:
        return SentencePieceTokenizer, (self.model, self._name)  # pickled as its bytes

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        try:
            ids_of_texts = self._processor.encode(list(texts), num_threads=1)
        except (TypeError, UnicodeEncodeError) as error:
            raise encoding_error(texts, error) from error
        return [
            self._encode_around_space_symbols(text) if SPACE_SYMBOL in text else ids
            for text, ids in zip(texts, ids_of_texts, strict=True)
        ]

    def max_ids(self, text: str) -> float:
        return len(text.encode(errors="surrogatepass"))  # an id has at least a byte of the text, which is not changed

    def token_ends(self, text: str) -> list[int]:
        # Replacing the space symbol by any other character leaves the offsets, in characters, unchanged.
        offsets = self._processor.encode(text.replace(SPACE_SYMBOL, "?"), out_type="offset_mapping")["offsets"]
        return [end for _, end in offsets]

    def decode(self, ids: Iterable[int]) -> str:
        return self._processor.decode([int(i) for i in ids])

    def token_bytes(self) -> list[bytes]:
        processor = self._processor
        return [
            bytes([int(processor.id_to_piece(i)[1:-1], 16)]) if processor.is_byte(i) else self.decode([i]).encode()
            for i in range(self.vocab_size)
        ]

    def save(self, out_dir: str | os.PathLike, config: Mapping[str, Any] | None = None) -> Path:
        """Write tokenizer.model and tokenizer.json (digest, size, and the training `config` if given) to `out_dir`."""
        directory = Path(user_path(out_dir))
        record: dict[str, Any] = {"digest": self.digest, "vocab_size": self.vocab_size}
        if config is not None:
            record["config"] = dict(config)
        # The record is written first: an interruption leaves it without a model, which counts as no tokenizer.
        write_json_atomically(directory / RECORD_FILE, record)
        write_atomically(directory / MODEL_FILE, self.model)
        return directory / MODEL_FILE

    def _encode_around_space_symbols(self, text: str) -> list[int]:
        parts = self._processor.encode(text.split(SPACE_SYMBOL))
        return list(itertools.chain(parts[0], *([*self._space_symbol_ids, *part] for part in parts[1:])))


def load_sentencepiece_tokenizer(path: str | os.PathLike) -> SentencePieceTokenizer:
    """Read a tokenizer of this project from its directory or model file, which may be in an object store.

    Raises DataError that names the file if it is missing, damaged or another kind of tokenizer.
    """
    with disk_errors(path, reading=True):
        file = location(path)
        if file.is_dir():
            file = file / MODEL_FILE
        if not file.is_file():
            raise DataError(
                f"{file}: no such tokenizer; make one with `python -m finetune_scaling.prepare tokenizer`, or set "
                "tokenizer to '' for the base's own, as configs/finetune/FILE.py:METHOD does for any --config.base.run"
            )
        record = file.with_name(RECORD_FILE)
        if file.name == MODEL_FILE and record.is_file() and read_json(record).get("digest") != sha256(file):
            raise DataError(f"{file}: its digest differs from the one in {RECORD_FILE}; make the tokenizer again")
        return SentencePieceTokenizer(file.read_bytes(), str(file))


def sentinel_piece(number: int) -> str:
    """Return the piece of a sentinel."""
    return f"<sentinel_{number}>"


def _find_special_tokens(pieces: list[str], name: str) -> SpecialTokens:
    ids = {piece: i for i, piece in enumerate(pieces)}
    fixed = {"<pad>": PAD_ID, "</s>": EOS_ID, "<s>": BOS_ID, "<unk>": UNK_ID}
    modes = {mode: ids.get(f"<{mode}>") for mode in MODES}
    if any(ids.get(piece) != i for piece, i in fixed.items()) or None in modes.values():
        raise DataError(
            f"{name}: this SentencePiece model lacks pad 0, eos 1, bos 2, unk 3 or the modes {', '.join(MODES)}; "
            "make one with `python -m finetune_scaling.prepare tokenizer`"
        )
    sentinels = itertools.takewhile(lambda i: i is not None, (ids.get(sentinel_piece(n)) for n in itertools.count()))
    return SpecialTokens(BOS_ID, EOS_ID, modes, tuple(sentinels), UNK_ID)  # type: ignore[arg-type]
