"""Files that are whole or absent: atomic writes, digests, and JSON that says where it is broken."""

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune_scaling.errors import WorkdirError
from finetune_scaling.sharding.roles import is_first


def write_atomically(path: str | os.PathLike, data: bytes | str) -> None:
    """Writes `data` to `path` so that a reader, or a kill at any moment, finds the old file or the new one.

    Of several processes that run together only the first one writes.
    Raises WorkdirError where the disk is full or the directory cannot be written.
    """
    if not is_first():
        return
    path = Path(path)
    data = data.encode() if isinstance(data, str) else data
    with disk_errors(path):
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


def write_json_atomically(path: str | os.PathLike, value: Any) -> None:
    """Writes JSON atomically, indented, non-ASCII text as it is."""
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | os.PathLike) -> Any:
    """Reads a JSON file; WorkdirError names the file and the line where it is broken."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WorkdirError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise WorkdirError(f"{path}: not valid JSON ({error}); delete it and run the command again") from None


def sha256(path: str | os.PathLike) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def disk_errors(path: str | os.PathLike) -> Iterator[None]:
    """Names the path and the mend where writing fails for want of space, permission or a directory."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise WorkdirError(f"{path}: the disk is full; free some space and run the same command again") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise WorkdirError(f"{path}: cannot be written ({error.strerror}); give a directory of yours") from error
        if error.errno in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR):
            raise WorkdirError(
                f"{path}: a file stands where a directory must be, or the other way round; choose another path"
            ) from error
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
