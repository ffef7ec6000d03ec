"""Streaming of a public model's tensors into an Orbax checkpoint, piece by piece, so that memory stays bounded.

Every piece is an uncompressed file that is written atomically. A journal lists the pieces on disk with their checksums,
from which the checkpoint's digest is computed; an interrupted import resumes after them.
"""

import concurrent.futures
import dataclasses
import itertools
import json
import math
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore
from etils import epath
from orbax.checkpoint import type_handlers

from finetune_scaling.files import write_atomically
from finetune_scaling.interop.families.family import Family, Tensor
from finetune_scaling.interop.hugging_face_model import leaf_shapes
from finetune_scaling.interop.weights.safetensors_reader import WeightFiles
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.runs.checkpoint_errors import storage_errors
from finetune_scaling.runs.checkpoints import stored_name
from finetune_scaling.runs.digest import StreamingDigest
from finetune_scaling.runs.metrics import ProgressReporter

PIECE_BYTES = 32 * 2**20  # upper bound of what one thread holds of a leaf
_THREADS = min(4, os.cpu_count() or 1)
_CACHE_LINE_BYTES = 64
_COLUMNS = 16  # columns of a transposed view copied at a time, about one cache line

Start = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One leaf of our tree, to be read from the files piece by piece.

    Attributes:
        tensor: Its tensors in the files.
        name: Its name in the checkpoint.
        shape: Its shape.
        dtype: Its dtype in the checkpoint.
        chunk: Shape of its files in the checkpoint.
        rows: Our axis that is axis 0 of the tensor in the files, along which slices of it can be read.
        piece: Shape of a piece; only the layer axis and `rows` are cut.
    """

    tensor: Tensor
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    chunk: tuple[int, ...]
    rows: int
    piece: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def starts(self) -> Iterator[Start]:
        """Yield the index of the first element of each piece."""
        yield from itertools.product(*(range(0, size, step) for size, step in zip(self.shape, self.piece, strict=True)))

    def slices(self, start: Start) -> tuple[slice, ...]:
        """Return the slices of the piece that begins at `start`."""
        ends = (min(s + step, size) for s, step, size in zip(start, self.piece, self.shape, strict=True))
        return tuple(slice(first, last) for first, last in zip(start, ends, strict=True))

    def read(self, files: WeightFiles, start: Start) -> np.ndarray:
        """Return a piece in the checkpoint's dtype."""
        slices = self.slices(start)
        values = _aligned_empty([part.stop - part.start for part in slices], self.dtype)
        names = self.tensor.names(self.shape[0])
        if not self.tensor.stacked:
            self._fill(values, files, names[0], slices[self.rows])
            return values
        for layer, name in zip(values, names[slices[0]], strict=True):
            self._fill(layer, files, name, slices[self.rows])
        return values

    def _fill(self, values: np.ndarray, files: WeightFiles, name: str, rows: slice) -> None:
        if self.tensor.fused is None:
            ours = self.tensor.from_file(files.read(name, rows))
        else:  # our rows are scattered over those of the file
            axis = self.rows - self.tensor.stacked
            ours = self.tensor.from_file(files.read(name))[(slice(None),) * axis + (rows,)]
        _copy(ours, values)


def plan_leaves(
    files: WeightFiles,
    family: Family,
    config: ModelConfig,
    dtype: str | None,
    shard_shapes: Mapping[str, tuple[int, ...]],
) -> list[Leaf]:
    """Return all leaves of a model in checked files.

    Args:
        files: The model's files.
        family: Its family.
        config: Its config.
        dtype: Dtype of the checkpoint; None keeps that of the files.
        shard_shapes: Shape of one device's shard of each leaf. The checkpoint's files do not cross shards, so that each
            device can read its own.
    """
    shapes = leaf_shapes(config)
    tensors = {tensor.path: tensor for tensor in family.tensors(config)}
    return [_leaf(files, tensors[path], shapes[path].shape, shard_shapes[path], dtype) for path in sorted(shapes)]


