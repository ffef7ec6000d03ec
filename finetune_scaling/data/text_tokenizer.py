"""What data, evaluation and decoding need of a tokenizer: our own (tokenizer.py), or a public model's (interop/)."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from finetune_scaling.errors import DataError


class SpecialTokens(NamedTuple):
    """The ids that objectives insert. bos_id: None where a model reads texts without a token in front.

    unk_id: of what no token spells, None where its text is nothing.
    """

    bos_id: int | None
    eos_id: int
    mode_ids: dict[str, int]
    sentinel_ids: tuple[int, ...]
    unk_id: int | None = None


class TextTokenizer(Protocol):
    """Turns text into ids and back; equal, with one hash, where `digest` is.

    vocab_size: number of ids; digest: SHA-256 of all that decides the ids; pad_id: fills rows up and is never read.
    """

    def __hash__(self) -> int: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def digest(self) -> str: ...

    @property
    def special(self) -> SpecialTokens: ...

    @property
    def pad_id(self) -> int: ...

    @property
    def eos_id(self) -> int: ...

    @property
    def mode_ids(self) -> dict[str, int]: ...

    @property
    def sentinel_ids(self) -> tuple[int, ...]: ...

    @property
    def continuing(self) -> "TextTokenizer":
        """The tokenizer of a text that goes on after another one, as a target after its input."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of the text alone, without special tokens. DataError where the text is not valid Unicode."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of many texts at once."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids, special tokens left out."""
        ...

    def token_bytes(self) -> list[bytes]:
        """What each id adds to a text, in UTF-8: nothing for special tokens."""
        ...

    def truncate(self, text: str, max_tokens: int) -> str:
        """The longest prefix of `text`, cut where a token ends, that encodes to at most `max_tokens` ids."""
        ...


def longest_prefix(text: str, ends: Iterable[int], max_tokens: int, encode: Callable[[str], Sequence[int]]) -> str:
    """The longest prefix of at most `max_tokens` ids; ends: where the text's tokens end, in characters, in order."""
    places = sorted({0, *(end for end, _ in zip(ends, range(max_tokens), strict=False))})
    while places and len(encode(text[: places[-1]])) > max_tokens:
        places.pop()
    return text[: places[-1]] if places else ""


def explain_text(texts: Sequence[str], error: Exception) -> Exception:
    """The DataError of what is no text among `texts`; `error` itself where all are."""
    for text in texts:
        if not isinstance(text, str):
            return DataError(f"expected text, not {type(text).__name__}: {text!r:.80}")
        if any("\ud800" <= character <= "\udfff" for character in text):
            return DataError(f"a lone surrogate is no character, so this text is not valid Unicode: {text[:80]!a}")
    return error
