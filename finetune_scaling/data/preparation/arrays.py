"""Arrays of a preparation as files, on a disk that all workers share or in an object store: whole or absent in both."""

import io

import numpy as np

from finetune_scaling.files import Location, write_atomically


def write_array(path: Location, array: np.ndarray) -> None:
    """Writes an array as .npy, as `write_atomically` does."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    write_atomically(path, file.getvalue())


def read_array(path: Location) -> np.ndarray:
    """A .npy file's array; OSError, EOFError or ValueError where it is absent or damaged."""
    return np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
