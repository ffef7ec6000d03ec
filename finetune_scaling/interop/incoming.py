"""A public model's tensors into an Orbax checkpoint, piece by piece: no leaf is ever in memory as a whole.

Every piece is a file of its own, written atomically and without compression. A journal beside them says which are done,
with the sums that the checkpoint's digest is made of; a conversion that was stopped goes on after them.
"""

import concurrent.futures
import dataclasses
import itertools
import json
import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore
from etils import epath
from orbax.checkpoint import type_handlers

from finetune_scaling.files import write_atomically
from finetune_scaling.interop.families.family import LAYER, Family, Tensor
from finetune_scaling.interop.hugging_face import leaf_shapes, tensor_names
from finetune_scaling.interop.weights.files import WeightFiles
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.runs.checkpoint_errors import storage_errors
from finetune_scaling.runs.checkpoints import stored_name
from finetune_scaling.runs.digest import StreamingDigest
from finetune_scaling.runs.metrics import ProgressReporter
from finetune_scaling.sharding.roles import alone

PIECE_BYTES = 32 * 2**20  # at most, of what one thread holds of a leaf
_THREADS = min(4, os.cpu_count() or 1)
_COLUMNS = 16  # so many at a time are transposed: as many as a line of the processor's cache takes

Start = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One leaf of our tree that is yet in their files.

    name: in the checkpoint; shape, dtype: as it is stored; chunk: the shape of its files; rows: the axis of ours along
    which a part of theirs can be read by itself, the first axis of theirs; piece: how far a piece reaches along the
    axes, the layers' (where there are some) and `rows` cut, all others whole.
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
        """Its numbers."""
        return math.prod(self.shape)

    @property
    def stacked(self) -> bool:
        """Whether the first axis is that of the layers."""
        return LAYER in self.tensor.theirs

    def starts(self) -> Iterator[Start]:
        """Where each piece begins."""
        yield from itertools.product(*(range(0, size, step) for size, step in zip(self.shape, self.piece, strict=True)))

    def box(self, start: Start) -> tuple[slice, ...]:
        """The piece that begins at `start`."""
        ends = (min(s + step, size) for s, step, size in zip(start, self.piece, self.shape, strict=True))
        return tuple(slice(first, last) for first, last in zip(start, ends, strict=True))

    def read(self, files: WeightFiles, start: Start) -> np.ndarray:
        """A piece, as it is stored."""
        box = self.box(start)
        values = _aligned([part.stop - part.start for part in box], self.dtype)
        rows = box[self.rows]
        if not self.stacked:
            self._fill(values, files, self.tensor.theirs, rows)
            return values
        names = tensor_names(self.tensor, self.shape[0])[box[0]]
        for layer, name in zip(values, names, strict=True):
            self._fill(layer, files, name, rows)
        return values

    def _fill(self, values: np.ndarray, files: WeightFiles, name: str, rows: slice) -> None:
        if self.tensor.part is None:
            ours = self.tensor.to_ours(files.read(name, rows))
        else:  # its rows are spread over theirs
            ours = self.tensor.to_ours(files.read(name))
            axis = self.rows - self.stacked
            ours = ours[(slice(None),) * axis + (rows,)]
        _copy(ours, values)


def leaves_of(
    files: WeightFiles,
    family: Family,
    config: ModelConfig,
    dtype: str | None,
    shards: Callable[[Mapping[str, Any]], Mapping[str, tuple[int, ...]]],
) -> list[Leaf]:
    """All leaves of a model in checked files. shards: from leaves by path to the shape that a device will hold of each,
    along which files are cut, so that each device reads its own.
    """
    shapes = leaf_shapes(config)
    table = {tensor.ours: tensor for tensor in family.tensors(config)}
    held = shards(shapes)
    return [_leaf(files, table[path], path, shapes[path].shape, held[path], dtype) for path in sorted(shapes)]


