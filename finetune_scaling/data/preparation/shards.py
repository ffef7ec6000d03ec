"""One shard: its documents are encoded, filtered, split into chunks and written; the bytes depend only on the text."""

import functools
import hashlib
import io
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from finetune_scaling.configuration import build, canonical_json
from finetune_scaling.data.corpus import CorpusPart, open_texts
from finetune_scaling.data.encoding import RaggedArray, encode_texts, split_documents
from finetune_scaling.data.preparation.settings import Filters, Preparation, index_type, shard_file, token_type
from finetune_scaling.files import Location, file_size, write_atomically, write_json_atomically

# Records that are read and compressed together. Single records would take more space than short texts themselves; with
# large groups, each read would decompress many unwanted records.
_GROUP_BYTES = 4096
_MAX_GROUP = 64


def write_shard(preparation: Preparation, number: int, directory: Location) -> None:
    """Write the files of one shard; .json is written last, so that a shard without it counts as missing.

    Raises DataError if the text is invalid, WorkdirError if the directory cannot be written.
    """
    repeats = set()
    if preparation.filters.drop_duplicates:
        repeats = set(read_array(shard_file(directory, number, "repeats.npy")).tolist())
    texts = (text for i, text in enumerate(shard_texts(preparation, number)) if i not in repeats)
    documents, counts = _filter(encode_texts(texts, preparation.tokenizer), preparation.filters)
    chunks, is_last = split_documents(documents, preparation.chunk_tokens)
    records = _array_record(chunks, token_type(preparation.tokenizer.vocab_size))
    write_atomically(shard_file(directory, number, "array_record"), records)
    index = (2 * chunks.lengths + is_last).astype(index_type(preparation.chunk_tokens))
    write_array(shard_file(directory, number, "npy"), index)
    record = {
        **counts,
        "duplicates": len(repeats),
        "chunks": len(index),
        "text_tokens": len(chunks.values),
        "bytes": len(records),
        "sha256": hashlib.sha256(records).hexdigest(),
    }
    write_json_atomically(shard_file(directory, number, "json"), record)


def finished_record(directory: Location, number: int) -> dict[str, Any] | None:
    """Return the record of a shard if all its files have the recorded sizes, else None."""
    try:
        record = json.loads(shard_file(directory, number, "json").read_text(encoding="utf-8"))
        complete = file_size(shard_file(directory, number, "array_record")) == record["bytes"]
        complete = complete and len(read_array(shard_file(directory, number, "npy"))) == record["chunks"]
    except (OSError, EOFError, ValueError, KeyError, TypeError):  # missing or damaged
        return None
    return record if complete else None


def shard_texts(preparation: Preparation, number: int) -> Iterator[str]:
    """Yield the documents of a shard before filtering; one part is open at a time."""
    first, stop = (preparation.documents * n // preparation.shards for n in (number, number + 1))
    start = 0
    for i, (part, count) in enumerate(zip(preparation.parts, preparation.counts, strict=True)):
        here = range(max(first - start, 0), min(stop - start, count))
        if here:
            texts = _open(canonical_json(part), f"corpus.train[{i}]")
            yield from (texts[index] for index in here)
        start += count


def write_array(path: Location, array: np.ndarray) -> None:
    """Write an array as .npy atomically, on a disk or in an object store."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    write_atomically(path, file.getvalue())


def read_array(path: Location) -> np.ndarray:
    """Read a .npy file. Raises OSError, EOFError or ValueError if it is missing or damaged."""
    return np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)


@functools.lru_cache(maxsize=1)  # the shards of a worker are mostly from the same part
def _open(part: str, where: str) -> Sequence[str]:
    return open_texts(build(CorpusPart, json.loads(part), where), where)


def _filter(documents: RaggedArray, filters: Filters) -> tuple[RaggedArray, dict[str, int]]:
    """Return the documents that pass the filters, and the numbers of kept and dropped documents."""
    lengths = documents.lengths
    empty = lengths == 0
    too_short = ~empty & (lengths < filters.min_tokens)
    too_long = lengths > (filters.max_tokens or np.inf)
    kept = ~(empty | too_short | too_long)
    values = documents.values[np.repeat(kept, lengths)]
    kinds = {"documents": kept, "empty_documents": empty, "too_short": too_short, "too_long": too_long}
    return RaggedArray.from_lengths(values, lengths[kept]), {
        name: int(np.count_nonzero(kind)) for name, kind in kinds.items()
    }


def _array_record(chunks: RaggedArray, kind: np.dtype) -> bytes:
    """Return the bytes of an array_record file with one record per chunk; the library writes only to local paths."""
    values = chunks.values.astype(kind)
    mean = max(1, values.nbytes // max(1, len(chunks.lengths)))
    group = min(max(1, _GROUP_BYTES // mean), _MAX_GROUP)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "records")
        writer = ArrayRecordWriter(str(path), f"group_size:{group}")
        for start, length in zip(chunks.starts, chunks.lengths, strict=True):
            writer.write(values[start : start + length].tobytes())
        writer.close()
        return path.read_bytes()
