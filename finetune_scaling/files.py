"""Files: local paths and object stores, atomic writes, digests, and JSON with errors that name the line.

A path is local or the URL of an object store (gs://bucket/...), where every write of an object is atomic.
"""

import contextlib
import errno
import fcntl
import functools
import glob
import hashlib
import logging
import math
import os
import shutil
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import fsspec
from etils import epath

from finetune_scaling.errors import UserError, WorkdirError
from finetune_scaling.messages import describe_error
from finetune_scaling.paths import user_path
from finetune_scaling.strict_json import JsonError, check_shape, format_json, parse_json
from finetune_scaling.text_lines import BYTE_ORDER_MARK

Location: TypeAlias = Path | epath.Path
Result = TypeVar("Result")

_SCHEMES = ("gs",)
REMOTE_TIMEOUT_SECONDS = 50.0  # for the first response of an object store


def is_remote(path: str | os.PathLike) -> bool:
    """Return whether a path is the URL of an object store.

    Raises WorkdirError for a URL of another scheme or without a bucket.
    """
    scheme, separator, rest = os.fspath(path).partition("://")
    if separator and scheme not in _SCHEMES:
        raise WorkdirError(f"{os.fspath(path)}: {scheme}:// is not supported; give gs:// or a local path")
    if separator and not rest.strip("/"):
        raise WorkdirError(f"{os.fspath(path)}: names no bucket; give {scheme}://BUCKET/DIRECTORY")
    return bool(separator)


def location(path: str | os.PathLike) -> Location:
    """Return a local path as pathlib.Path, with ~ expanded, and a URL as epath.Path.

    Raises WorkdirError as `is_remote` does, and ConfigError as `user_path` does.
    """
    if not is_remote(path):
        return Path(user_path(path))
    _set_up_remote()
    return epath.Path(path)


@functools.cache
def _set_up_remote() -> None:
    """Silence gcsfs, which logs every retry and every error that it raises, and turn off its cache of listings."""
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    for scheme in _SCHEMES:  # TensorStore and other hosts write there too
        fsspec.config.conf.setdefault(scheme, {})["use_listings_cache"] = False


def absolute(path: str | os.PathLike, *, keep_links: bool = False) -> Location:
    """Return a path that does not depend on the working directory, with symbolic links resolved.

    keep_links: do not resolve them, since a link may have another name or parent than its target: a model's files in
    the cache of the Hugging Face Hub, or a study's base that is stored elsewhere.
    """
    found = location(path)
    if not isinstance(found, Path):  # epath would resolve a URL as a relative path
        return found
    return Path(
        os.path.abspath(found) if keep_links else os.path.realpath(found)
    )  # not resolve(): links may be circular


def local_path(path: str | os.PathLike, what: str) -> Path:
    """Return a path that must be local, with ~ expanded. Raises WorkdirError for a URL; `what` is written there."""
    if is_remote(path):
        raise WorkdirError(f"{os.fspath(path)}: {what} is written to local directories only; give a local path")
    return Path(user_path(path))


def call_with_timeout(path: Location, function: Callable[[], Result]) -> Result:
    """Return function(). Raises WorkdirError if the object store of `path` does not answer in time."""
    outcome: Future[Result] = Future()

    def call() -> None:
        try:
            with disk_errors(path):
                outcome.set_result(function())
        except BaseException as error:  # raised in the calling thread
            outcome.set_exception(error)

    threading.Thread(target=call, daemon=True).start()  # an executor would wait for it at exit
    try:
        return outcome.result(REMOTE_TIMEOUT_SECONDS)
    except TimeoutError:
        if outcome.done():  # function() itself raised it
            raise
        raise WorkdirError(
            f"{path}: no answer within {REMOTE_TIMEOUT_SECONDS:.0f} s; check the network and your credentials"
        ) from None


def write_atomically(path: str | os.PathLike, data: bytes | str) -> None:
    """Write `data` to `path` so that readers always find the complete old or the complete new file.

    Raises WorkdirError if the disk is full or the directory cannot be written.
    """
    path = location(path)
    data = data.encode() if isinstance(data, str) else data
    with disk_errors(path):
        if isinstance(path, Path):
            _replace(path, data)
        else:
            path.write_bytes(data)


def _replace(path: Path, data: bytes) -> None:
    """Write a temporary file next to a local file, then rename it. Links are followed, pipes and devices written to."""
    if path.is_fifo() or path.is_char_device():  # root could replace /dev/null
        path.write_bytes(data)
        return
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    # Not tempfile's, which would not have the umask's permissions.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{_UNFINISHED}")
    try:
        with temporary.open("xb") as file, _locked(temporary):
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)
    except (BlockingIOError, FileNotFoundError):  # another writer took it for abandoned before it was locked
        _replace(path, data)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def check_writable(path: Location, fix: str) -> None:
    """Raise WorkdirError with the fix if a local file or directory could not be written or created."""
    if isinstance(path, Path):
        with disk_errors(path):
            absolute_path = path.absolute()
            existing = next(one for one in (absolute_path, *absolute_path.parents) if one.exists())
            is_blocked = existing != absolute_path and not existing.is_dir()
            if is_blocked or not os.access(existing, os.W_OK | (os.X_OK if existing.is_dir() else 0)):
                raise WorkdirError(f"{path}: cannot be written; {fix}")


def check_new(path: Path) -> None:
    """Raise WorkdirError if `path` exists and is not an empty directory."""
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise WorkdirError(f"{path}: exists already; give a new directory, or remove this one")


