"""Reading of a prepared corpus: lengths from the index, chunks at random from the shards, without copies in memory."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from finetune_scaling.configuration import differing_fields, plain
from finetune_scaling.data.corpus import CorpusPart
from finetune_scaling.data.data_paths import with_absolute_data
from finetune_scaling.data.preparation.settings import INDEX, STATISTICS, shard_file
from finetune_scaling.data.tokenizers.interface import Tokenizer
from finetune_scaling.errors import DataError
from finetune_scaling.files import read_json
from finetune_scaling.messages import one_line
from finetune_scaling.paths import user_path

_COUNTS = ("documents", "empty_documents", "chunks", "text_tokens", "chunk_tokens")


class PreparedDocuments:
    """The N chunks of a prepared corpus, read as those of `EncodedDocuments`; thread-safe.

    Raises DataError that names the shard if it is missing, has another size than recorded, or is damaged; damage inside
    a shard is detected on reading (array_record stores a hash of every group of records).
    """

    def __init__(self, directory: Path, statistics: dict[str, Any]):
        self.statistics = {name: statistics[name] for name in _COUNTS}
        self._token_type = np.dtype(statistics["settings"]["token_type"])
        self._starts = np.cumsum([0, *(shard["chunks"] for shard in statistics["shards"])])
        self._index = _open_index(directory / INDEX, int(self._starts[-1]))
        self._paths = [shard_file(directory, number, "array_record") for number in range(len(statistics["shards"]))]
        self._readers = list(map(_open_shard, self._paths, statistics["shards"]))

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of each chunk, int32[N]; computed from the index, which stays on disk."""
        return (self._index >> 1).astype(np.int32)

    def chunk(self, index: int) -> tuple[np.ndarray, bool]:
        """Return the ids of a chunk, int32[n], and whether it is the last of its document."""
        shard = int(np.searchsorted(self._starts, index, side="right")) - 1
        length, is_last = divmod(int(self._index[index]), 2)
        try:
            (record,) = self._readers[shard].read([index - int(self._starts[shard])])
            ids = np.frombuffer(record, self._token_type).astype(np.int32)
            if len(ids) != length:
                raise ValueError(f"chunk {index} has {len(ids)} tokens, but {length} in {INDEX}")
        except (RuntimeError, ValueError) as error:
            raise _damaged(self._paths[shard], one_line(str(error))) from error
        return ids, bool(is_last)


def open_prepared(
    directory: str | Path, parts: Sequence[CorpusPart], tokenizer: Tokenizer, chunk_tokens: int
) -> PreparedDocuments:
    """Open a prepared corpus for a run.

    Raises DataError if it has other text, another tokenizer or chunk length, or a file is missing or damaged.
    """
    statistics = read_statistics(directory)
    settings = statistics["settings"]
    recorded = {name: settings[name] for name in ("tokenizer_sha256", "chunk_tokens")}
    wanted = {"tokenizer_sha256": tokenizer.digest, "chunk_tokens": chunk_tokens}
    differing = differing_fields(
        recorded | _by_number(settings["corpus"]["train"]), wanted | _by_number(plain(tuple(parts)))
    )
    if differing:
        raise DataError(
            f"corpus.prepared: {directory} was prepared with another {', '.join(differing)} than the run's; use the "
            "same tokenizer, corpus.train, objective and sequence.length, or prepare the run's text"
        )
    return PreparedDocuments(Path(user_path(directory)), statistics)


def read_statistics(directory: str | Path) -> dict[str, Any]:
    """Read the statistics of a finished preparation. Raises DataError if it is not finished."""
    if "://" in str(directory):
        raise DataError(
            f"corpus.prepared: {directory} is a URL, but array_record reads only local files; give a local copy, for "
            f"example by `gcloud storage cp -r {directory} .`"
        )
    path = Path(user_path(directory), STATISTICS)
    if not path.is_file():
        raise DataError(
            f"corpus.prepared: {path} is missing, so the preparation is not finished; start or resume it by "
            f"`python -m finetune_scaling.prepare shards --config=FILE --out={directory}`"
        )
    return read_json(path)


def _by_number(parts: Sequence[Any]) -> dict[str, Any]:
    return {f"train[{i}]": with_absolute_data(part) for i, part in enumerate(parts)}


def _open_index(path: Path, chunks: int) -> np.ndarray:
    try:
        index = np.load(path, mmap_mode="r", allow_pickle=False)
        if len(index) != chunks:
            raise ValueError(f"{len(index)} chunks instead of {chunks}")
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is missing or damaged ({error}); run the same `prepare shards` again") from error
    return index


def _open_shard(path: Path, shard: Mapping[str, Any]) -> ArrayRecordReader:
    if not path.is_file() or path.stat().st_size != shard["bytes"]:
        raise _damaged(path, f"{shard['bytes']} bytes expected")
    return ArrayRecordReader(str(path), "readahead_buffer_size:0")  # random access


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(
        f"{path} is missing or damaged ({reason}); delete it and run the same `prepare shards` again, which rewrites it"
    )
