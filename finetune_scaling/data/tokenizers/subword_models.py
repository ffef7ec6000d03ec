"""Subword models of public tokenizers: tokenizer.json (the `tokenizers` library) or a SentencePiece model file.

Both encode texts without adding or parsing special tokens. size: number of ids. changes: the added tokens that change
it or the ids of texts. continuation: the model for a text that continues another one, without a space added in front.
"""

import functools
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sentencepiece
import tokenizers
from tokenizers import AddedToken, decoders

from finetune_scaling.data.tokenizers.added_tokens import AddedTokens, add_to
from finetune_scaling.data.tokenizers.interface import SPACE_SYMBOL, encoding_error
from finetune_scaling.errors import DataError
from finetune_scaling.strict_json import parse_json

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
# Protocol buffers merge a repeated message into the first. These bytes are ModelProto.normalizer_spec (field 3) with
# add_dummy_prefix (3) and remove_extra_whitespaces (4) false.
_KEEP_SPACES = bytes([3 << 3 | 2, 4, 3 << 3, 0, 4 << 3, 0])


class FastModel:
    """A tokenizer.json of the `tokenizers` library."""

    def __init__(self, text: str, name: str, added: AddedTokens):
        """Parse the file's text, and add tokens. Raises DataError, with `name`, if it is not a tokenizer.json."""
        try:
            self.fields = parse_json(text)
            self._tokenizer, self.changes = _load_fast(text, added)
        except Exception as error:  # the library raises nothing narrower
            raise DataError(f"{name}: not a file of the tokenizers library ({error}); copy the model's own") from error
        self._name, self._added = name, added
        self._tokenizer.encode_special_tokens = True  # as text, in which they are not parsed
        self.size = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        self.prefix_ids, self.suffix_ids = self._find_outer_ids()

    def __reduce__(self) -> tuple[type["FastModel"], tuple[str, str, AddedTokens], dict[str, Any]]:
        # The library's own pickling forgets encode_special_tokens.
        return FastModel, (json.dumps(self.fields), self._name, self._added), {"changes": self.changes}

    @functools.cached_property
    def continuation(self) -> "FastModel":
        """Return the model without an added space in front of texts; this model if the file adds none."""
        changed = {
            **self.fields,
            "normalizer": _without_prefix_space(self.fields.get("normalizer")),
            "pre_tokenizer": _without_prefix_space(self.fields.get("pre_tokenizer")),
        }
        return self if changed == self.fields else FastModel(json.dumps(changed), self._name, self._added)

    def replaced(self, parts: Mapping[str, Any]) -> "FastModel":
        """Return the model with other parts of its file; this model without any."""
        if not parts:
            return self
        model = FastModel(json.dumps({**self.fields, **parts}), self._name, self._added)
        options = {name: part for name, part in parts.get("model", {}).items() if name not in ("vocab", "merges")}
        model.changes.append(json.dumps({**parts, "model": options}))
        return model

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text. Raises DataError if one is not valid Unicode text."""
        return _encode(self._tokenizer, texts)

    def max_ids(self, text: str) -> float:
        """Return an upper bound of the number of ids of a text: one per byte after normalization and an added space."""
        return self._bytes_per_byte * len(text.encode(errors="surrogatepass")) + len(SPACE_SYMBOL.encode())

    @functools.cached_property
    def _bytes_per_byte(self) -> float:
        """How many bytes the normalizer and the pre-tokenizer make of one."""
        return math.prod(_expansion(self.fields.get(name)) for name in ("normalizer", "pre_tokenizer"))

    def encode_with_special_tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of texts that contain special tokens. Raises DataError if one is not valid Unicode."""
        return _encode(self._parsing_tokenizer, texts)

    @functools.cached_property
    def special_token_ids(self) -> dict[str, int]:
        """The special tokens by their text."""
        added = self._tokenizer.get_added_tokens_decoder()
        return {token.content: i for i, token in added.items() if token.special}

    @functools.cached_property
    def _parsing_tokenizer(self) -> tokenizers.Tokenizer:
        """The tokenizer that parses special tokens."""
        return _load_fast(json.dumps(self.fields), self._added)[0]

    def token_ends(self, text: str) -> list[int]:
        """Return the number of characters of the text up to the end of each token."""
        return [end for _, end in self._tokenizer.encode(text, add_special_tokens=False).offsets]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids, without special tokens."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def token_bytes(self) -> list[bytes]:
        """Return the bytes of every token. Raises DataError if the file's decoder is not one of Llama models'."""
        decoder = self.fields.get("decoder") or {}
        steps = {step.get("type") for step in decoder.get("decoders", [decoder])}
        if "ByteLevel" in steps:
            to_bytes = _byte_level_bytes
        elif steps & {"Metaspace", "ByteFallback", "Replace"}:
            to_bytes = _sentencepiece_bytes
        else:
            raise DataError(
                f"{self._name}: decoder = {decoder.get('type')} is not supported, so the bytes of its tokens are "
                "unknown; remove stop strings and evaluators that report loss per byte, which need them"
            )
        added = self._tokenizer.get_added_tokens_decoder()
        texts = [self._tokenizer.id_to_token(i) for i in range(self.size)]
        special = {i for i, token in added.items() if token.special}
        return [
            b"" if text is None or i in special else text.encode() if i in added else to_bytes(text)
            for i, text in enumerate(texts)
        ]

    def token_id(self, token: str) -> int | None:
        """Return the id of a token; None if the vocabulary lacks it."""
        return self._tokenizer.token_to_id(token)

    def _find_outer_ids(self) -> tuple[list[int], list[int]]:
        """Return the ids that the post-processor adds in front of a text and after it."""
        plain, full = (self._tokenizer.encode("a", add_special_tokens=special).ids for special in (False, True))
        starts = range(len(full) - len(plain) + 1)
        start = next((i for i in starts if full[i : i + len(plain)] == plain), 0)
        return full[:start], full[start + len(plain) :]


