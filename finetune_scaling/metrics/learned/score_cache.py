"""A persistent cache of scores, keyed by the scored content."""

import contextlib
import sqlite3
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

from finetune_scaling.errors import WorkdirError
from finetune_scaling.files import disk_errors

_COMMIT_SECONDS = 1.0  # scores of at most this time are lost if the process is killed
_LOCK_SECONDS = 120.0  # maximum wait for another process's commit
_KEYS_PER_QUERY = 500


class ScoreCache:
    """A mapping key -> score in an SQLite file that processes may share. Raises WorkdirError if it is damaged."""

    def __init__(self, path: Path):
        self._path = path

    def __enter__(self) -> Self:
        with disk_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._errors():
            self._database = sqlite3.connect(self._path, timeout=_LOCK_SECONDS)
            self._database.execute("CREATE TABLE IF NOT EXISTS scores (key TEXT PRIMARY KEY, score REAL NOT NULL)")
            self._database.commit()
        self._committed = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        with self._errors():
            self._database.commit()
            self._database.close()

    def get(self, keys: Iterable[str]) -> dict[str, float]:
        """Return the cached scores of `keys`; missing keys are omitted."""
        unique = list(dict.fromkeys(keys))
        found: dict[str, float] = {}
        with self._errors():
            for start in range(0, len(unique), _KEYS_PER_QUERY):
                part = unique[start : start + _KEYS_PER_QUERY]
                marks = ",".join("?" * len(part))
                found.update(self._database.execute(f"SELECT key, score FROM scores WHERE key IN ({marks})", part))
        return found

    def put(self, key: str, score: float, more: bool) -> None:
        """Store a score. It is committed immediately, or within a second if `more` scores are already waiting.

        Uncommitted scores keep other processes from writing.
        """
        with self._errors():
            self._database.execute("INSERT OR REPLACE INTO scores VALUES (?, ?)", (key, score))
            if not more or time.monotonic() - self._committed > _COMMIT_SECONDS:
                self._database.commit()
                self._committed = time.monotonic()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise WorkdirError(
                f"{self._path}: the score cache cannot be used ({error}); "
                "delete it if it is damaged, or free disk space, and run the command again"
            ) from error
