"""Reader of a public model's safetensors files: tensors, or some of their rows.

Nothing is unpickled. The safetensors library validates the headers (length, overlaps, gaps, overflow). Tensors are read
rather than memory-mapped, which bounds memory to what is requested and lets several threads read.
"""

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from finetune_scaling.errors import CheckpointError
from finetune_scaling.files import read_json

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"

_DTYPES = {"F32": np.dtype(np.float32), "BF16": np.dtype(ml_dtypes.bfloat16), "F16": np.dtype(np.float16)}
_LENGTH_BYTES = 8  # size of the field before the header that holds its length


class Entry(NamedTuple):
    """A tensor in a file: its shape, its dtype as in the header, and the offset of its first byte."""

    file: str
    shape: tuple[int, ...]
    dtype: str
    start: int


class WeightFiles:
    """The tensors of a directory's safetensors files, by name."""

    def __init__(self, directory: Path, entries: Mapping[str, Entry], opened: Mapping[str, int]):
        self.directory = directory
        self._entries = entries
        self._opened = opened  # file descriptors
        self.names = set(entries)

    @classmethod
    @contextlib.contextmanager
    def open(cls, directory: Path) -> Iterator["WeightFiles"]:
        """Open all files and read their headers. Raises CheckpointError where one is damaged."""
        files = weight_files(directory)
        entries: dict[str, Entry] = {}
        for file in files:
            for name, entry in _header(file).items():
                if name in entries:
                    raise CheckpointError(
                        f"{file}: tensor {name} is also in {entries[name].file}. Fix: copy the model's files again."
                    )
                entries[name] = entry
        with contextlib.ExitStack() as stack:
            opened = {}
            for file in files:
                opened[file.name] = os.open(file, os.O_RDONLY)
                stack.callback(os.close, opened[file.name])
            yield cls(directory, entries, opened)

    def file(self, name: str) -> Path:
        """Return the file that holds a tensor."""
        return self.directory / self._entries[name].file

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape."""
        return self._entries[name].shape

    def dtype(self, name: str) -> np.dtype:
        """Return a tensor's dtype. Raises CheckpointError where it is not float32, bfloat16 or float16."""
        dtype = self._entries[name].dtype
        if dtype not in _DTYPES:
            raise CheckpointError(
                f"{self.file(name)}: tensor {name} has dtype {dtype}, not float32, bfloat16 or float16. Fix: save "
                "the model without quantization."
            )
        return _DTYPES[dtype]

    def read(self, name: str, rows: slice = slice(None)) -> np.ndarray:
        """Return a tensor, or some rows of its first axis; raises as `dtype` does."""
        entry, dtype = self._entries[name], self.dtype(name)
        if not entry.shape:
            return self._bytes(entry, 0, dtype.itemsize).view(dtype).reshape(())
        first, last, _ = rows.indices(entry.shape[0])
        row = math.prod(entry.shape[1:]) * dtype.itemsize
        return self._bytes(entry, first * row, last * row).view(dtype).reshape(last - first, *entry.shape[1:])

    def _bytes(self, entry: Entry, first: int, last: int) -> np.ndarray:
        """Read bytes first..last of a tensor, uint8[n]."""
        data = np.empty(last - first, np.uint8)
        done = 0
        while done < len(data):  # one system call reads at most 2 GiB
            count = os.preadv(self._opened[entry.file], [data[done:].data], entry.start + first + done)
            if not count:
                raise CheckpointError(
                    f"{self.directory / entry.file}: was truncated while being read. Fix: copy it again."
                )
            done += count
        return data


def weight_files(directory: Path) -> list[Path]:
    """Return a model's safetensors files. Raises CheckpointError where one is missing or there are none."""
    index = directory / INDEX
    if index.is_file():
        files = [directory / Path(name).name for name in indexed_files(index)]
        if missing := [file for file in files if not file.is_file()]:
            raise CheckpointError(f"{missing[0]}: no such file, although {INDEX} names it. Fix: copy it too.")
        return files
    if (directory / WEIGHTS).is_file():
        return [directory / WEIGHTS]
    raise CheckpointError(
        f"{directory}: has no {WEIGHTS} and no {INDEX}. Fix: save the model as safetensors. Pickled weights (.bin, "
        ".pt) are not read, because unpickling executes code."
    )


def indexed_files(index: Path) -> list[str]:
    """Return the names of the files in an index, at least one."""
    content = read_json(index, fix="copy it again")
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    names = list(weight_map.values()) if isinstance(weight_map, dict) else []
    if not names or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{index}: has no weight_map with file names. Fix: copy it again.")
    return sorted(set(names))


def _header(file: Path) -> dict[str, Entry]:
    """Return a file's tensors, validated by the safetensors library."""
    try:
        with safe_open(file, framework="np"):
            pass
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(_LENGTH_BYTES), "little")
            fields = json.loads(opened.read(length), object_pairs_hook=_unique_fields)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{file}: not a valid safetensors file ({error}). Fix: copy it again.") from error
    return {
        name: Entry(file.name, tuple(entry["shape"]), entry["dtype"], _LENGTH_BYTES + length + entry["data_offsets"][0])
        for name, entry in fields.items()
        if name != "__metadata__"
    }


def _unique_fields(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)} occurs twice")
    return fields