def _load_fast(text: str, added: AddedTokens) -> tuple[tokenizers.Tokenizer, list[str]]:
    """Return the tokenizer of a tokenizer.json with added tokens, and those that change it or the ids of texts."""
    tokenizer = tokenizers.Tokenizer.from_str(text)
    changes = add_to(tokenizer, added)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer, changes


def _encode(tokenizer: tokenizers.Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    # Not the library's encode_batch: it starts threads, and forking afterwards prints warnings.
    try:
        return [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    except (TypeError, UnicodeEncodeError) as error:
        raise encoding_error(texts, error) from error


class SentencePieceModel:
    """A tokenizer.model file of SentencePiece, as Llama 1 and 2 use."""

    def __init__(self, model: bytes, name: str, added: AddedTokens):
        """Parse the file's bytes, and add special tokens.

        Raises DataError, with `name`, if they are damaged, or an added token is part of texts or has another id.
        """
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
            self.size = self._processor.vocab_size()
        except RuntimeError as error:
            raise DataError(f"{name}: not a SentencePiece model, or damaged; copy it again") from error
        self._model, self._name, self._added = model, name, added
        self._special: dict[str, int] = {}  # tokens that no text contains, although the file may
        for number, token in sorted(added.recorded.items()):
            self._add(token, number)
        for token in added.special:
            self._add(token)
        self.changes = [f"{i} {token}" for token, i in self._special.items() if i >= self._processor.vocab_size()]

    def __reduce__(self) -> tuple[type["SentencePieceModel"], tuple[bytes, str, AddedTokens]]:
        return SentencePieceModel, (self._model, self._name, self._added)

    @functools.cached_property
    def continuation(self) -> "SentencePieceModel":
        """Return the model without an added space in front of texts."""
        return SentencePieceModel(self._model + _KEEP_SPACES, self._name, self._added)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text. Raises DataError if one is not valid Unicode text."""
        try:
            return [self._processor_of(text).encode([text], num_threads=1)[0] for text in texts]
        except (TypeError, UnicodeEncodeError) as error:
            raise encoding_error(texts, error) from error

    def max_ids(self, text: str) -> float:
        """Return infinity: the file's normalization may make any number of characters of one."""
        return math.inf

    def encode_with_special_tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Raise DataError: which spaces surround a special token in a SentencePiece model is up to its loader."""
        raise DataError(
            f"{self._name}: a chat template needs tokenizer.json; write it with transformers: "
            "AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)"
        )

    @functools.cached_property
    def special_token_ids(self) -> dict[str, int]:
        """The special tokens by their text."""
        pieces = {self._processor.id_to_piece(i): i for i in range(self._processor.vocab_size()) if self._is_special(i)}
        return pieces | self._special

    def token_ends(self, text: str) -> list[int]:
        """Return the number of characters of the text up to the end of each token."""
        return [end for _, end in self._processor_of(text).encode(text, out_type="offset_mapping")["offsets"]]

    def decode(self, ids: Iterable[int]) -> str:
        """Decode as the tokenizers library does: every byte that forms no character becomes U+FFFD."""
        pieces = [self._processor.id_to_piece(i) for i in ids if i < self.size and not self._is_special(i)]
        return self._decoder.decode(pieces)

    def token_bytes(self) -> list[bytes]:
        """Return the bytes of every token; special tokens have none."""
        return [
            b"" if self._is_special(i) else _sentencepiece_bytes(self._processor.id_to_piece(i))
            for i in range(self.size)
        ]

    def token_id(self, token: str) -> int | None:
        """Return the id of a token; None if the vocabulary lacks it."""
        if token in self._special:
            return self._special[token]
        token_id = self._processor.piece_to_id(token)
        return token_id if self._processor.id_to_piece(token_id) == token else None

    def _processor_of(self, text: str) -> sentencepiece.SentencePieceProcessor:
        """Return the processor of a text; as in transformers 5, it adds no space in front of one."""
        return self._unprefixed if text.startswith((" ", SPACE_SYMBOL)) else self._processor

    @functools.cached_property
    def _unprefixed(self) -> sentencepiece.SentencePieceProcessor:
        return sentencepiece.SentencePieceProcessor(model_proto=self._model + _KEEP_SPACES)

    def _add(self, token: AddedToken, recorded: int | None = None) -> None:
        """Add a special token with the next id, unless the file has it."""
        known = self.token_id(token.content)
        token_id = self.size if known is None else known
        if recorded not in (None, token_id):
            raise DataError(
                f"{self._name}: the files next to it give {token.content!r} the id {recorded}, but it would be "
                f"{token_id}; copy them from the same model"
            )
        if not token.special and (known is None or not self._is_special(known)):
            raise DataError(
                f"{self._name}: the files next to it add {token.content!r} to texts, which the SentencePiece library "
                "does not support; write a tokenizer.json with transformers: "
                "AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)"
            )
        self._special[token.content] = token_id
        self.size = max(self.size, token_id + 1)

    def _is_special(self, token_id: int) -> bool:
        return (
            token_id in self._special.values()
            or self._processor.is_control(token_id)
            or self._processor.is_unknown(token_id)
        )

    @functools.cached_property
    def _decoder(self) -> decoders.Decoder:
        steps = [decoders.Replace(SPACE_SYMBOL, " "), decoders.ByteFallback(), decoders.Fuse()]
        adds_space = self.encode(["a"]) != self.continuation.encode(["a"])
        return decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if adds_space else steps)


SubwordModel = FastModel | SentencePieceModel


# Bytes of UTF-8 that a step makes at most of one: NFC triples, and a space becomes the three bytes of SPACE_SYMBOL.
_EXPANSIONS = {
    **dict.fromkeys(("Prepend", "Split", "ByteLevel", "Digits", "Punctuation", "Whitespace", "WhitespaceSplit"), 1),
    **dict.fromkeys(("NFC", "Metaspace"), 3),
}


def _expansion(step: Mapping[str, Any] | None) -> float:
    """Return the bytes that a normalizer or pre-tokenizer of tokenizer.json makes at most of one; infinity if unknown.

    The additions of Prepend and add_prefix_space are not counted.
    """
    if step is None:
        return 1
    if step["type"] == "Sequence":
        return math.prod(map(_expansion, step.get("normalizers") or step.get("pretokenizers") or ()))
    if step["type"] == "Replace":
        is_space = (step["pattern"], step["content"]) == ({"String": " "}, SPACE_SYMBOL)
        return len(SPACE_SYMBOL.encode()) if is_space else math.inf
    return _EXPANSIONS.get(step["type"], math.inf)


def _without_prefix_space(step: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return a normalizer or pre-tokenizer of tokenizer.json that adds no space in front of a text."""
    if step is None or (step["type"] == "Prepend" and step["prepend"] in (SPACE_SYMBOL, " ")):
        return None
    if step["type"] == "Metaspace":
        kept = {name: value for name, value in step.items() if name != "add_prefix_space"}
        return {**kept, "prepend_scheme": "never"}
    if step["type"] == "ByteLevel":
        return {**step, "add_prefix_space": False}
    for name in ("normalizers", "pretokenizers"):
        if name in step:
            changed = map(_without_prefix_space, step[name])
            return {**step, name: [inner_step for inner_step in changed if inner_step is not None]}
    return dict(step)


def _sentencepiece_bytes(token: str) -> bytes:
    """Return the bytes of a SentencePiece token: a byte token such as <0x41>, or text with the space symbol."""
    byte = _BYTE_TOKEN.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte else token.replace(SPACE_SYMBOL, " ").encode()


# Byte-level BPE (Radford et al., 2019) writes a byte as its Latin-1 character if that is printable, and the others in
# order as characters from U+0100 on.
_PRINTED = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTED]
_BYTE_OF_CHARACTER = {chr(byte): byte for byte in _PRINTED} | {chr(0x100 + i): byte for i, byte in enumerate(_OTHERS)}


def _byte_level_bytes(token: str) -> bytes:
    return bytes(_BYTE_OF_CHARACTER[character] for character in token)
