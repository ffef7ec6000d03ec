"""Exact duplicates of documents, found by digests in buckets that are compared independently."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from finetune_scaling.data.preparation.settings import Preparation, shard_file
from finetune_scaling.data.preparation.shards import shard_texts, write_array
from finetune_scaling.files import Location

_MAX_BUCKETS = 256


class Digests(NamedTuple):
    """The documents of one shard in one bucket: digests uint64[n, 2], positions in the shard int64[n]."""

    shard: int
    digests: np.ndarray
    positions: np.ndarray


def buckets(preparation: Preparation) -> int:
    """Return the number of buckets; each is compared in the memory of one worker."""
    return min(preparation.shards, _MAX_BUCKETS)


def hash_shard(preparation: Preparation, number: int) -> Iterator[tuple[int, Digests]]:
    """Yield the 128-bit digests of a shard's texts for every bucket, also if empty."""
    texts = (text.encode(errors="surrogatepass") for text in shard_texts(preparation, number))  # encoding reports them
    raw = b"".join(hashlib.blake2b(text, digest_size=16).digest() for text in texts)
    digests = np.frombuffer(raw, "<u8").reshape(-1, 2)
    bucket_of = digests[:, 0] % buckets(preparation)
    for bucket in range(buckets(preparation)):
        positions = np.flatnonzero(bucket_of == bucket)
        yield bucket, Digests(number, digests[positions], positions)


def find_repeats(bucket: Iterable[Digests]) -> Iterator[tuple[int, np.ndarray]]:
    """Yield, for every shard, (shard, positions) of documents whose text occurs in an earlier shard or position."""
    parts = sorted(bucket, key=lambda part: part.shard)
    digests = np.concatenate([part.digests for part in parts])
    shards = np.concatenate([np.full(len(part.positions), part.shard) for part in parts])
    positions = np.concatenate([part.positions for part in parts])
    order = np.lexsort((digests[:, 1], digests[:, 0]))  # stable: equal digests stay in corpus order
    repeated = np.zeros(len(order), np.bool_)
    repeated[order[1:]] = (digests[order[1:]] == digests[order[:-1]]).all(axis=1)
    for part in parts:
        yield part.shard, positions[repeated & (shards == part.shard)]


def write_repeats(shard: int, positions: Iterable[np.ndarray], directory: Location) -> None:
    """Write the repeated positions of one shard from all buckets, for write_shard."""
    found = np.sort(np.concatenate(list(positions)))
    write_array(shard_file(directory, shard, "repeats.npy"), found)
