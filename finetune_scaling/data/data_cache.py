"""A cache on disk of what is computed from data: token ids, packing plans, digests, duplicates.

An entry is a directory of arrays (.npy files, memory-mapped when they are read) and a JSON file with the key, a value
and the checksums of all of them. Its name is the digest of its key, so that other data or settings have other entries.
Entries are never changed; the whole directory, or any part of it, may be deleted at any time.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from finetune_scaling.configuration import canonical_json
from finetune_scaling.errors import WorkdirError
from finetune_scaling.files import (
    disk_errors,
    local_path,
    read_json_object,
    sha256,
    unfinished_directory,
    write_json_atomically,
)

log = logging.getLogger(__name__)

CACHE_VARIABLE = "FINETUNE_SCALING_DATA_CACHE"
_FORMAT = 1  # of the entries; to be raised when the same key gets other results
_RECORD = "entry.json"
_LARGE = 10_000  # texts; the results of fewer are computed in less than a second
_MAPPED = 2**16  # bytes from which on an array is memory-mapped


class Entry(NamedTuple):
    """A result: plain data, and arrays by name."""

    value: Any
    arrays: Mapping[str, np.ndarray] = {}


def cache_directory() -> Path | None:
    """Return the directory of the cache: CACHE_VARIABLE, or one in the user's cache directory; None if it is empty."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "finetune_scaling" / "data"
    directory = os.environ.get(CACHE_VARIABLE, str(default))
    return local_path(directory, "the data cache").absolute() if directory else None


def is_large(texts: int) -> bool:
    """Return whether the results of so many texts are worth storing."""
    return texts >= _LARGE


def cached(kind: str, key: Mapping[str, Any], compute: Callable[[], Entry]) -> Entry:
    """Return the entry of a key, which is computed and stored if there is none.

    A damaged entry is named in a warning and computed again. Other processes that need the same entry wait for it. A
    cache that cannot be written is a warning, too.

    kind: what the entries are, the name of their directory. key: plain data that determines the result.
    """
    directory = cache_directory()
    if directory is None:
        return compute()
    key = json.loads(canonical_json({"format": _FORMAT, **key}))  # as it is read again
    path = directory / kind / _digest(key)[:32]
    if (entry := _read(path, key)) is not None:
        return entry
    with _turn(path):
        entry = _read(path, key, warn=False)  # another process may have written it meanwhile
        return _compute_and_write(path, key, compute) if entry is None else entry


def _compute_and_write(path: Path, key: Mapping[str, Any], compute: Callable[[], Entry]) -> Entry:
    entry = compute()
    try:
        with disk_errors(path):
            _write(path, key, entry)
    except WorkdirError as error:
        log.warning("the data cache cannot be written, so the next run computes the same again: %s", error)
        return entry
    return Entry(entry.value, {name: _open(_array_file(path, name)) for name in entry.arrays})


def _read(path: Path, key: Mapping[str, Any], *, warn: bool = True) -> Entry | None:
    """Return an entry; None if it is missing or damaged, which is logged as a warning."""
    if not path.is_dir():
        return None
    try:
        record = read_json_object(path / _RECORD)
        content = record.pop("content")
        if record["sha256"] != _digest(content) or content["key"] != key:
            raise ValueError(f"{_RECORD} is not as it was written")
        for name, digest in content["arrays"].items():
            if sha256(_array_file(path, name)) != digest:
                raise ValueError(f"{name}.npy is not as it was written")
        return Entry(content["value"], {name: _open(_array_file(path, name)) for name in content["arrays"]})
    except (OSError, ValueError, KeyError, WorkdirError) as error:
        if warn:
            log.warning("%s: this entry of the data cache is damaged and is computed again (%s)", path, error)
        return None


def _write(path: Path, key: Mapping[str, Any], entry: Entry) -> None:
    """Write an entry under a temporary name, then rename it; a damaged one is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with unfinished_directory(path) as folder:
        new = folder / "new"
        new.mkdir()
        for name, array in entry.arrays.items():
            np.save(_array_file(new, name), array, allow_pickle=False)
        digests = {name: sha256(_array_file(new, name)) for name in entry.arrays}
        content = {"key": key, "value": entry.value, "arrays": digests}
        write_json_atomically(new / _RECORD, {"sha256": _digest(content), "content": content})
        with contextlib.suppress(FileNotFoundError):
            path.rename(folder / f"old-{uuid.uuid4().hex}")
        new.rename(path)


@contextlib.contextmanager
def _turn(path: Path) -> Iterator[None]:
    """Hold the lock of an entry, so that only one process computes it; none on a file system without locks."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:  # the warning is that of writing
        yield
        return
    try:
        with contextlib.suppress(OSError):
            _lock(descriptor, path)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        log.info("waiting for another process that computes %s", path)
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def _open(file: Path) -> np.ndarray:
    return np.load(file, mmap_mode="r" if file.stat().st_size > _MAPPED else None, allow_pickle=False)


def _array_file(path: Path, name: str) -> Path:
    return path / f"{name}.npy"


def _digest(content: Any) -> str:
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()
