"""Scores that were paid for once, by the content that they belong to."""

import contextlib
import sqlite3
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

from finetune_scaling.errors import WorkdirError
from finetune_scaling.files import disk_errors

_COMMIT_SECONDS = 1.0  # most that a kill can lose
_LOCK_SECONDS = 120.0  # for another process's commit
_ASKED_AT_ONCE = 500


class ScoreCache:
    """key -> score in an SQLite file that several processes may share. Raises WorkdirError where it is damaged."""

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
        """The scores that are known."""
        asked = list(dict.fromkeys(keys))
        found: dict[str, float] = {}
        with self._errors():
            for start in range(0, len(asked), _ASKED_AT_ONCE):
                part = asked[start : start + _ASKED_AT_ONCE]
                marks = ",".join("?" * len(part))
                found.update(self._database.execute(f"SELECT key, score FROM scores WHERE key IN ({marks})", part))
        return found

    def put(self, key: str, score: float, more: bool) -> None:
        """Keeps a score: on the disk at once, or where `more` are coming at once, with them within a second.

        What is not yet on the disk keeps other processes from writing.
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
                f"{self._path}: the cache of scores cannot be used ({error}); delete it if it is damaged, free some "
                "space if the disk is full, and run the command again"
            ) from error