def _leaf(
    files: WeightFiles, tensor: Tensor, path: str, shape: tuple[int, ...], shard: tuple[int, ...], dtype: str | None
) -> Leaf:
    stacked = LAYER in tensor.theirs
    stored = np.dtype(dtype) if dtype else files.dtype(tensor_names(tensor, shape[0])[0])
    rows = len(shape) - 1 if tensor.transposed else int(stacked)
    row_bytes = math.prod(shape[stacked:]) // shape[rows] * stored.itemsize
    count = _rows_of_piece(shard[rows], row_bytes)
    layers = max(1, PIECE_BYTES // (row_bytes * shape[rows])) if stacked else 1
    cut = {rows: count} | ({0: min(layers, shape[0])} if stacked else {})
    piece = tuple(cut.get(axis, size) for axis, size in enumerate(shape))
    chunk = tuple(cut.get(axis, size) for axis, size in enumerate(shard))
    return Leaf(tensor, stored_name("trainable/" + path), shape, stored, chunk, rows, piece)


def _rows_of_piece(shard: int, row_bytes: int) -> int:
    """As many rows as make a piece; a divisor of the shard's where there is one near."""
    pieces = math.ceil(shard * row_bytes / PIECE_BYTES)
    even = next((n for n in range(pieces, min(2 * pieces, shard) + 1) if shard % n == 0), pieces)
    return math.ceil(shard / even)


def _aligned(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """An empty array that XLA takes as it is, without a copy: it begins at a line of the cache."""
    size = math.prod(shape) * dtype.itemsize
    room = np.empty(size + 64, np.uint8)
    first = -room.ctypes.data % 64
    return room[first : first + size].view(dtype).reshape(shape)


def _copy(source: np.ndarray, target: np.ndarray) -> None:
    """Copies into the dtype of `target`. Columns of a transposed view go a few at a time, which the cache can hold."""
    if source.dtype == target.dtype and source.dtype.itemsize == 2:  # as plain numbers, which NumPy copies fast
        source, target = source.view(np.uint16), target.view(np.uint16)
    if source.ndim < 2 or source.flags.c_contiguous:
        target[...] = source
        return
    for first in range(0, source.shape[-1], _COLUMNS):
        target[..., first : first + _COLUMNS] = source[..., first : first + _COLUMNS]


class Journal:
    """What was written so far: a line a piece, {"leaf", "start", "sums"}; each process that works along has its own."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._own = folder / f"pieces-{jax.process_index()}.jsonl"
        self._lock = threading.Lock()
        records = [*_records(self._own)]
        _write_here(self._own, "".join(json.dumps(record) + "\n" for record in records))  # no half line
        self._file = self._own.open("a", encoding="utf-8")

    def done(self) -> dict[tuple[str, Start], list[int]]:
        """The sums of all pieces that are done, by all processes."""
        records = itertools.chain.from_iterable(map(_records, sorted(self._folder.glob("pieces-*.jsonl"))))
        return {(record["leaf"], tuple(record["start"])): record["sums"] for record in records}

    def add(self, name: str, start: Start, sums: list[int]) -> None:
        """Notes a piece that is on the disk."""
        with self._lock:
            self._file.write(json.dumps({"leaf": name, "start": start, "sums": sums}) + "\n")
            self._file.flush()

    def close(self) -> None:
        self._file.close()


def _records(path: Path) -> Iterator[dict[str, Any]]:
    """Those of whole lines, up to the first that a power cut left garbled: what is not told is written again."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    for line in lines:
        try:
            yield json.loads(line)
        except ValueError:
            return


def _write_here(path: Path, text: str) -> None:
    """As write_atomically, on every one of several processes."""
    with alone():
        write_atomically(path, text)


def write_state(folder: Path, leaves: Sequence[Leaf], files: WeightFiles, journal: Journal, title: str) -> None:
    """Writes an Orbax checkpoint's arrays into `folder`: this process's share of the pieces that are not done.

    Raises WorkdirError where the disk is full.
    """
    writer = _Writer(leaves, files, journal, title)
    registry = type_handlers.create_type_handler_registry((Leaf, writer))
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=False, type_handler_registry=registry)
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handler.save(epath.Path(folder), args=ocp.args.PyTreeSave({leaf.name: leaf for leaf in leaves}))
        handler.finalize(epath.Path(folder))
        handler.close()


class _Writer(type_handlers.NumpyHandler):
    """Orbax's way to have leaves written that are no arrays; what it writes is read as NumPy arrays are."""

    def __init__(self, leaves: Sequence[Leaf], files: WeightFiles, journal: Journal, title: str):
        super().__init__()
        self._leaves, self._files, self._journal, self._title = leaves, files, journal, title
        self._sums = StreamingDigest({leaf.name: leaf for leaf in leaves})

    async def serialize(self, values: Sequence[Leaf], infos: Sequence[Any], args: Any = None) -> Sequence[Any]:
        """Writes all leaves before it returns, so that nothing is left to wait for."""
        arrays = {leaf.name: _open(leaf, str(info.path)) for leaf, info in zip(values, infos, strict=True)}
        done = self._journal.done()
        pieces = [(leaf, start) for leaf in values for start in leaf.starts() if (leaf.name, start) not in done]
        mine = pieces[jax.process_index() :: jax.process_count()]
        progress = ProgressReporter(f"{self._title}, pieces", 0, len(mine))
        pool = concurrent.futures.ThreadPoolExecutor(_THREADS)
        try:
            futures = [pool.submit(self._write, arrays[leaf.name], leaf, start) for leaf, start in mine]
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
        array[leaf.box(start)].write(values, can_reference_source_data_indefinitely=True).result()
        self._journal.add(leaf.name, start, sums)


def _open(leaf: Leaf, path: str) -> Any:
    """The array's place on the disk, made where it is not there yet."""
    stored = "bfloat16" if leaf.dtype.name == "bfloat16" else leaf.dtype.str
    layout = {"shape": leaf.shape, "chunks": leaf.chunk, "dtype": stored, "order": "C", "compressor": None,
              "fill_value": None, "filters": None, "dimension_separator": "."}  # fmt: skip
    spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": f"{path}/"}, "metadata": layout}
    return tensorstore.open({**spec, "store_data_equal_to_fill_value": True}, open=True, create=True).result()


def digest_of(leaves: Sequence[Leaf], journal: Journal) -> str:
    """The digest of the arrays, all of whose pieces are done."""
    done = journal.done()
    wanted = [(leaf.name, start) for leaf in leaves for start in leaf.starts()]
    assert len(done) == len(wanted)  # a journal is of one division into pieces
    return StreamingDigest({leaf.name: leaf for leaf in leaves}).digest(
        [(name, done[name, start]) for name, start in wanted]
    )
