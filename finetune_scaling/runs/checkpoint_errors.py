"""Errors of reading and writing checkpoints: damaged files, files that cannot be read at present, a full disk."""

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from finetune_scaling.errors import CheckpointError, UserError, WorkdirError
from finetune_scaling.files import Location, disk_errors, is_remote, remote_failure

_DAMAGE_CODES = (None, errno.ENOENT, errno.ENOTDIR, errno.EISDIR)  # files are missing, or are not those written


class DamagedCheckpointError(CheckpointError):
    """A checkpoint's files are not those that were written."""


@contextlib.contextmanager
def storage_errors(path: Location) -> Iterator[None]:
    """Name path and fix of write errors as files.disk_errors does, including TensorStore's ValueErrors."""
    with disk_errors(path):
        try:
            yield
        except ValueError as error:
            code = _os_error_code(error)
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
        _raise_system_failure(path, error)
        raise DamagedCheckpointError(f"{path}: damaged or incomplete ({type(error).__name__})") from error


def _raise_system_failure(path: Location, error: BaseException) -> None:
    """Raise WorkdirError or MemoryError if the system caused a reader's error; else return.

    Readers state the cause in an error's chain, TensorStore in its text only, and Orbax treats a folder without read
    permission as an empty one. So the chain is searched, and then all files are read again directly.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError):
            raise cause
        code = cause.errno if isinstance(cause, OSError) else _os_error_code(cause)
        if code not in _DAMAGE_CODES and isinstance(path, Path):
            raise _unreadable(path, code) from error
        cause = cause.__cause__ or cause.__context__
    try:
        _read_all(path)
    except FileNotFoundError:
        return
    except Exception as failure:
        if not isinstance(path, Path) and (reason := remote_failure(failure)):
            raise WorkdirError(f"{path}: {reason}; no file was changed") from error
        if not isinstance(failure, OSError):
            raise
        if failure.errno not in _DAMAGE_CODES:
            raise _unreadable(failure.filename or path, failure.errno) from error


def _unreadable(path: str | os.PathLike, code: int | None) -> WorkdirError:
    return WorkdirError(
        f"{path}: cannot be read ({os.strerror(code or 0)}); no file was changed. Fix that and run the same command "
        "again"
    )


def _os_error_code(error: BaseException) -> int | None:
    """Return the system's error code in the text of a TensorStore error."""
    code = re.search(r"os_error_code='(\d+)'", str(error))
    return int(code[1]) if code else None


def _read_all(folder: Location) -> None:
    """Read all files below a folder and discard the content: raises an error if one cannot be read."""
    for entry in folder.iterdir():
        if entry.is_dir():
            _read_all(entry)
        else:
            with entry.open("rb") as file:
                while file.read(1 << 20):
                    pass


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
        raise DamagedCheckpointError(f"{path}: damaged; {reporter}")
    if worst:
        raise WorkdirError(f"{path}: cannot be used; {reporter}")
