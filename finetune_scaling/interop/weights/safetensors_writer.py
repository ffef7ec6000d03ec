"""Writer of safetensors files, tensor by tensor in any order, so that only one tensor is in memory.

The format (https://huggingface.co/docs/safetensors): the header's length, a JSON header with the dtype, shape and
offsets of every tensor, then the tensors without gaps. The header depends on shapes only, so it is written first.
"""

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"

DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


class TensorSpec(NamedTuple):
    """Shape of a tensor and the name of its dtype, one of DTYPES."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * (4 if self.dtype == "float32" else 2)


class TensorFiles:
    """Files that are open for writing."""

    def __init__(self, files: Mapping[str, BinaryIO], tensors: Mapping[str, TensorSpec], offsets: Mapping[str, int]):
        self._files, self._tensors, self._offsets = files, tensors, offsets
        self._missing = set(tensors)

    def write(self, name: str, value: np.ndarray) -> None:
        """Write a tensor of the declared shape and dtype; each is written once."""
        assert TensorSpec(value.shape, str(value.dtype)) == self._tensors[name], name
        self._missing.remove(name)
        file = self._files[name]
        file.seek(self._offsets[name])
        file.write(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)

    def check_complete(self) -> None:
        """Assert that every tensor was written; a missing one would read as zeros."""
        assert not self._missing, sorted(self._missing)


@contextlib.contextmanager
def open_model_files(directory: Path, tensors: Mapping[str, TensorSpec], limit: int) -> Iterator[TensorFiles]:
    """Open a model's files for writing: model.safetensors, or shards of at most `limit` bytes with their index.

    A tensor above the limit has its own shard. The files are complete and synced to disk when the block ends.
    """
    shards = _shards(tensors, limit)
    names = [WEIGHTS] if len(shards) == 1 else [_name(i, len(shards)) for i in range(len(shards))]
    if len(shards) > 1:
        _write_index(directory / INDEX, dict(zip(names, shards, strict=True)))
    with open_files({directory / name: shard for name, shard in zip(names, shards, strict=True)}) as files:
        yield files


@contextlib.contextmanager
def open_files(shards: Mapping[Path, Mapping[str, TensorSpec]]) -> Iterator[TensorFiles]:
    """Open files for writing, each with the tensors that it will hold; sync them to disk when the block ends."""
    with contextlib.ExitStack() as stack:
        files: dict[str, BinaryIO] = {}
        tensors: dict[str, TensorSpec] = {}
        offsets: dict[str, int] = {}
        opened = []
        for path, shard in shards.items():
            file = stack.enter_context(path.open("wb"))
            opened.append(file)
            header, starts = _header(shard)
            file.write(header)
            offsets |= {name: len(header) + start for name, start in starts.items()}
            files |= dict.fromkeys(shard, file)
            tensors |= shard
        writer = TensorFiles(files, tensors, offsets)
        yield writer
        writer.check_complete()
        for file in opened:
            file.flush()
            os.fsync(file.fileno())


def _header(shard: Mapping[str, TensorSpec]) -> tuple[bytes, dict[str, int]]:
    """Return the bytes before the tensors, and the offset of each tensor after them."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}  # transformers requires it
    starts, end = {}, 0
    for name, tensor in shard.items():
        starts[name], end = end, end + tensor.bytes
        entries[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [starts[name], end],
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # aligns the tensors to 8 bytes
    return len(text).to_bytes(8, "little") + text, starts


def _shards(tensors: Mapping[str, TensorSpec], limit: int) -> list[dict[str, TensorSpec]]:
    """Split tensors, in order, into shards of at most `limit` bytes; float32 comes first, for alignment."""
    shards: list[dict[str, TensorSpec]] = [{}]
    total = 0
    for name, tensor in tensors.items():
        if shards[-1] and total + tensor.bytes > limit:
            shards.append({})
            total = 0
        shards[-1][name] = tensor
        total += tensor.bytes
    return [dict(sorted(shard.items(), key=lambda entry: entry[1].dtype != "float32")) for shard in shards]


def _name(index: int, of: int) -> str:
    return f"model-{index + 1:05d}-of-{of:05d}.safetensors"


def _write_index(path: Path, shards: Mapping[str, Mapping[str, TensorSpec]]) -> None:
    total = sum(tensor.bytes for shard in shards.values() for tensor in shard.values())
    weight_map = {name: file for file, shard in shards.items() for name in shard}
    content = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
