"""What decides every byte of a prepared corpus, and where each of its files is."""

import dataclasses
from typing import Any

import numpy as np

from finetune_scaling.configuration import plain
from finetune_scaling.data.corpus import CorpusPart
from finetune_scaling.data.tokenizers.sentencepiece_tokenizer import SentencePieceTokenizer
from finetune_scaling.errors import ConfigError
from finetune_scaling.files import Location

FORMAT = 1  # of the files; raised when they change
SETTINGS, STATISTICS, INDEX = "preparation.json", "statistics.json", "index.npy"


@dataclasses.dataclass(frozen=True)
class Filters:
    """Which documents are left out, asked in this order.

    drop_duplicates: of documents of the very same text only the first in the corpus stays.
    min_tokens, max_tokens: shorter and longer documents go (0: no limit). Empty ones never count.
    """

    drop_duplicates: bool = False
    min_tokens: int = 0
    max_tokens: int = 0

    def __post_init__(self) -> None:
        if self.min_tokens < 0 or self.max_tokens < 0:
            raise ConfigError("--min_tokens and --max_tokens must be at least 0 (0: no limit)")
        if self.max_tokens and self.max_tokens < self.min_tokens:
            raise ConfigError(
                f"--max_tokens={self.max_tokens} is below --min_tokens={self.min_tokens}; nothing is left"
            )


@dataclasses.dataclass(frozen=True)
class Preparation:
    """A corpus, how it is encoded and cut, and into how many shards.

    parts, counts: the corpus's parts, and how many documents each gives; chunk_tokens: most tokens of a chunk.
    Shard s of S holds the documents s N / S to (s + 1) N / S of all N, in the corpus's order.
    """

    parts: tuple[CorpusPart, ...]
    counts: tuple[int, ...]
    tokenizer: SentencePieceTokenizer
    chunk_tokens: int
    shards: int
    filters: Filters = Filters()

    def __post_init__(self) -> None:
        if not 1 <= self.shards <= max(1, self.documents):
            raise ConfigError(f"--shards={self.shards} must lie in 1..{self.documents}, the number of documents")

    @property
    def documents(self) -> int:
        """Documents of the corpus, before filters."""
        return sum(self.counts)

    def shard_range(self, number: int) -> range:
        """The documents of a shard."""
        return range(self.documents * number // self.shards, self.documents * (number + 1) // self.shards)

    def record(self) -> dict[str, Any]:
        """The settings as plain data: equal for two preparations exactly where their bytes are."""
        return {
            "format": FORMAT,
            "corpus": {"train": plain(self.parts)},
            "documents_of_parts": list(self.counts),
            "tokenizer_sha256": self.tokenizer.digest,
            "chunk_tokens": self.chunk_tokens,
            "token_type": token_type(self.tokenizer.vocab_size).str,
            "shards": self.shards,
            **plain(self.filters),
        }


def token_type(vocab_size: int) -> np.dtype:
    """The type of a token on disk: the smaller one that holds every id."""
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


def index_type(chunk_tokens: int) -> np.dtype:
    """The type of an index entry, 2 n + (1 where the chunk of n tokens ends its document)."""
    return np.dtype("<u2" if 2 * chunk_tokens + 1 < 2**16 else "<u4")


def shard_file(directory: Location, number: int, suffix: str) -> Location:
    """A file of one shard: array_record, npy (lengths), json (counts), repeats.npy (duplicates), failure."""
    return directory / "shards" / f"{number:05d}.{suffix}"
