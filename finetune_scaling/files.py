"""Files that are whole or absent: atomic writes, digests, and JSON that says where it is broken.

A path may be a local one or a URL of an object store (gs://bucket/...), where objects are whole or absent by nature.
"""

import contextlib
import errno
import fcntl
import functools
import glob
import hashlib
import json
import logging
import math
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import fsspec
from etils import epath

from finetune_scaling.errors import UserError, WorkdirError
from finetune_scaling.sharding.roles import is_primary

Location: TypeAlias = Path | epath.Path
Result = TypeVar("Result")

_SCHEMES = ("gs",)
CONTACT_SECONDS = 50.0  # within which an object store has to answer for the first time


def is_remote(path: str | os.PathLike) -> bool:
    """Whether a path is the URL of an object store. Raises WorkdirError for a URL of another kind, or of no bucket."""
    scheme, separator, rest = os.fspath(path).partition("://")
    if separator and scheme not in _SCHEMES:
        raise WorkdirError(f"{os.fspath(path)}: {scheme}:// is not known; give gs:// or a local path")
    if separator and not rest.strip("/"):
        raise WorkdirError(f"{os.fspath(path)}: names no bucket; give {scheme}://BUCKET/DIRECTORY")
    return bool(separator)


def location(path: str | os.PathLike) -> Location:
    """A local path as pathlib's, a URL as epath's. Raises as `is_remote` does."""
    if not is_remote(path):
        return Path(path)
    _set_up_remote()
    return epath.Path(path)


@functools.cache
def _set_up_remote() -> None:
    """Quiets gcsfs, which logs every retry and what it also raises, and lets no listing of a directory be kept."""
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    for scheme in _SCHEMES:  # TensorStore and other hosts write there, too
        fsspec.config.conf.setdefault(scheme, {})["use_listings_cache"] = False


def absolute(path: str | os.PathLike) -> Location:
    """A path that means the same from every working directory."""
    place = location(path)
    return place.resolve() if isinstance(place, Path) else place  # epath takes a URL for a relative path here


def local_path(path: str | os.PathLike, what: str) -> Path:
    """A path that must be local. Raises WorkdirError, telling `what` it is of, for a URL."""
    if is_remote(path):
        raise WorkdirError(f"{os.fspath(path)}: {what} is written to local directories only; give one")
    return Path(path)


def call_with_timeout(path: Location, act: Callable[[], Result]) -> Result:
    """What act() returns; WorkdirError where the object store of `path` cannot be reached, or not within a minute."""
    outcome: list[Any] = []

    def attempt() -> None:
        try:
            with disk_errors(path):
                outcome.append((act(), None))
        except BaseException as error:  # it is the caller's
            outcome.append((None, error))

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(CONTACT_SECONDS)
    if not outcome:
        raise WorkdirError(f"{path}: no answer within {CONTACT_SECONDS:.0f} s; check the network and your credentials")
    result, error = outcome[0]
    if error is not None:
        raise error
    return result


def write_atomically(path: str | os.PathLike, data: bytes | str) -> None:
    """Writes `data` to `path` so that a reader, or a kill at any moment, finds the old file or the new one.

    Of several processes that run together only the first one writes.
    Raises WorkdirError where the disk is full or the directory cannot be written.
    """
    if not is_primary():
        return
    path = location(path)
    data = data.encode() if isinstance(data, str) else data
    with disk_errors(path):
        if isinstance(path, Path):
            _replace(path, data)
        else:
            path.write_bytes(data)


def _replace(path: Path, data: bytes) -> None:
    """Writes beside a local file, then renames. A link's target is replaced; a pipe or device is written to."""
    if path.is_fifo() or path.is_char_device():  # /dev/null, /dev/stdout: root could rename over them
        path.write_bytes(data)
        return
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def check_new(path: Path) -> None:
    """Raises WorkdirError where something is at `path` that is no empty directory."""
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise WorkdirError(f"{path}: there is something already; name a new directory, or remove that one")


