"""A persistent cache of scores, keyed by the scored content."""

import contextlib
import json
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

from finetune_scaling.errors import WorkdirError
from finetune_scaling.files import disk_errors

_LOCK_SECONDS = 120.0  # maximum wait for another process's commit


@contextlib.contextmanager
def open_score_cache(path: Path) -> Iterator["ScoreCache"]:
    """Open a cache in an SQLite file that processes may share. Raises WorkdirError if it is damaged."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        # Autocommit without fsync: a killed process loses nothing and never blocks others; a power failure may.
        with contextlib.closing(sqlite3.connect(path, timeout=_LOCK_SECONDS, isolation_level=None)) as database:
            database.execute("PRAGMA synchronous = OFF")
            database.execute("CREATE TABLE IF NOT EXISTS scores (key TEXT PRIMARY KEY, score REAL NOT NULL)")
            yield ScoreCache(database)
    except sqlite3.Error as error:
        raise WorkdirError(
            f"{path}: the score cache cannot be used ({error}); "
            "delete it if it is damaged, or free disk space, and run the command again"
        ) from error


class ScoreCache:
    """A mapping key -> score."""

    def __init__(self, database: sqlite3.Connection):
        self._database = database

    def get(self, keys: Iterable[str]) -> dict[str, float]:
        """Return the cached scores of `keys`; missing keys are omitted."""
        query = "SELECT key, score FROM scores WHERE key IN (SELECT value FROM json_each(?))"
        return dict(self._database.execute(query, [json.dumps(list(keys))]))

    def put(self, key: str, score: float) -> None:
        """Store a score."""
        self._database.execute("INSERT OR REPLACE INTO scores VALUES (?, ?)", (key, score))