def _leaf(
    files: WeightFiles, tensor: Tensor, shape: tuple[int, ...], shard: tuple[int, ...], dtype: str | None
) -> Leaf:
    stacked = tensor.stacked
    stored = np.dtype(dtype) if dtype else files.dtype(tensor.names(shape[0])[0])
    rows = len(shape) - 1 if tensor.transposed else int(stacked)
    row_bytes = math.prod(shape[stacked:]) // shape[rows] * stored.itemsize
    cut = {rows: _rows_per_piece(shard[rows], row_bytes)}
    if stacked:
        cut[0] = min(max(1, PIECE_BYTES // (row_bytes * shape[rows])), shape[0])
    piece = tuple(cut.get(axis, size) for axis, size in enumerate(shape))
    chunk = tuple(cut.get(axis, size) for axis, size in enumerate(shard))
    return Leaf(tensor, stored_name("trainable/" + tensor.path), shape, stored, chunk, rows, piece)


def _rows_per_piece(shard: int, row_bytes: int) -> int:
    """Return the number of rows of a piece: a divisor of the shard's rows if one gives at most twice the pieces."""
    pieces = math.ceil(shard * row_bytes / PIECE_BYTES)
    even = next((n for n in range(pieces, min(2 * pieces, shard) + 1) if shard % n == 0), pieces)
    return math.ceil(shard / even)


def _aligned_empty(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """Return an empty array that starts at a cache line, which XLA takes without a copy."""
    size = math.prod(shape) * dtype.itemsize
    buffer = np.empty(size + _CACHE_LINE_BYTES, np.uint8)
    first = -buffer.ctypes.data % _CACHE_LINE_BYTES
    return buffer[first : first + size].view(dtype).reshape(shape)


def _copy(source: np.ndarray, target: np.ndarray) -> None:
    """Copy and cast. A transposed view is copied a few columns at a time, which fit into the cache."""
    if source.dtype == target.dtype and source.dtype.itemsize == 2:  # NumPy copies integers faster than bfloat16
        source, target = source.view(np.uint16), target.view(np.uint16)
    if source.ndim < 2 or source.flags.c_contiguous:
        target[...] = source
        return
    for first in range(0, source.shape[-1], _COLUMNS):
        target[..., first : first + _COLUMNS] = source[..., first : first + _COLUMNS]


class Journal:
    """The pieces written so far: one JSON line {"leaf", "start", "sums"} per piece, one file per process."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._lock = threading.Lock()
        own = folder / f"pieces-{jax.process_index()}.jsonl"
        write_atomically(own, "".join(json.dumps(record) + "\n" for record in _records(own)))
        self._file = own.open("a", encoding="utf-8")

    def done(self) -> dict[tuple[str, Start], list[int]]:
        """Return the checksums of all finished pieces of all processes."""
        records = itertools.chain.from_iterable(map(_records, sorted(self._folder.glob("pieces-*.jsonl"))))
        return {(record["leaf"], tuple(record["start"])): record["sums"] for record in records}

    def add(self, name: str, start: Start, sums: list[int]) -> None:
        """Record a piece that is on disk."""
        with self._lock:
            self._file.write(json.dumps({"leaf": name, "start": start, "sums": sums}) + "\n")
            self._file.flush()

    def close(self) -> None:
        self._file.close()


def _records(path: Path) -> list[dict[str, Any]]:
    """Return the records before the first corrupted or incomplete line; later pieces are written again."""
    records = []
    for line in path.read_bytes().split(b"\n")[:-1] if path.is_file() else ():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def write_arrays(folder: Path, leaves: Sequence[Leaf], files: WeightFiles, journal: Journal, title: str) -> None:
    """Write this process's share of the unfinished pieces into the Orbax checkpoint in `folder`.

    Raises:
        WorkdirError: The disk is full.
    """
    writer = _PieceHandler(leaves, files, journal, title)
    registry = type_handlers.create_type_handler_registry((Leaf, writer))
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=False, type_handler_registry=registry)
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handler.save(epath.Path(folder), args=ocp.args.PyTreeSave({leaf.name: leaf for leaf in leaves}))
        handler.finalize(epath.Path(folder))
        handler.close()


class _PieceHandler(type_handlers.NumpyHandler):
    """Orbax type handler that writes a `Leaf` piece by piece; Orbax reads the result as a NumPy array."""

    def __init__(self, leaves: Sequence[Leaf], files: WeightFiles, journal: Journal, title: str):
        super().__init__()
        self._files, self._journal, self._title = files, journal, title
        self._sums = StreamingDigest({leaf.name: leaf for leaf in leaves})

    async def serialize(self, values: Sequence[Leaf], infos: Sequence[Any], args: Any = None) -> Sequence[Any]:
        """Write all leaves before returning, so that no futures are left."""
        arrays = {leaf.name: _open_array(leaf, str(info.path)) for leaf, info in zip(values, infos, strict=True)}
        done = self._journal.done()
        pieces = [(leaf, start) for leaf in values for start in leaf.starts()]
        # The division must not depend on `done`, which grows while other processes write.
        share = pieces[jax.process_index() :: jax.process_count()]
        own = [(leaf, start) for leaf, start in share if (leaf.name, start) not in done]
        progress = ProgressReporter(f"{self._title}, pieces", 0, len(own))
        pool = concurrent.futures.ThreadPoolExecutor(_THREADS)
        try:
            futures = [pool.submit(self._write, arrays[leaf.name], leaf, start) for leaf, start in own]
            for number, future in enumerate(concurrent.futures.as_completed(futures)):
                future.result()
                progress.update(number + 1)
        finally:
            pool.shutdown(cancel_futures=True)
            progress.close()
        return []

    def _write(self, array: Any, leaf: Leaf, start: Start) -> None:
        values = leaf.read(self._files, start)
        sums = self._sums.sums_of_chunk(leaf.name, values, start)
        array[leaf.slices(start)].write(values, can_reference_source_data_indefinitely=True).result()
        self._journal.add(leaf.name, start, sums)


def _open_array(leaf: Leaf, path: str) -> Any:
    """Open a leaf's array in the checkpoint, creating it if needed."""
    stored = "bfloat16" if leaf.dtype.name == "bfloat16" else leaf.dtype.str
    layout = {"shape": leaf.shape, "chunks": leaf.chunk, "dtype": stored, "order": "C", "compressor": None,
              "fill_value": None, "filters": None, "dimension_separator": "."}  # fmt: skip
    spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": f"{path}/"}, "metadata": layout}
    return tensorstore.open({**spec, "store_data_equal_to_fill_value": True}, open=True, create=True).result()


def checkpoint_digest(leaves: Sequence[Leaf], journal: Journal) -> str:
    """Return the digest of the arrays, all of whose pieces are done."""
    done = journal.done()
    pieces = [(leaf.name, start) for leaf in leaves for start in leaf.starts()]
    assert len(done) == len(pieces), "the journal belongs to other pieces"
    return StreamingDigest({leaf.name: leaf for leaf in leaves}).digest(
        [(name, done[name, start]) for name, start in pieces]
    )