@contextlib.contextmanager
def new_directory(path: Path, needed: int = 0) -> Iterator[Path]:
    """A local directory to fill: what is in it is at `path` when the block ends, or nothing is, whatever happens.

    needed: bytes that will go there. Raises WorkdirError where something is at `path`, or there is too little room.
    """
    path = path.resolve()
    with disk_errors(path):
        check_new(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if (free := shutil.disk_usage(path.parent).free) < needed:
            raise WorkdirError(f"{path}: needs {needed:,} bytes, and the disk has {free:,} left; free some space")
        _remove_abandoned(path)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=_UNFINISHED, dir=path.parent))
        with _held(unfinished):
            try:
                yield unfinished
                unfinished.chmod(0o777 & ~_umask())
                unfinished.rename(path)
            except BaseException:
                shutil.rmtree(unfinished, ignore_errors=True)
                raise


_UNFINISHED = ".unfinished"


def _remove_abandoned(path: Path) -> None:
    """Removes what killed processes left of this directory; those that are at work hold theirs."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*{_UNFINISHED}"):
        with contextlib.suppress(BlockingIOError), _held(left):
            shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def _held(directory: Path) -> Iterator[None]:
    """Holds a directory while this process lives. Raises BlockingIOError where another one does."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def check_writable(directory: Location) -> None:
    """Raises WorkdirError where nothing can be written into a local directory, before there is anything to write."""
    if isinstance(directory, Path) and not os.access(directory, os.W_OK):
        raise WorkdirError(f"{directory}: cannot be written into; give --out=FILE.json, or score a copy of it")


def write_json_atomically(path: str | os.PathLike, value: Any) -> None:
    """Writes JSON atomically, indented, non-ASCII text as it is."""
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | os.PathLike, *, mend: str = "delete it and run the command again") -> Any:
    """Reads a JSON file; WorkdirError names the file, the line where it is broken, and the mend."""
    try:
        return json.loads(location(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WorkdirError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise WorkdirError(f"{path}: not valid JSON ({error}); {mend}") from None


def sha256(path: str | os.PathLike) -> str:
    """Hex SHA-256 of a file's bytes."""
    with location(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def modification_time(path: Location) -> int:
    """When a file was last changed, in units of the file system's; 0 where there is none."""
    try:
        return path.stat().st_mtime_ns if isinstance(path, Path) else path.stat().mtime
    except FileNotFoundError:
        return 0


def file_size(path: Location) -> int:
    """Bytes of a file. Raises OSError where there is none."""
    return path.stat().st_size if isinstance(path, Path) else path.stat().length


@contextlib.contextmanager
def disk_errors(path: str | os.PathLike) -> Iterator[None]:
    """Names the path and the mend where writing fails for want of space, permission, a directory or a bucket."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if is_remote(path):
            if reason := remote_failure(error):
                raise WorkdirError(f"{os.fspath(path)}: {reason}") from error
        elif isinstance(error, OSError) and (reason := _disk_failure(error)):
            raise WorkdirError(f"{os.fspath(path)}: {reason}") from error
        raise


def _disk_failure(error: OSError) -> str | None:
    """What an error of the local file system means, and the mend."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full; free some space and run the same command again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"cannot be written ({error.strerror}); give a directory of yours"
    if error.errno in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR):
        return "a file stands where a directory must be, or the other way round; choose another path"
    return None


def remote_failure(error: BaseException) -> str | None:
    """What an error of an object store means, and the mend; None for an error that is not one."""
    if isinstance(error, ImportError):
        return f"reading and writing there needs a further package ({error}): pip install 'finetune-scaling[gcs]'"
    if not isinstance(error, OSError) and type(error).__module__ == "builtins":
        return None
    told = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return (
        f"cannot be reached, read or written ({told}); check that the bucket exists, that your credentials may read "
        "and write it, and the network"
    )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def finite_or_none(value: float | None) -> float | None:
    """The number, or None where it is no finite one (JSON has no infinity)."""
    return None if value is None or not math.isfinite(value) else float(value)
