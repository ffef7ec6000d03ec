"""The safetensors reader returns what was saved and rejects malformed headers before allocating memory."""

import json
import os
import struct

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from finetune_scaling.errors import CheckpointError
from finetune_scaling.interop.weights.safetensors_reader import WEIGHTS, WeightFiles


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_tensors_and_rows_are_read(tmp_path, dtype):
    rng = np.random.default_rng(0)
    saved = {name: rng.normal(size=shape).astype(dtype) for name, shape in (("a", (7, 5)), ("b", (4,)), ("c", ()))}
    save_file(saved, tmp_path / WEIGHTS)
    files = WeightFiles(tmp_path)
    assert files.names == saved.keys()
    for name, value in saved.items():
        np.testing.assert_array_equal(files.read(name), value)
        assert (files.read(name).dtype, files.shape(name)) == (value.dtype, value.shape)
    np.testing.assert_array_equal(files.read("a", slice(2, 6)), saved["a"][2:6])
    np.testing.assert_array_equal(files.read("a", slice(5, 99)), saved["a"][5:])


def tensor(first, last, shape=None, dtype="F32"):
    return {"dtype": dtype, "shape": [(last - first) // 4] if shape is None else shape, "data_offsets": [first, last]}


TWICE = json.dumps({"a": tensor(0, 64), "b": tensor(0, 64, [4, 4])}).replace('"b"', '"a"')
MALFORMED = {
    "header longer than the file": ({"a": tensor(0, 64)}, 2**62, "header too large"),
    "header of 200 MB": ({"a": tensor(0, 64)}, 200_000_000, "header too large"),
    "overlap": ({"a": tensor(0, 48), "b": tensor(16, 64)}, None, "invalid offset"),
    "gap": ({"a": tensor(0, 16), "b": tensor(32, 64)}, None, "invalid offset"),
    "overflowing shape": ({"a": tensor(0, 64, [2**40, 2**40])}, None, "overflow"),
    "shape beyond the data": ({"a": tensor(0, 64, [2**40])}, None, "invalid shape"),
    "negative shape": ({"a": tensor(0, 64, [-16])}, None, "invalid value"),
    "offsets beyond the file": ({"a": tensor(0, 128)}, None, "incomplete metadata"),
    "unknown dtype": ({"a": tensor(0, 64, [64], "I9")}, None, "unknown variant"),
    "name twice": (TWICE, None, "'a' occurs twice"),
    "not an object": ("[" * 100_000, None, "invalid JSON"),
    "not UTF-8": (b"\xff" * 30, None, "invalid UTF-8"),
}


@pytest.mark.parametrize(("header", "length", "message"), MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_header_is_rejected(tmp_path, header, length, message):
    data = header if isinstance(header, bytes) else (header if isinstance(header, str) else json.dumps(header)).encode()
    (tmp_path / WEIGHTS).write_bytes(struct.pack("<Q", len(data) if length is None else length) + data + bytes(64))
    with pytest.raises(CheckpointError, match=rf"{WEIGHTS}: .*{message}"):
        WeightFiles(tmp_path)


def test_tensor_in_two_files_is_rejected(tmp_path):
    for name in ("1.safetensors", "2.safetensors"):
        save_file({"a": np.zeros(3, np.float32)}, tmp_path / name)
    index = {"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"2.safetensors: tensor a .* 1.safetensors"):
        WeightFiles(tmp_path)


def test_file_truncated_while_reading(tmp_path):
    save_file({"a": np.zeros((100, 10), np.float32)}, tmp_path / WEIGHTS)
    files = WeightFiles(tmp_path)
    os.truncate(tmp_path / WEIGHTS, 1000)
    with pytest.raises(CheckpointError, match="truncated"):
        files.read("a")


def test_integer_tensor_is_rejected(tmp_path):
    save_file({"a": np.zeros(3, np.int8)}, tmp_path / WEIGHTS)
    with pytest.raises(CheckpointError, match="tensor a has dtype I8"):
        WeightFiles(tmp_path).read("a")
