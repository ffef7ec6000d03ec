"""A persistent cache of scores, keyed by the scored content."""

import contextlib
import json
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

from finetune_scaling.errors import WorkdirError
from finetune_scaling.files import disk_errors

_LOCK_SECONDS = 120.0  # maximum wait for another process's commit


class ScoreCache:
    """A mapping key -> score in an SQLite file that processes may share. Raises WorkdirError if it is damaged."""

    def __init__(self, path: Path):
        self._path = path

    def __enter__(self) -> Self:
        with disk_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._errors():
            # Autocommit without fsync: a killed process loses nothing and never blocks others; a power failure may.
            self._database = sqlite3.connect(self._path, timeout=_LOCK_SECONDS, isolation_level=None)
            self._database.execute("PRAGMA synchronous = OFF")
            self._database.execute("CREATE TABLE IF NOT EXISTS scores (key TEXT PRIMARY KEY, score REAL NOT NULL)")
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def get(self, keys: Iterable[str]) -> dict[str, float]:
        """Return the cached scores of `keys`; missing keys are omitted."""
        query = "SELECT key, score FROM scores WHERE key IN (SELECT value FROM json_each(?))"
        with self._errors():
            return dict(self._database.execute(query, [json.dumps(list(keys))]))

    def put(self, key: str, score: float) -> None:
        """Store a score."""
        with self._errors():
            self._database.execute("INSERT OR REPLACE INTO scores VALUES (?, ?)", (key, score))

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise WorkdirError(
                f"{self._path}: the score cache cannot be used ({error}); "
                "delete it if it is damaged, or free disk space, and run the command again"
            ) from error
