"""Safetensors files, written tensor by tensor in any order: no more than one tensor is ever in memory.

The format (https://huggingface.co/docs/safetensors): the length of a header, a JSON header with every tensor's dtype,
shape and place, then the tensors without gaps. All of it but the tensors is known from shapes, so it goes first.
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


class Shape(NamedTuple):
    """Of a tensor that is to be written: its shape, and its dtype's name, one of DTYPES."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int:
        """Its size."""
        return math.prod(self.shape) * (4 if self.dtype == "float32" else 2)


class TensorFiles:
    """Files that are being written."""

    def __init__(self, files: Mapping[str, BinaryIO], tensors: Mapping[str, Shape], offsets: Mapping[str, int]):
        self._files, self._tensors, self._offsets = files, tensors, offsets
        self._left = set(tensors)

    def write(self, name: str, value: np.ndarray) -> None:
        """Puts a tensor, which must have the shape and dtype that were told, at its place; each comes once."""
        assert Shape(value.shape, str(value.dtype)) == self._tensors[name], name
        self._left.remove(name)
        file = self._files[name]
        file.seek(self._offsets[name])
        file.write(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)

    def check_whole(self) -> None:
        """That nothing was forgotten, which would be zeros."""
        assert not self._left, sorted(self._left)


@contextlib.contextmanager
def written(directory: Path, tensors: Mapping[str, Shape], limit: int) -> Iterator[TensorFiles]:
    """Opens the files of a model for writing, on the disk and whole when the block ends: model.safetensors, or several
    of at most `limit` bytes (a larger tensor has a file of its own) with their index."""
    shards = _shards(tensors, limit)
    names = [WEIGHTS] if len(shards) == 1 else [_name(i, len(shards)) for i in range(len(shards))]
    if len(shards) > 1:
        _write_index(directory / INDEX, dict(zip(names, shards, strict=True)))
    with open_files({directory / name: shard for name, shard in zip(names, shards, strict=True)}) as files:
        yield files


@contextlib.contextmanager
def open_files(shards: Mapping[Path, Mapping[str, Shape]]) -> Iterator[TensorFiles]:
    """Opens files, each with its tensors, for writing."""
    with contextlib.ExitStack() as stack:
        files: dict[str, BinaryIO] = {}
        tensors: dict[str, Shape] = {}
        offsets: dict[str, int] = {}
        opened = []
        for path, shard in shards.items():
            file = stack.enter_context(path.open("wb"))
            opened.append(file)
            header, places = _header(shard)
            file.write(header)
            offsets |= {name: len(header) + place for name, place in places.items()}
            files |= dict.fromkeys(shard, file)
            tensors |= shard
        writer = TensorFiles(files, tensors, offsets)
        yield writer
        writer.check_whole()
        for file in opened:
            file.flush()
            os.fsync(file.fileno())


def _header(shard: Mapping[str, Shape]) -> tuple[bytes, dict[str, int]]:
    """The bytes before the tensors, and where each begins after them."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}  # transformers asks for it
    places, end = {}, 0
    for name, tensor in shard.items():
        places[name], end = end, end + tensor.bytes
        entries[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [places[name], end],
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at multiples of 8
    return len(text).to_bytes(8, "little") + text, places


def _shards(tensors: Mapping[str, Shape], limit: int) -> list[dict[str, Shape]]:
    """The tensors in files of at most `limit` bytes, in their order; within a file wide dtypes first, for alignment."""
    shards: list[dict[str, Shape]] = [{}]
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


def _write_index(path: Path, shards: Mapping[str, Mapping[str, Shape]]) -> None:
    total = sum(tensor.bytes for shard in shards.values() for tensor in shard.values())
    places = {name: file for file, shard in shards.items() for name in shard}
    content = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
