"""Files of a preparation, on a disk that all workers share or in an object store: whole or absent in both."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
from etils import epath

from finetune_scaling.errors import WorkdirError
from finetune_scaling.files import write_atomically

Place: TypeAlias = Path | epath.Path


def place(path: str) -> Place:
    """A local path as pathlib's, a URL (gs://bucket/folder) as epath's."""
    return epath.Path(path) if "://" in path else Path(path)


def write(path: Place, data: bytes) -> None:
    """Writes a file at once: a reader, or a kill, finds the old one or the new one. Raises WorkdirError."""
    if isinstance(path, Path):
        write_atomically(path, data)
        return
    with store_errors(path):
        path.write_bytes(data)  # an object appears when its upload has ended


def write_array(path: Place, array: np.ndarray) -> None:
    """Writes an array as .npy, as `write` does."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    write(path, file.getvalue())


def read_array(path: Place) -> np.ndarray:
    """A .npy file's array; OSError, EOFError or ValueError where it is absent or damaged."""
    return np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)


def size(path: Place) -> int:
    """Bytes of a file; OSError where it is absent."""
    return path.stat().st_size if isinstance(path, Path) else path.stat().length


@contextlib.contextmanager
def store_errors(path: epath.Path) -> Iterator[None]:
    """Names the URL and the mend where an object store does not do what is asked."""
    try:
        yield
    except ImportError as error:
        raise WorkdirError(f"{path}: this kind of address needs a further package ({error}); install it") from error
    except Exception as error:  # each store has its own
        told = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise WorkdirError(f"{path}: cannot be written ({told}); check the bucket and your credentials") from error
