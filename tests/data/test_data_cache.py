"""The data cache: entries are computed once, checked when they are read, and never needed."""

import json
import logging
import threading

import numpy as np
import pytest

from finetune_scaling.data import data_cache
from finetune_scaling.data.data_cache import CACHE_VARIABLE, Entry, cache_directory, cached

KEY = {"digest": "sha256:1", "limits": (3, 4)}


class Computation:
    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return Entry({"names": ["a"]}, {"few": np.arange(3), "many": np.arange(20_000), "none": np.zeros(0, np.int32)})

    def get(self, key=KEY):
        entry = cached("kind", key, self)
        assert entry.value == {"names": ["a"]}
        assert {name: len(array) for name, array in entry.arrays.items()} == {"few": 3, "many": 20_000, "none": 0}
        np.testing.assert_array_equal(entry.arrays["many"], np.arange(20_000))
        return entry


@pytest.fixture
def directory(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_an_entry_is_computed_once_per_key_and_memory_mapped(directory):
    compute = Computation()
    for _ in range(3):
        assert isinstance(compute.get().arrays["many"], np.memmap)
    assert compute.calls == 1
    compute.get({**KEY, "limits": (3, 5)})
    assert compute.calls == 2
    assert len([path for path in (directory / "kind").iterdir() if path.is_dir()]) == 2


@pytest.mark.parametrize("file", ["many.npy", "entry.json"])
@pytest.mark.parametrize("damage", ["changed", "truncated", "missing"])
def test_a_damaged_entry_is_named_and_computed_again(directory, caplog, file, damage):
    compute = Computation()
    compute.get()
    (path,) = (directory / "kind").glob(f"*/{file}")
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(data[:-9] if damage == "truncated" else data[:-9] + b"7" + data[-8:])
    compute.get()
    assert str(path.parent) in caplog.text
    caplog.clear()
    compute.get()
    assert compute.calls == 2
    assert not caplog.records
    assert path.read_bytes() == data


def test_an_entry_of_another_key_is_not_used(directory):
    compute = Computation()
    compute.get()
    (path,) = (directory / "kind").glob("*/entry.json")
    record = json.loads(path.read_text())
    record["content"]["key"]["digest"] = "sha256:2"
    record["sha256"] = data_cache._digest(record["content"])
    path.write_text(json.dumps(record))
    compute.get()
    assert compute.calls == 2


def test_workers_that_need_the_same_entry_wait_for_it(directory, caplog):
    caplog.set_level(logging.INFO)
    others: list[threading.Thread] = []

    class Slow(Computation):
        def __call__(self):
            others.append(threading.Thread(target=self.get))
            others[-1].start()
            others[-1].join(timeout=0.2)
            assert others[-1].is_alive()
            return super().__call__()

    compute = Slow()
    compute.get()
    others[0].join()
    assert compute.calls == 1
    assert "waiting for another process" in caplog.text


def test_the_cache_can_be_off_unwritable_and_elsewhere(tmp_path, monkeypatch, caplog):
    compute = Computation()
    monkeypatch.setenv(CACHE_VARIABLE, "")
    compute.get()
    (tmp_path / "file").touch()
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file" / "cache"))
    compute.get()
    assert "the data cache cannot be written" in caplog.text
    assert compute.calls == 2
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory() == tmp_path / "finetune_scaling" / "data"
