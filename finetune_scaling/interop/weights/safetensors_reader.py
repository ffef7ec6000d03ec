"""Reader of a public model's safetensors files: tensors, or some of their rows.

Nothing is unpickled. The safetensors library validates the headers (length, overlaps, gaps, overflow). Tensors are read
rather than memory-mapped, which bounds memory to what is requested.
"""

import math
from collections.abc import Mapping
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
_OTHER_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf", "*.h5")
_LFS = b"version https://git-lfs"  # beginning of the pointer to a file that Git LFS did not fetch
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

    def rename(self, names: Mapping[str, str]) -> None:
        """Give tensors other names, by their names in the files. Raises CheckpointError where two get the same."""
        renamed: dict[str, Entry] = {}
        for name, entry in self._entries.items():
            if names.get(name, name) in renamed:
                raise CheckpointError(
                    f"{entry.file}: tensor {names.get(name, name)} is stored under two names, one of them {name}. Fix: "
                    "copy the model's files again."
                )
            renamed[names.get(name, name)] = entry
        self._entries = renamed

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
        """Return a tensor, or some rows of its first axis.

        Raises as `dtype` does, and CheckpointError where a value is not finite.
        """
        entry, dtype = self._entries[name], self.dtype(name)
        first, last, _ = rows.indices(entry.shape[0]) if entry.shape else (0, 1, 1)
        row_bytes = math.prod(entry.shape[1:]) * dtype.itemsize
        size = (last - first) * row_bytes
        data = np.fromfile(entry.file, np.uint8, size, offset=entry.start + first * row_bytes)
        if data.size < size:
            raise CheckpointError(f"{entry.file}: was truncated while being read. Fix: copy it again.")
        values = data.view(dtype)
        if not np.isfinite(values).all():
            raise CheckpointError(
                f"{entry.file}: tensor {name} has values that are not finite (NaN or infinity). Fix: copy the file "
                "again; if it is the same, the model itself is damaged."
            )
        return values.reshape((last - first, *entry.shape[1:]) if entry.shape else ())


def weight_files(directory: Path) -> list[Path]:
    """Return a model's safetensors files: one file before an index, as in transformers.

    Raises CheckpointError where one is missing or there are none.
    """
    if (directory / WEIGHTS).is_file():
        return [directory / WEIGHTS]
    index = directory / INDEX
    if index.is_file():
        files = [directory / name for name in indexed_files(index)]
        if missing := [file for file in files if not file.is_file()]:
            raise CheckpointError(f"{missing[0]}: no such file, although {INDEX} names it. Fix: copy it too.")
        return files
    others = sorted(file.name for pattern in _OTHER_WEIGHTS for file in directory.glob(pattern))
    raise CheckpointError(
        f"{directory}: has no {WEIGHTS} and no {INDEX}"
        + (f", but {', '.join(others[:3])}" if others else "")
        + ". Fix: save the model as safetensors, with transformers: "
        f"AutoModelForCausalLM.from_pretrained({str(directory)!r}, dtype='auto').save_pretrained(DIR), where a variant "
        "such as model.fp16.safetensors needs variant='fp16'. Pickled weights (.bin, .pt) are not read here, because "
        "unpickling executes code."
    )


def indexed_files(index: Path) -> list[str]:
    """Return the names of the files in an index, at least one; each is inside of the index's directory."""
    content = read_json(index, fix="copy it again")
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    names = list(weight_map.values()) if isinstance(weight_map, dict) else []
    if not names or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{index}: has no weight_map with file names. Fix: copy it again.")
    if outside := [name for name in names if Path(name).is_absolute() or ".." in Path(name).parts]:
        raise CheckpointError(f"{index}: {outside[0]} is not a file of the model's directory. Fix: copy it again.")
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
        if _is_lfs_pointer(file):
            raise CheckpointError(
                f"{file}: is a pointer of Git LFS. Fix: fetch the file with `git lfs pull`."
            ) from error
        raise CheckpointError(f"{file}: not a valid safetensors file ({error}). Fix: copy it again.") from error
    return {
        name: Entry(file, tuple(entry["shape"]), entry["dtype"], _LENGTH_BYTES + length + entry["data_offsets"][0])
        for name, entry in fields.items()
        if name != "__metadata__"
    }


def _is_lfs_pointer(file: Path) -> bool:
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        return opened.read(len(_LFS)) == _LFS
