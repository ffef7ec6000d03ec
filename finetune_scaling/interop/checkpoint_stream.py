"""Streaming of a public model's tensors into an Orbax checkpoint, piece by piece, so that memory stays bounded.

TensorStore writes the uncompressed files of a piece atomically. An interrupted import resumes with those that are
missing; it reads the other pieces for the digest of the arrays, but does not write them again.
"""

import concurrent.futures
import contextlib
import dataclasses
import itertools
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import type_handlers

from finetune_scaling.interop.families.family import Family, Tensor
from finetune_scaling.interop.hugging_face_model import leaf_shapes
from finetune_scaling.interop.weights.safetensors_reader import WeightFiles
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.runs.checkpoint_errors import storage_errors
from finetune_scaling.runs.checkpoints import digest_dtypes, stored_name
from finetune_scaling.runs.digest import StreamingDigest
from finetune_scaling.runs.metrics import ProgressReporter

PIECE_BYTES = 32 * 2**20  # upper bound of what one thread holds of a leaf
_THREADS = min(4, os.cpu_count() or 1)
_COLUMNS = 16  # columns of a transposed view copied at a time, about one cache line

Start = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One leaf of the parameter tree, to be read from the files piece by piece.

    Attributes:
        tensor: Its tensors in the files.
        name: Its name in the checkpoint.
        shape: Its shape.
        dtype: Its dtype in the checkpoint.
        chunk: Shape of its files in the checkpoint.
        rows: The axis that is axis 0 of the tensor in the files, along which slices of it can be read.
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

    def files(self, start: Start) -> list[str]:
        """Return the names of a piece's files, none of which holds elements of another piece."""
        parts = zip(self.slices(start), self.chunk, strict=True)
        numbers = (range(part.start // step, math.ceil(part.stop / step)) for part, step in parts)
        return [".".join(map(str, index)) for index in itertools.product(*numbers)]

    def read(self, files: WeightFiles, start: Start) -> np.ndarray:
        """Return a piece in the checkpoint's dtype."""
        slices = self.slices(start)
        values = np.empty([part.stop - part.start for part in slices], self.dtype)
        names = self.tensor.names(self.shape[0])
        targets, names = (values, names[slices[0]]) if self.tensor.stacked else ([values], names)
        for target, name in zip(targets, names, strict=True):
            _copy(self._read_rows(files, name, slices[self.rows]), target)
        return values

    def _read_rows(self, files: WeightFiles, name: str, rows: slice) -> np.ndarray:
        if self.tensor.fused is None:
            return self.tensor.from_file(files.read(name, rows))
        axis = self.rows - self.tensor.stacked  # the leaf's rows are spread over the file's rows
        return self.tensor.from_file(files.read(name))[(slice(None),) * axis + (rows,)]


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
        dtype: Dtype of the checkpoint; None keeps the dtype of the files.
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


def _copy(source: np.ndarray, target: np.ndarray) -> None:
    """Copy and cast. A transposed view is copied a few columns at a time, which fit into the cache."""
    if source.dtype == target.dtype and source.dtype.itemsize == 2:  # NumPy copies integers faster than bfloat16
        source, target = source.view(np.uint16), target.view(np.uint16)
    if source.ndim < 2 or source.flags.c_contiguous:
        target[...] = source
        return
    for first in range(0, source.shape[-1], _COLUMNS):
        target[..., first : first + _COLUMNS] = source[..., first : first + _COLUMNS]


def write_arrays(folder: Path, leaves: Sequence[Leaf], files: WeightFiles, title: str) -> dict[str, str]:
    """Write this process's share of the pieces into the Orbax checkpoint in `folder`.

    Returns:
        The digests of all arrays in the dtypes of `digest_dtypes`, after all processes have written their shares.

    Raises:
        WorkdirError: The disk is full.
    """
    creator = _ArrayCreator()
    dtypes = digest_dtypes({leaf.name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves})
    digests = [
        StreamingDigest({leaf.name: jax.ShapeDtypeStruct(leaf.shape, of[leaf.name]) for leaf in leaves})
        for of in dtypes.values()
    ]
    registry = type_handlers.create_type_handler_registry((Leaf, creator))
    pieces = [(leaf, start) for leaf in leaves for start in leaf.starts()]
    sums = np.zeros((len(pieces), len(digests), 4), np.uint32)  # 0 for pieces of other processes
    own = range(jax.process_index(), len(pieces), jax.process_count())

    def write(leaf: Leaf, start: Start) -> list[list[int]]:
        values = leaf.read(files, start)
        if not all((folder / leaf.name / file).exists() for file in leaf.files(start)):
            target = creator.arrays[leaf.name][leaf.slices(start)]
            target.write(values, can_reference_source_data_indefinitely=True).result()
        return [
            digest.sums_of_chunk(leaf.name, values.astype(of[leaf.name], copy=False), start)
            for digest, of in zip(digests, dtypes.values(), strict=True)
        ]

    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=False, type_handler_registry=registry)
    with storage_errors(folder), contextlib.closing(handler):
        folder.mkdir(parents=True, exist_ok=True)
        handler.save(epath.Path(folder), args=ocp.args.PyTreeSave({leaf.name: leaf for leaf in leaves}))
        for number, found in zip(own, _in_threads(write, [pieces[number] for number in own], title), strict=True):
            sums[number] = found
        handler.finalize(epath.Path(folder))
    total = multihost_utils.process_allgather(sums).reshape(-1, *sums.shape).sum(axis=0, dtype=np.uint32)
    return {
        key: digest.digest((leaf.name, found[number]) for (leaf, _), found in zip(pieces, total, strict=True))
        for number, (key, digest) in enumerate(zip(dtypes, digests, strict=True))
    }


def _in_threads(
    write: Callable[[Leaf, Start], list[list[int]]], pieces: Sequence[tuple[Leaf, Start]], title: str
) -> Iterator[list[list[int]]]:
    """Yield write(leaf, start) of all pieces in order, computed by a few threads."""
    progress = ProgressReporter(f"{title}, pieces", 0, len(pieces))
    pool = concurrent.futures.ThreadPoolExecutor(_THREADS)
    try:
        for number, sums in enumerate(pool.map(write, *zip(*pieces, strict=True))):
            yield sums
            progress.update(number + 1)
    finally:
        pool.shutdown(cancel_futures=True)
        progress.close()


class _ArrayCreator(type_handlers.NumpyHandler):
    """Orbax type handler that creates the array of each `Leaf`, without its values; Orbax reads it as a NumPy array."""

    def __init__(self) -> None:
        super().__init__()
        self.arrays: dict[str, Any] = {}

    async def serialize(self, values: Sequence[Leaf], infos: Sequence[Any], args: Any = None) -> Sequence[Any]:
        self.arrays = {leaf.name: _open_array(leaf, str(info.path)) for leaf, info in zip(values, infos, strict=True)}
        return []


def _open_array(leaf: Leaf, path: str) -> Any:
    """Open a leaf's array in the checkpoint, creating it if needed."""
    stored = "bfloat16" if leaf.dtype.name == "bfloat16" else leaf.dtype.str
    layout = {"shape": leaf.shape, "chunks": leaf.chunk, "dtype": stored, "order": "C", "compressor": None,
              "fill_value": None, "filters": None, "dimension_separator": "."}  # fmt: skip
    spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": f"{path}/"}, "metadata": layout}
    return tensorstore.open({**spec, "store_data_equal_to_fill_value": True}, open=True, create=True).result()
