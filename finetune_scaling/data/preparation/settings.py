"""The settings that determine every byte of a prepared corpus, and the paths of its files."""

import dataclasses
from typing import Any

import numpy as np

from finetune_scaling.configuration import plain
from finetune_scaling.data.corpus import CorpusPart
from finetune_scaling.data.data_paths import with_absolute_data
from finetune_scaling.data.tokenizers.sentencepiece_tokenizer import SentencePieceTokenizer
from finetune_scaling.errors import ConfigError
from finetune_scaling.files import Location

FORMAT = 1  # version of the file format
SETTINGS, STATISTICS, INDEX = "preparation.json", "statistics.json", "index.npy"


@dataclasses.dataclass(frozen=True)
class Filters:
    """Filters of documents, applied in this order; empty documents are always dropped.

    drop_duplicates: keep only the first of documents with equal text.
    min_tokens, max_tokens: drop shorter and longer documents (0: no limit).
    """

    drop_duplicates: bool = False
    min_tokens: int = 0
    max_tokens: int = 0

    def __post_init__(self) -> None:
        if self.max_tokens and self.max_tokens < self.min_tokens:  # checked before any text is encoded
            raise ConfigError(
                f"--max_tokens={self.max_tokens} is below --min_tokens={self.min_tokens}, so no document could pass; "
                "change one of them"
            )


@dataclasses.dataclass(frozen=True)
class Preparation:
    """A corpus, its encoding, and the number of shards.

    parts, counts: the parts of the corpus and their numbers of documents. chunk_tokens: maximum tokens of a chunk.
    Shard s of S has the documents s N / S to (s + 1) N / S of all N, in corpus order.
    """

    parts: tuple[CorpusPart, ...]
    counts: tuple[int, ...]
    tokenizer: SentencePieceTokenizer
    chunk_tokens: int
    shards: int
    filters: Filters = Filters()

    def __post_init__(self) -> None:
        if not 1 <= self.shards <= max(1, self.documents):
            raise ConfigError(f"--shards={self.shards} must be in 1..{self.documents} (the number of documents)")

    @property
    def documents(self) -> int:
        """Number of documents before filtering."""
        return sum(self.counts)

    def record(self) -> dict[str, Any]:
        """Return the settings as plain data; two preparations have equal bytes if and only if these are equal."""
        return {
            "format": FORMAT,
            "corpus": {"train": with_absolute_data(plain(self.parts))},
            "documents_of_parts": list(self.counts),
            "tokenizer_sha256": self.tokenizer.digest,
            "chunk_tokens": self.chunk_tokens,
            "token_type": token_type(self.tokenizer.vocab_size).str,
            "shards": self.shards,
            **plain(self.filters),
        }


def token_type(vocab_size: int) -> np.dtype:
    """Return the type of a token on disk: the smaller one that represents every id."""
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


def index_type(chunk_tokens: int) -> np.dtype:
    """Return the type of an index entry, 2 n + (1 if the chunk of n tokens ends its document)."""
    return np.dtype("<u2" if 2 * chunk_tokens + 1 < 2**16 else "<u4")


def shard_file(directory: Location, number: int, suffix: str) -> Location:
    """Return the path of a file of a shard: array_record, npy (lengths), json (counts), repeats.npy, failure."""
    return directory / "shards" / f"{number:05d}.{suffix}"
