"""One shard: its documents encoded, filtered, cut to chunks and written, the same bytes whoever does it."""

import functools
import hashlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from finetune_scaling.configuration import build, canonical_json
from finetune_scaling.data.corpus import CorpusPart, CorpusPartTexts
from finetune_scaling.data.encoding import RaggedArray, cut_documents, encode_texts
from finetune_scaling.data.preparation.arrays import read_array, write_array
from finetune_scaling.data.preparation.settings import Filters, Preparation, index_type, shard_file, token_type
from finetune_scaling.files import Location, file_size, write_atomically, write_json_atomically

# Records that are read and compressed together. One by one they would take more room than short texts themselves; in
# large groups each read would decompress much that it does not want.
_GROUP_BYTES = 4096
_LARGEST_GROUP = 64


def write_shard(preparation: Preparation, number: int, directory: Location) -> None:
    """Makes one shard's files; .json comes last, so that a shard without it counts as not made.

    Raises DataError where the text is faulty, WorkdirError where the directory cannot be written.
    """
    repeats = set(read_repeats(directory, number).tolist()) if preparation.filters.drop_duplicates else set()
    texts = (text for i, text in enumerate(shard_texts(preparation, number)) if i not in repeats)
    documents, counts = _filter(encode_texts(texts, preparation.tokenizer), preparation.filters)
    chunks, ends = cut_documents(documents, preparation.chunk_tokens)
    records = _array_record(chunks, token_type(preparation.tokenizer.vocab_size))
    write_atomically(shard_file(directory, number, "array_record"), records)
    index = (2 * chunks.lengths + ends).astype(index_type(preparation.chunk_tokens))
    write_array(shard_file(directory, number, "npy"), index)
    facts = {
        **counts,
        "duplicates": len(repeats),
        "chunks": len(index),
        "text_tokens": len(chunks.values),
        "bytes": len(records),
        "sha256": hashlib.sha256(records).hexdigest(),
    }
    write_json_atomically(shard_file(directory, number, "json"), facts)


def finished(directory: Location, number: int) -> dict[str, Any] | None:
    """A shard's facts where all of it is there in the recorded size; None where it must be made."""
    try:
        facts = json.loads(shard_file(directory, number, "json").read_text(encoding="utf-8"))
        whole = file_size(shard_file(directory, number, "array_record")) == facts["bytes"]
        whole = whole and len(read_index(directory, number)) == facts["chunks"]
    except (OSError, EOFError, ValueError, KeyError, TypeError):  # absent or damaged, in whatever way
        return None
    return facts if whole else None


def read_index(directory: Location, number: int) -> np.ndarray:
    """A shard's index entries; OSError, EOFError or ValueError where the file is absent or damaged."""
    return read_array(shard_file(directory, number, "npy"))


def shard_texts(preparation: Preparation, number: int) -> Iterator[str]:
    """The documents of a shard before any filter; one part is open at a time."""
    wanted = preparation.shard_range(number)
    start = 0
    for i, (part, count) in enumerate(zip(preparation.parts, preparation.counts, strict=True)):
        here = range(max(wanted.start - start, 0), min(wanted.stop - start, count))
        if here:
            texts = _open(canonical_json(part), f"corpus.train[{i}]")
            yield from (texts[index] for index in here)
        start += count


def read_repeats(directory: Location, number: int) -> np.ndarray:
    """Positions within a shard of the documents that came before already, int64[n]."""
    return read_array(shard_file(directory, number, "repeats.npy"))


@functools.lru_cache(maxsize=1)  # a worker's shards mostly come from the same part
def _open(part: str, where: str) -> CorpusPartTexts:
    return CorpusPartTexts(build(CorpusPart, json.loads(part), where), where)


def _filter(documents: RaggedArray, filters: Filters) -> tuple[RaggedArray, dict[str, int]]:
    """The documents that are not empty and long and short enough, and how many there were of each kind."""
    lengths = documents.lengths
    empty = lengths == 0
    too_short = ~empty & (lengths < filters.min_tokens)
    too_long = lengths > (filters.max_tokens or np.inf)
    kept = ~(empty | too_short | too_long)
    values = documents.values[np.repeat(kept, lengths)]
    offsets = np.concatenate([[0], np.cumsum(lengths[kept], dtype=np.int64)])
    kinds = {"documents": kept, "empty_documents": empty, "too_short": too_short, "too_long": too_long}
    return RaggedArray(values, offsets), {name: int(np.count_nonzero(kind)) for name, kind in kinds.items()}


def _array_record(chunks: RaggedArray, kind: np.dtype) -> bytes:
    """The bytes of an array_record file, a record for each chunk. The library itself writes to local paths only."""
    values = chunks.values.astype(kind)
    mean = max(1, values.nbytes // max(1, len(chunks.lengths)))
    group = min(max(1, _GROUP_BYTES // mean), _LARGEST_GROUP)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "records")
        writer = ArrayRecordWriter(str(path), f"group_size:{group}")
        for start, stop in zip(chunks.offsets, chunks.offsets[1:], strict=False):
            writer.write(values[start:stop].tobytes())
        writer.close()
        return path.read_bytes()
