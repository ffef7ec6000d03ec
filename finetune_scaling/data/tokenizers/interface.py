"""The interface that data, evaluation and decoding need of a tokenizer."""

import abc
import math
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from finetune_scaling.data.tokenizers.chat_format import ChatFormat
from finetune_scaling.errors import DataError

MODES = ("R", "X", "S")  # UL2's mode tokens (Tay et al. 2022)
SPACE_SYMBOL = "\u2581"  # SentencePiece writes a space as this character


class SpecialTokens(NamedTuple):
    """The ids of the special tokens that sequences, targets and objectives use.

    bos_id: None where the model expects no token in front of a text. unk_id: None where the model has none.
    other_end_ids: ids that end a generated text as eos does, such as the end of a turn of a chat model.
    """

    bos_id: int | None
    eos_id: int
    mode_ids: dict[str, int]
    sentinel_ids: tuple[int, ...]
    unk_id: int | None = None
    other_end_ids: tuple[int, ...] = ()

    @property
    def end_ids(self) -> tuple[int, ...]:
        """All ids that end a generated text, eos first."""
        return (self.eos_id, *(i for i in self.other_end_ids if i != self.eos_id))


class Tokenizer(abc.ABC):
    """Interface of a tokenizer, which encodes text to ids and decodes them.

    Two tokenizers are equal, with equal hashes, if their digests are.
    vocab_size: number of ids. digest: SHA-256 of everything that determines the ids. pad_id: padding, never read.
    moves_spaces_to_target: Whether a target takes over the whitespace at the end of its prompt where the tokenizer
      writes a word with the space before it as one token. Tokenizers of this project keep it in the prompt, as their
      models were trained.
    special_token_ids: The special tokens by their text. chat_format: The model's chat template, None if it has none.
    """

    pad_id = 0
    moves_spaces_to_target = False
    vocab_size: int
    digest: str
    special_tokens: SpecialTokens
    special_token_ids: Mapping[str, int] = types.MappingProxyType({})
    chat_format: ChatFormat | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)  # caches keyed by a tokenizer survive reading its file again

    @property
    def eos_id(self) -> int:
        """The id that ends a text."""
        return self.special_tokens.eos_id

    @property
    def continuation(self) -> "Tokenizer":
        """The tokenizer of a text that continues another one, as a target continues its input."""
        return self

    def encode(self, text: str) -> list[int]:
        """Return the ids of the text without special tokens. Raises DataError if it is not valid Unicode."""
        return self.encode_batch([text])[0]

    def has_more_ids(self, text: str, limit: int) -> bool:
        """Return whether a text encodes to more than `limit` ids; a short one is not encoded."""
        return self.max_ids(text) > limit and len(self.encode(text)) > limit

    def max_ids(self, text: str) -> float:
        """Return an upper bound of the number of ids of a text, which takes no time; infinity where none is known."""
        return math.inf

    @abc.abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return `encode` of every text."""

    def encode_with_special_tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of texts that contain special tokens, as a chat template writes them."""
        raise NotImplementedError  # only tokenizers with a chat format need it

    @abc.abstractmethod
    def token_ends(self, text: str) -> list[int]:
        """Return where each token of a text ends, in characters, ascending."""

    @abc.abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of the ids, without special tokens; bytes that form no character become U+FFFD."""

    @abc.abstractmethod
    def token_bytes(self) -> list[bytes]:
        """Return the UTF-8 bytes that each id adds to a text; b"" for special tokens and unused ids."""

    def truncate(self, text: str, max_tokens: int) -> str:
        """Return the longest prefix of `text`, cut at a token boundary, that encodes to at most `max_tokens` ids."""
        if len(self.encode(text)) <= max_tokens:
            return text
        boundaries = sorted({0, *self.token_ends(text)[:max_tokens]})
        while len(self.encode(text[: boundaries[-1]])) > max_tokens:
            boundaries.pop()
        return text[: boundaries[-1]]


def encoding_error(texts: Sequence[str], error: Exception) -> Exception:
    """Return a DataError that names the entry of `texts` that is not valid text, or `error` if all of them are."""
    for text in texts:
        if not isinstance(text, str):
            return DataError(f"expected text, not {type(text).__name__}: {text!r:.80}")
        if any("\ud800" <= character <= "\udfff" for character in text):
            return DataError(f"this text is not valid Unicode (it contains a lone surrogate): {text[:80]!a}")
    return error
