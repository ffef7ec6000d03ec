"""Reader of a public model's safetensors files: tensors, or some of their rows.

Nothing is unpickled. The safetensors library validates the headers (length, overlaps, gaps, overflow). Tensors are read
rather than memory-mapped, which bounds memory to what is requested.
"""

import math
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from finetune_scaling.errors import CheckpointError
from finetune_scaling.files import read_json
from finetune_scaling.strict_json import parse_json

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"

_DTYPES = {"F32": np.dtype(np.float32), "BF16": np.dtype(ml_dtypes.bfloat16), "F16": np.dtype(np.float16)}
_LENGTH_BYTES = 8  # size of the field before the header that holds its length


class Entry(NamedTuple):
    """A tensor in a file: its shape, its dtype as in the header, and the offset of its first byte."""

    file: Path
    shape: tuple[int, ...]
    dtype: str
    start: int


class WeightFiles:
    """The tensors of a directory's safetensors files, by name; several threads may read them."""

    def __init__(self, directory: Path):
        """Read the headers. Raises CheckpointError where a file is missing or damaged."""
        self.directory = directory
        self.paths = weight_files(directory)
        self._entries: dict[str, Entry] = {}
        for file in self.paths:
            for name, entry in _header(file).items():
                if name in self._entries:
                    raise CheckpointError(
                        f"{file}: tensor {name} is also in {self.file(name).name}. Fix: copy the model's files again."
                    )
                self._entries[name] = entry

    @property
    def names(self) -> set[str]:
        """The names of all tensors."""
        return set(self._entries)

    def file(self, name: str) -> Path:
        """Return the file that holds a tensor."""
        return self._entries[name].file

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
        first, last, _ = rows.indices(entry.shape[0]) if entry.shape else (0, 1, 1)
        row_bytes = math.prod(entry.shape[1:]) * dtype.itemsize
        size = (last - first) * row_bytes
        data = np.fromfile(entry.file, np.uint8, size, offset=entry.start + first * row_bytes)
        if data.size < size:
            raise CheckpointError(f"{entry.file}: was truncated while being read. Fix: copy it again.")
        return data.view(dtype).reshape((last - first, *entry.shape[1:]) if entry.shape else ())


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
            fields = parse_json(opened.read(length).decode())  # a repeated name would hide another tensor
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{file}: not a valid safetensors file ({error}). Fix: copy it again.") from error
    return {
        name: Entry(file, tuple(entry["shape"]), entry["dtype"], _LENGTH_BYTES + length + entry["data_offsets"][0])
        for name, entry in fields.items()
        if name != "__metadata__"
    }
