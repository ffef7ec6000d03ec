"""Reading of a prepared corpus: lengths from the index, chunks at random from the shards, without copies in memory."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from finetune_scaling.configuration import differing_fields, plain
from finetune_scaling.data.corpus import CorpusPart
from finetune_scaling.data.preparation.settings import INDEX, STATISTICS, shard_file
from finetune_scaling.data.tokenizers.interface import Tokenizer
from finetune_scaling.errors import DataError
from finetune_scaling.files import read_json

_FIX = "delete it and run the same `prepare shards` again, which rewrites that shard"
_COUNTS = ("documents", "empty_documents", "chunks", "text_tokens", "chunk_tokens")


class PreparedDocuments:
    """The N chunks of a prepared corpus, a `loader.Documents`; thread-safe.

    Raises DataError that names the shard if it is missing, has another size than recorded, or is damaged; damage inside
    a shard is detected on reading (array_record stores a hash of every group of records).
    """

    def __init__(self, directory: Path, statistics: dict[str, Any]):
        self._directory = directory
        self.statistics = {name: statistics[name] for name in _COUNTS}
        self._kind = np.dtype(statistics["settings"]["token_type"])
        self._counts = [shard["chunks"] for shard in statistics["shards"]]
        self._starts = np.concatenate([[0], np.cumsum(self._counts)])
        self._index = _open_index(directory / INDEX, int(self._starts[-1]))
        for number, shard in enumerate(statistics["shards"]):
            _check_size(shard_file(directory, number, "array_record"), shard["bytes"])
        self._readers: dict[int, ArrayRecordReader] = {}
        self._lock = threading.Lock()

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of each chunk, int32[N]; computed from the index, which stays on disk."""
        return (self._index >> 1).astype(np.int32)

    def chunk(self, index: int) -> tuple[np.ndarray, bool]:
        """Return the ids of a chunk, int32[n], and whether it is the last of its document."""
        shard = int(np.searchsorted(self._starts, index, side="right")) - 1
        length, is_last = divmod(int(self._index[index]), 2)
        try:
            (record,) = self._reader(shard).read([index - int(self._starts[shard])])
        except (RuntimeError, ValueError) as error:
            raise self._damaged(shard, str(error)) from error
        ids = np.frombuffer(record, self._kind).astype(np.int32)
        if len(ids) != length:
            raise self._damaged(shard, f"chunk {index} has {len(ids)} tokens, but {length} in {INDEX}")
        return ids, bool(is_last)

    def _reader(self, shard: int) -> ArrayRecordReader:
        with self._lock:
            if shard not in self._readers:
                self._readers[shard] = self._open(shard)
            return self._readers[shard]

    def _open(self, shard: int) -> ArrayRecordReader:
        reader = ArrayRecordReader(
            str(shard_file(self._directory, shard, "array_record")),
            "readahead_buffer_size:0",  # random access
        )
        if not reader.ok() or reader.num_records() != self._counts[shard]:
            raise self._damaged(shard, f"it does not have the {self._counts[shard]} chunks recorded in {STATISTICS}")
        return reader

    def _damaged(self, shard: int, reason: str) -> DataError:
        path = shard_file(self._directory, shard, "array_record")
        return DataError(f"{path} is damaged ({' '.join(reason.split())}); {_FIX}")


def open_prepared(
    directory: str | Path, parts: Sequence[CorpusPart], tokenizer: Tokenizer, chunk_tokens: int
) -> PreparedDocuments:
    """Open a prepared corpus for a run.

    Raises DataError if it has other text, another tokenizer or chunk length, or a file is missing or damaged.
    """
    statistics = read_statistics(directory)
    directory = Path(directory)
    settings = statistics["settings"]
    if settings["tokenizer_sha256"] != tokenizer.digest:
        raise DataError(
            f"corpus.prepared: {directory} is of tokenizer {settings['tokenizer_sha256'][:12]}, but the run has "
            f"{tokenizer.digest[:12]}; give the run that tokenizer, or prepare the text again into another directory"
        )
    if settings["chunk_tokens"] != chunk_tokens:
        raise DataError(
            f"corpus.prepared: {directory} has chunks of up to {settings['chunk_tokens']} tokens, but the run's "
            f"sequence.length and objective need {chunk_tokens}; prepare the text again with this run's config"
        )
    differing = differing_fields(_by_number(settings["corpus"]["train"]), _by_number(plain(tuple(parts))))
    if differing:
        raise DataError(
            f"corpus.prepared: {directory} was prepared from another corpus.train ({', '.join(differing)}); "
            "use the same corpus.train, or prepare the run's"
        )
    return PreparedDocuments(directory, statistics)


def read_statistics(directory: str | Path) -> dict[str, Any]:
    """Read the statistics of a finished preparation. Raises DataError if it is not finished."""
    if "://" in str(directory):
        raise DataError(
            f"corpus.prepared: {directory} is a URL, but array_record reads only local files; copy it to a local disk, "
            f"for example by `gcloud storage cp -r {directory} .`, and give the copy"
        )
    path = Path(directory, STATISTICS)
    if not path.is_file():
        raise DataError(
            f"corpus.prepared: {path} is missing, so the preparation is not finished; start or resume it by "
            f"`python -m finetune_scaling.prepare shards --config=FILE --out={directory}`"
        )
    return read_json(path)


def _by_number(parts: Sequence[Any]) -> dict[str, Any]:
    return {f"train[{i}]": part for i, part in enumerate(parts)}


def _open_index(path: Path, chunks: int) -> np.ndarray:
    try:
        index = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is missing or damaged ({error}); run the same `prepare shards` again") from error
    if len(index) != chunks:
        raise DataError(
            f"{path} has {len(index)} chunks, but {STATISTICS} {chunks}; run the same `prepare shards` again"
        )
    return index


def _check_size(path: Path, size: int) -> None:
    if not path.exists():
        raise DataError(f"{path} is missing; run the same `prepare shards` again, which rewrites that shard")
    if path.stat().st_size != size:
        raise DataError(f"{path} is damaged ({path.stat().st_size} bytes, but {size} recorded); {_FIX}")