@contextlib.contextmanager
def new_directory(path: Path, needed: int = 0) -> Iterator[Path]:
    """Yield a temporary local directory that is renamed to `path` at the end of the block, and removed on an error.

    needed: bytes that will be written. Raises WorkdirError if `path` exists or the disk has too little free space.
    """
    path = Path(os.path.realpath(path))
    with disk_errors(path):
        check_new(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if (free := shutil.disk_usage(path.parent).free) < needed:
            raise WorkdirError(f"{path}: needs {needed:,} bytes, and the disk has {free:,} left; free some space")
        with unfinished_directory(path) as folder:
            unfinished = folder / path.name
            unfinished.mkdir()
            yield unfinished
            unfinished.rename(path)


_UNFINISHED = ".unfinished"


@contextlib.contextmanager
def unfinished_directory(path: Path) -> Iterator[Path]:
    """Yield a temporary directory next to `path`, which is removed at the end with those that killed processes left."""
    _remove_abandoned(path)
    with tempfile.TemporaryDirectory(_UNFINISHED, f".{path.name}.", path.parent) as folder, _locked(Path(folder)):
        yield Path(folder)


def _remove_abandoned(path: Path) -> None:
    """Remove temporary files and directories that killed processes left; running processes lock theirs."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*{_UNFINISHED}"):
        with contextlib.suppress(OSError), _locked(left, required=True):
            shutil.rmtree(left) if left.is_dir() else left.unlink()


@contextlib.contextmanager
def _locked(path: Path, *, required: bool = False) -> Iterator[None]:
    """Lock a file or directory for this process. Raises BlockingIOError if another process has locked it.

    required: raise OSError on a file system without locks, where the block is otherwise run without one.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if required or isinstance(error, BlockingIOError):
                raise
        yield
    finally:
        os.close(descriptor)


_RESTORE = "restore an intact copy, or delete it and run the command again"


def write_json_atomically(path: str | os.PathLike, value: Any) -> None:
    """Write indented JSON atomically, with non-ASCII text unescaped and null for numbers that are not finite."""
    write_atomically(path, format_json(value, indent=2) + "\n")


def read_json(path: str | os.PathLike, *, fix: str = _RESTORE) -> Any:
    """Read a file of strict JSON, which may begin with a byte order mark.

    Raises WorkdirError that names the file, the line of the mistake, and the fix.
    """
    try:
        return parse_json(read_text_file(path, fix=fix).removeprefix(BYTE_ORDER_MARK))
    except JsonError as error:
        raise WorkdirError(f"{path}: not valid JSON ({error}); {fix}") from None


def read_text_file(path: str | os.PathLike, *, fix: str) -> str:
    """Read a file of UTF-8. Raises WorkdirError that names the file and the fix."""
    with disk_errors(path, reading=True):
        try:
            return location(path).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise WorkdirError(f"{path}: no such file; check the path") from None
        except (IsADirectoryError, NotADirectoryError) as error:
            raise WorkdirError(f"{path}: cannot be read ({error.strerror}); {fix}") from None
        except UnicodeDecodeError as error:
            raise WorkdirError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}); {fix}") from None


def read_json_object(path: str | os.PathLike, *, fix: str = _RESTORE) -> dict[str, Any]:
    """Read a file of one JSON object. Raises WorkdirError as `read_json` does, and for another value."""
    found = read_json(path, fix=fix)
    if not isinstance(found, dict):
        raise WorkdirError(f"{path}: holds no JSON object but {str(found)[:40]}; {fix}")
    return found


def sha256(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file in hexadecimal. Raises WorkdirError if it may not be read."""
    with disk_errors(path, reading=True), location(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_size(path: Location) -> int:
    """Return the bytes of a file. Raises OSError if it does not exist."""
    return path.stat().st_size if isinstance(path, Path) else path.stat().length


@contextlib.contextmanager
def disk_errors(path: str | os.PathLike, *, reading: bool = False) -> Iterator[None]:
    """Turn errors of missing space, permission, directory or bucket into a WorkdirError with the path and a fix.

    reading: the block only reads.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if is_remote(path):
            if reason := remote_failure(error):
                raise WorkdirError(f"{os.fspath(path)}: {reason}") from error
        elif isinstance(error, OSError) and (reason := _disk_failure(error, reading)):
            raise WorkdirError(f"{os.fspath(path)}: {reason}") from error
        raise


def check_record(path: str | os.PathLike, record: Any, shape: Mapping[str, Any]) -> None:
    """Raise WorkdirError if the content of a JSON file that this project wrote lacks its shape; see `check_shape`."""
    try:
        check_shape(record, shape)
    except JsonError as error:
        raise WorkdirError(f"{path}: is damaged or was edited ({error}); restore an intact copy") from None


def _disk_failure(error: OSError, reading: bool) -> str | None:
    """Explain an error of the local file system and its fix; None for other errors."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full; free some space and run the same command again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        problem, fix = ("read", "a path that you may read") if reading else ("written", "a directory that you own")
        return f"cannot be {problem} ({error.strerror}); give {fix}"
    if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
        return f"is no usable path ({error.strerror}); choose another path"
    if error.errno in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR):
        return "a part of the path is a file instead of a directory, or the reverse; choose another path"
    return None


def remote_failure(error: BaseException) -> str | None:
    """Explain an error of an object store and its fix; None for other errors."""
    if isinstance(error, ImportError):
        return f"object stores need another package ({error}): pip install 'finetune-scaling[gcs]'"
    if not isinstance(error, OSError) and type(error).__module__ == "builtins":
        return None
    return (
        f"cannot be reached, read or written ({describe_error(error)}); check that the bucket exists, that your "
        "credentials may read and write it, and the network"
    )


def finite_or_none(value: float | None) -> float | None:
    """Return a finite number, None otherwise (JSON has no infinity)."""
    return None if value is None or not math.isfinite(value) else float(value)
