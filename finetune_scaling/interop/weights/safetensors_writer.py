"""Writer of a model's safetensors files, tensor by tensor, so that only one tensor is in memory.

The format (https://huggingface.co/docs/safetensors): the header's length, a JSON header with the dtype, shape and
offsets of every tensor, then the tensors without gaps. The header depends on shapes only, so it is written first.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from finetune_scaling.files import write_json_atomically
from finetune_scaling.interop.weights.safetensors_reader import INDEX, WEIGHTS

DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


class TensorSpec(NamedTuple):
    """Shape of a tensor and the name of its dtype, one of DTYPES."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * (4 if self.dtype == "float32" else 2)


def write_tensors(
    directory: Path, specs: Mapping[str, TensorSpec], tensors: Iterator[tuple[str, np.ndarray]], limit: int
) -> None:
    """Write model.safetensors, or shards of at most `limit` bytes with their index, and sync them to disk.

    Args:
        directory: The model's directory.
        specs: What `tensors` will yield, by name; float32 comes first, which aligns all tensors.
        tensors: The names and values of all tensors, in the order of `specs`.
        limit: Bytes of a shard; a tensor above the limit has its own.
    """
    shards = _shards(specs, limit)
    names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    if len(shards) == 1:
        names = [WEIGHTS]
    else:
        weight_map = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        total = sum(spec.bytes for spec in specs.values())
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        write_json_atomically(directory / INDEX, index)
    for name, shard in zip(names, shards, strict=True):
        with (directory / name).open("wb") as file:
            file.write(_header(shard))
            for expected in shard.items():
                tensor, value = next(tensors)
                assert (tensor, TensorSpec(value.shape, str(value.dtype))) == expected, (tensor, expected)
                file.write(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
            file.flush()
            os.fsync(file.fileno())
    assert next(tensors, None) is None, "more tensors than specs"


def _header(shard: Mapping[str, TensorSpec]) -> bytes:
    """Return the bytes before the tensors."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}  # transformers requires it
    end = 0
    for name, spec in shard.items():
        start, end = end, end + spec.bytes
        entries[name] = {"dtype": DTYPES[spec.dtype], "shape": list(spec.shape), "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # aligns the tensors to 8 bytes
    return len(text).to_bytes(8, "little") + text


def _shards(specs: Mapping[str, TensorSpec], limit: int) -> list[dict[str, TensorSpec]]:
    """Split tensors, in order, into shards of at most `limit` bytes."""
    shards: list[dict[str, TensorSpec]] = [{}]
    total = 0
    for name, spec in specs.items():
        if shards[-1] and total + spec.bytes > limit:
            shards.append({})
            total = 0
        shards[-1][name] = spec
        total += spec.bytes
    return shards
