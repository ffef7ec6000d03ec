"""The safetensors files of a public model: what is in them, told from their headers, and tensors or some of their rows.

Nothing is unpickled. Headers are checked by the safetensors library, which takes none that is longer than the file,
overlaps, leaves gaps or overflows. Numbers are read, and not mapped into memory, so that no more is held than is asked
for, and several threads can read at once.
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
_LENGTH_BYTES = 8  # of the header's length, in front of it


class Entry(NamedTuple):
    """A tensor in a file: its shape, its dtype's name as the header has it, and where its first byte is."""

    file: str
    shape: tuple[int, ...]
    kind: str
    start: int


class WeightFiles:
    """The tensors of a directory, by name."""

    def __init__(self, directory: Path, entries: Mapping[str, Entry], opened: Mapping[str, int]):
        self.directory = directory
        self._entries = entries
        self._opened = opened  # file descriptors
        self.names = set(entries)

    @classmethod
    @contextlib.contextmanager
    def open(cls, directory: Path) -> Iterator["WeightFiles"]:
        """Opens all files, of which nothing but the headers is read. Raises CheckpointError where one is not whole."""
        files = weight_files(directory)
        entries: dict[str, Entry] = {}
        for file in files:
            for name, entry in _header(file).items():
                if name in entries:
                    raise CheckpointError(
                        f"{file}: tensor {name} is in {entries[name].file}, too; copy the model's own files again"
                    )
                entries[name] = entry
        with contextlib.ExitStack() as stack:
            opened = {}
            for file in files:
                opened[file.name] = os.open(file, os.O_RDONLY)
                stack.callback(os.close, opened[file.name])
            yield cls(directory, entries, opened)

    def where(self, name: str) -> Path:
        """The file that holds a tensor."""
        return self.directory / self._entries[name].file

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape."""
        return self._entries[name].shape

    def dtype(self, name: str) -> np.dtype:
        """A tensor's dtype. Raises CheckpointError where it is none of plain floating-point numbers."""
        kind = self._entries[name].kind
        if kind not in _DTYPES:
            raise CheckpointError(
                f"{self.where(name)}: tensor {name} holds {kind}, not numbers of float32, bfloat16 or float16; "
                "quantised weights are not read"
            )
        return _DTYPES[kind]

    def read(self, name: str, rows: slice = slice(None)) -> np.ndarray:
        """A tensor as it is in its file, or some of the rows along its first axis; raises as `dtype` does."""
        entry, dtype = self._entries[name], self.dtype(name)
        if not entry.shape:
            return self._bytes(entry, 0, dtype.itemsize).view(dtype).reshape(())
        first, last, _ = rows.indices(entry.shape[0])
        row = math.prod(entry.shape[1:]) * dtype.itemsize
        return self._bytes(entry, first * row, last * row).view(dtype).reshape(last - first, *entry.shape[1:])

    def _bytes(self, entry: Entry, first: int, last: int) -> np.ndarray:
        """Bytes first..last of a tensor, uint8[n]."""
        data = np.empty(last - first, np.uint8)
        done = 0
        while done < len(data):  # one call of the system's reads 2 GiB at most
            count = os.preadv(self._opened[entry.file], [data[done:].data], entry.start + first + done)
            if not count:
                raise CheckpointError(f"{self.directory / entry.file}: became shorter while it was read; copy it again")
            done += count
        return data


def weight_files(directory: Path) -> list[Path]:
    """A model's files of weights, all there. Raises CheckpointError where one is missing, or only others are there."""
    index = directory / INDEX
    if index.is_file():
        files = [directory / Path(name).name for name in indexed_files(index)]
        if missing := [file for file in files if not file.is_file()]:
            raise CheckpointError(f"{missing[0]}: {INDEX} names this file, but it is not there; copy it too")
        return files
    if (directory / WEIGHTS).is_file():
        return [directory / WEIGHTS]
    raise CheckpointError(
        f"{directory}: has no {WEIGHTS} and no {INDEX}. Pickled weights (.bin, .pt) are not read, since to open them "
        "is to run what they say: save the model as safetensors"
    )


def indexed_files(index: Path) -> list[str]:
    """The files that an index names, at least one."""
    content = read_json(index, mend="copy it again")
    places = content.get("weight_map") if isinstance(content, dict) else None
    names = list(places.values()) if isinstance(places, dict) else []
    if not names or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{index}: names no files; copy it again")
    return sorted(set(names))


def _header(file: Path) -> dict[str, Entry]:
    """A file's tensors; all that could be wrong with them is found by the library that opens it."""
    try:
        with safe_open(file, framework="np"):
            pass
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(_LENGTH_BYTES), "little")
            fields = json.loads(opened.read(length), object_pairs_hook=_without_repetition)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{file}: not a whole safetensors file ({error}); copy it again") from error
    return {
        name: Entry(file.name, tuple(one["shape"]), one["dtype"], _LENGTH_BYTES + length + one["data_offsets"][0])
        for name, one in fields.items()
        if name != "__metadata__"
    }


def _without_repetition(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)} is there twice")
    return fields
