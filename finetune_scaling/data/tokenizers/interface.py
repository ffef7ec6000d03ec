"""The interface that data, evaluation and decoding need of a tokenizer, and helpers that its implementations share."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from finetune_scaling.errors import DataError

MODES = ("R", "X", "S")  # UL2's mode tokens (Tay et al. 2022)
SPACE_SYMBOL = "\u2581"  # SentencePiece writes a space as this character


class SpecialTokens(NamedTuple):
    """The ids that objectives insert.

    bos_id: None where the model expects no token in front of a text. unk_id: None where the model has none.
    """

    bos_id: int | None
    eos_id: int
    mode_ids: dict[str, int]
    sentinel_ids: tuple[int, ...]
    unk_id: int | None = None


class Tokenizer(Protocol):
    """Encodes text to ids and decodes it; two tokenizers are equal, with equal hashes, if their digests are.

    vocab_size: number of ids. digest: SHA-256 of everything that determines the ids. pad_id: padding, never read.
    """

    def __hash__(self) -> int: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def digest(self) -> str: ...

    @property
    def special_tokens(self) -> SpecialTokens: ...

    @property
    def pad_id(self) -> int: ...

    @property
    def eos_id(self) -> int: ...

    @property
    def continuation(self) -> "Tokenizer":
        """The tokenizer of a text that continues another one, as a target continues its input."""
        ...

    def encode(self, text: str) -> list[int]:
        """Return the ids of the text without special tokens. Raises DataError if it is not valid Unicode."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return `encode` of every text."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of the ids, without special tokens; bytes that form no character become U+FFFD."""
        ...

    def token_bytes(self) -> list[bytes]:
        """Return the UTF-8 bytes that each id adds to a text; b"" for special tokens and unused ids."""
        ...

    def truncate(self, text: str, max_tokens: int) -> str:
        """Return the longest prefix of `text`, cut at a token boundary, that encodes to at most `max_tokens` ids."""
        ...


def longest_prefix(text: str, ends: Iterable[int], max_tokens: int, encode: Callable[[str], Sequence[int]]) -> str:
    """Return the longest prefix of at most `max_tokens` ids; ends: where each token ends, in characters, ascending."""
    boundaries = sorted({0, *(end for end, _ in zip(ends, range(max_tokens), strict=False))})
    while boundaries and len(encode(text[: boundaries[-1]])) > max_tokens:
        boundaries.pop()
    return text[: boundaries[-1]] if boundaries else ""


def encoding_error(texts: Sequence[str], error: Exception) -> Exception:
    """Return a DataError that names the entry of `texts` that is not valid text, or `error` if all of them are."""
    for text in texts:
        if not isinstance(text, str):
            return DataError(f"expected text, not {type(text).__name__}: {text!r:.80}")
        if any("\ud800" <= character <= "\udfff" for character in text):
            return DataError(f"this text is not valid Unicode (it contains a lone surrogate): {text[:80]!a}")
    return error
