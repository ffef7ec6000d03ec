"""Errors of reading and writing checkpoints: damaged files, files that cannot be read at present, a full disk."""

import contextlib
import errno
import os
import re
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from finetune_scaling.errors import CheckpointError, UserError, WorkdirError, causes
from finetune_scaling.files import Location, disk_errors, is_remote, remote_failure

_DAMAGE_CODES = (None, errno.ENOENT, errno.ENOTDIR, errno.EISDIR)  # files are missing, or are not those written
FIX = "Fix: restore an intact copy, or start the run again in an empty directory"


class DamagedCheckpointError(CheckpointError):
    """A checkpoint's files are not those that were written."""


def damaged(path: Location, reason: str) -> DamagedCheckpointError:
    """Return the error about a damaged checkpoint."""
    return DamagedCheckpointError(f"{path}: damaged: {reason}. {FIX}")


@contextlib.contextmanager
def storage_errors(path: Location) -> Iterator[None]:
    """Turn write errors into WorkdirErrors as files.disk_errors does, including TensorStore's ValueErrors."""
    with disk_errors(path):
        try:
            yield
        except ValueError as error:
            code = _system_code(error)
            if code is None and not is_remote(path):
                raise
            raise OSError(code, os.strerror(code) if code else str(error)) from error


@contextlib.contextmanager
def damage_errors(path: Location) -> Iterator[None]:
    """Raise DamagedCheckpointError for any error of a reader, unless the file system or memory caused it.

    A damaged file can make TensorStore, zlib and JSON raise anything. But an intact checkpoint must not count as
    damaged because the system failed: it would be set aside, and its steps trained again.
    """
    try:
        yield
    except (UserError, MemoryError, jax.errors.JaxRuntimeError):  # the last: device memory is exhausted
        raise
    except Exception as error:
        if reason := _system_failure(path, error):
            raise WorkdirError(
                f"{path}: {reason}; no file was changed. Fix that and run the same command again"
            ) from error
        raise damaged(path, f"{type(error).__name__} while reading it") from error


def _system_failure(path: Location, error: Exception) -> str | None:
    """Return how the system caused a reader's error; None if it did not. Raises MemoryError if memory is exhausted."""
    chain, reading = list(causes(error)), _failure_to_read(path)
    if any(isinstance(cause, MemoryError) for cause in chain):
        raise MemoryError from error
    if is_remote(path):  # readers raise the same errors for damage and for a store that does not answer
        return next(map(remote_failure, reading), None)
    codes = (_system_code(cause) for cause in (*chain, *reading))
    return next((f"cannot be read ({os.strerror(code)})" for code in codes if code not in _DAMAGE_CODES), None)


def _failure_to_read(path: Location) -> list[Exception]:
    """Return the error of reading a checkpoint's files again without decoding them, if any.

    Readers hide such errors: Orbax treats a folder that cannot be listed as an empty one.
    """
    try:
        _read_all(path)
    except FileNotFoundError:
        return []
    except Exception as error:
        return [error]
    return []


def _read_all(folder: Location) -> None:
    for entry in folder.iterdir():
        if entry.is_dir():
            _read_all(entry)
            continue
        with entry.open("rb") as file:
            while file.read(1 << 20):
                pass


def _system_code(error: BaseException) -> int | None:
    """Return the system's error code, which TensorStore states in an error's text only."""
    if isinstance(error, OSError):
        return error.errno
    code = re.search(r"os_error_code='(\d+)'", str(error))
    return int(code[1]) if code else None


@contextlib.contextmanager
def same_outcome_on_all_processes(path: Location) -> Iterator[None]:
    """Raise on all processes if the block raises on one, so that no process waits for another forever.

    If one process finds damage and another fails otherwise, all raise the latter: no file may be set aside then.
    """
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        failure = error
    rank = 0 if failure is None else 1 if isinstance(failure, DamagedCheckpointError) else 2
    ranks = multihost_utils.process_allgather(np.int32(rank)).reshape(-1)
    worst = int(ranks.max())
    if failure is not None and rank == worst:
        raise failure
    reporter = f"see the error of process {int(ranks.argmax())}"
    if worst == 1:
        raise damaged(path, reporter)
    if worst:
        raise WorkdirError(f"{path}: cannot be used; {reporter}")
