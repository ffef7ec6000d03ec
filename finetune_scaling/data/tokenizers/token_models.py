"""What splits text into the tokens of a public model: tokenizer.json (`tokenizers`), or SentencePiece's own file."""

import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import sentencepiece
import tokenizers
from tokenizers import decoders

from finetune_scaling.data.text_tokenizer import explain_text
from finetune_scaling.errors import DataError

_SPACE_SYMBOL = "\u2581"
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
# Protocol buffers read a message's repetition as changes to it. These bytes are ModelProto.normalizer_spec (field 3)
# with add_dummy_prefix (3) and remove_extra_whitespaces (4) false.
_NO_CHANGE_OF_SPACES = bytes([3 << 3 | 2, 4, 3 << 3, 0, 4 << 3, 0])


class TokenModel(Protocol):
    """Ids of texts without any special token; no text can spell one.

    size: ids that there may be; front: what the file itself puts in front of a text, None where it does not say;
    continuing: the same for a text that goes on after another, which has no space put in front of it.
    """

    size: int
    front: list[int] | None

    @property
    def continuing(self) -> "TokenModel": ...

    def encode(self, texts: Sequence[str]) -> list[list[int]]: ...

    def ends(self, text: str) -> list[int]:
        """Where each token of a text ends, in characters."""
        ...

    def decode(self, ids: Iterable[int]) -> str: ...

    def token_bytes(self) -> list[bytes]: ...

    def token_id(self, token: str) -> int | None: ...


class FastTokens:
    """A tokenizer.json of the `tokenizers` library."""

    def __init__(self, text: str, name: str):
        """Raises DataError, with `name`, where this is no such file's text."""
        try:
            self._fields = json.loads(text)
            self._tokenizer = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises nothing narrower
            raise DataError(f"{name}: not a file of the tokenizers library ({error}); copy the model's own") from error
        self._name = name
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True  # as text, which cannot spell them
        self.size = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        self.front = self._front()

    @functools.cached_property
    def continuing(self) -> "FastTokens":
        """Itself, where the file puts no space in front of texts."""
        changed = {
            **self._fields,
            "normalizer": _without_first_space(self._fields.get("normalizer")),
            "pre_tokenizer": _without_first_space(self._fields.get("pre_tokenizer")),
        }
        return self if changed == self._fields else FastTokens(json.dumps(changed), self._name)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """One by one: encode_batch starts threads, of which every later fork of this process would warn."""
        try:
            return [self._tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
        except (TypeError, UnicodeEncodeError) as error:
            raise explain_text(texts, error) from error

    def ends(self, text: str) -> list[int]:
        return [end for _, end in self._tokenizer.encode(text, add_special_tokens=False).offsets]

    def decode(self, ids: Iterable[int]) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def token_bytes(self) -> list[bytes]:
        """Raises DataError where the file's decoder is none of those that Llama models have."""
        steps = {step["type"]: step for step in _flat(self._fields.get("decoder"))}
        if "ByteLevel" in steps:
            read = _byte_level_bytes
        elif "Metaspace" in steps or "ByteFallback" in steps or "Replace" in steps:
            read = _spaced_bytes
        else:
            raise DataError(
                f"{self._name}: its decoder is {', '.join(steps) or 'not given'}, of which no token's own bytes are "
                "known, as stop strings and losses a byte of running text need; leave those out"
            )
        added = self._tokenizer.get_added_tokens_decoder()
        texts = [self._tokenizer.id_to_token(i) for i in range(self.size)]
        return [
            b"" if text is None else _added_bytes(added[i]) if i in added else read(text)
            for i, text in enumerate(texts)
        ]

    def token_id(self, token: str) -> int | None:
        return self._tokenizer.token_to_id(token)

    def _front(self) -> list[int] | None:
        if self._fields.get("post_processor") is None:
            return None
        plain, whole = (self._tokenizer.encode("a", add_special_tokens=special).ids for special in (False, True))
        places = range(len(whole) - len(plain) + 1)
        return next((whole[:i] for i in places if whole[i : i + len(plain)] == plain), [])


class SentencePieceTokens:
    """A tokenizer.model of SentencePiece, as Llama 1 and 2 have."""

    def __init__(self, model: bytes, name: str):
        """Reads the file's bytes; DataError, with `name`, where they are damaged."""
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
            self.size = self._processor.vocab_size()
        except RuntimeError as error:
            raise DataError(f"{name}: not a SentencePiece model, or a damaged one; copy it again") from error
        self._model, self._name = model, name
        self.front: list[int] | None = None

    @functools.cached_property
    def continuing(self) -> "SentencePieceTokens":
        return SentencePieceTokens(self._model + _NO_CHANGE_OF_SPACES, self._name)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        try:
            return self._processor.encode(list(texts), num_threads=1)
        except (TypeError, UnicodeEncodeError) as error:
            raise explain_text(texts, error) from error

    def ends(self, text: str) -> list[int]:
        return [end for _, end in self._processor.encode(text, out_type="offset_mapping")["offsets"]]

    def decode(self, ids: Iterable[int]) -> str:
        """Text as the tokenizers library decodes such a file: bytes that form no character each become U+FFFD."""
        pieces = [self._processor.id_to_piece(i) for i in ids if i < self.size and not self._is_special(i)]
        return self._decoder.decode(pieces)

    def token_bytes(self) -> list[bytes]:
        pieces = [self._processor.id_to_piece(i) for i in range(self.size)]
        return [b"" if self._is_special(i) else _spaced_bytes(piece) for i, piece in enumerate(pieces)]

    def token_id(self, token: str) -> int | None:
        place = self._processor.piece_to_id(token)
        return place if self._processor.id_to_piece(place) == token else None

    def _is_special(self, place: int) -> bool:
        return self._processor.is_control(place) or self._processor.is_unknown(place)

    @functools.cached_property
    def _decoder(self) -> decoders.Decoder:
        steps = [decoders.Replace(_SPACE_SYMBOL, " "), decoders.ByteFallback(), decoders.Fuse()]
        adds_space = self.encode(["a"]) != self.continuing.encode(["a"])
        return decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if adds_space else steps)


def _flat(step: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """The steps of a part of tokenizer.json that may be a sequence."""
    if step is None:
        return
    inner = next((step[name] for name in ("normalizers", "pretokenizers", "decoders") if name in step), None)
    if inner is None:
        yield step
    else:
        for one in inner:
            yield from _flat(one)


def _without_first_space(step: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A normalizer or pre-tokenizer of tokenizer.json without the space that it puts in front of a text."""
    if step is None or (step["type"] == "Prepend" and step["prepend"] in (_SPACE_SYMBOL, " ")):
        return None
    if step["type"] == "Metaspace":
        return {
            **{name: value for name, value in step.items() if name != "add_prefix_space"},
            "prepend_scheme": "never",
        }
    if step["type"] == "ByteLevel":
        return {**step, "add_prefix_space": False}
    for name in ("normalizers", "pretokenizers"):
        if name in step:
            inner = (_without_first_space(one) for one in step[name])
            return {**step, name: [one for one in inner if one is not None]}
    return dict(step)


def _added_bytes(token: tokenizers.AddedToken) -> bytes:
    return b"" if token.special else token.content.encode()


def _spaced_bytes(token: str) -> bytes:
    """Of a token with SentencePiece's symbol for a space, or of one of its bytes."""
    byte = _BYTE_TOKEN.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte else token.replace(_SPACE_SYMBOL, " ").encode()


def _byte_level_bytes(token: str) -> bytes:
    """Of a token that writes every byte as a character (Radford et al., 2019)."""
    return bytes(_byte_of_character()[character] for character in token)


@functools.cache
def _byte_of_character() -> dict[str, int]:
    """Bytes that Latin-1 prints stand for themselves, the others in order for the characters from U+0100 on."""
    printed = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {chr(0x100 + place): byte for place, byte in enumerate(others)}
