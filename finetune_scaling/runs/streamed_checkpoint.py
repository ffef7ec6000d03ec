"""Read a checkpoint's arrays one at a time, for models larger than memory, and verify their digest at the end."""

import contextlib
import gc
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from finetune_scaling.files import Location, absolute
from finetune_scaling.runs.checkpoint_errors import damage_errors, damaged
from finetune_scaling.runs.checkpoints import read_array_shapes, read_metadata, stored_name
from finetune_scaling.runs.digest import StreamingDigest

_TRAINABLE = "trainable/"
_CHUNK = 1 << 22  # elements


class StreamedCheckpoint:
    """The trainable arrays of a checkpoint by path. They are verified only when `check` has returned."""

    def __init__(self, path: Location):
        """Raise CheckpointError if the checkpoint is damaged."""
        self._path = absolute(path)
        self._shapes = read_array_shapes(path)
        # Digests cover the names as stored.
        self._digest = StreamingDigest({stored_name(name): leaf for name, leaf in self._shapes.items()})
        self._chunk_sums: dict[str, list[list[int]]] = {}  # by name of the array

    @property
    def shapes(self) -> Mapping[str, Any]:
        """Shapes and dtypes by path."""
        return {n.removeprefix(_TRAINABLE): leaf for n, leaf in self._shapes.items() if n.startswith(_TRAINABLE)}

    def __getitem__(self, path: str) -> np.ndarray:
        return self._read(_TRAINABLE + path)

    def check(self) -> None:
        """Read the remaining arrays. Raises DamagedCheckpointError if they do not have the recorded digest."""
        for name in self._shapes:
            if name not in self._chunk_sums:
                self._read(name)
        chunks = ((stored_name(name), sums) for name, chunks in self._chunk_sums.items() for sums in chunks)
        if self._digest.digest(chunks) != read_metadata(self._path)["arrays_digest"]:
            raise damaged(self._path, "its arrays do not have the recorded digest")

    def _read(self, name: str) -> np.ndarray:
        if math.prod(self._shapes[name].shape) > _CHUNK:
            gc.collect()  # the reader of the previous array leaves reference cycles that hold it
        array = self._read_array(name)
        self._chunk_sums[name] = [
            self._digest.sums_of_chunk(stored_name(name), chunk, start) for chunk, start in _chunks(array)
        ]
        return array

    def _read_array(self, name: str) -> np.ndarray:
        key, shape = stored_name(name), self._shapes[name]
        with damage_errors(self._path), contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
            args = ocp.args.PyTreeRestore(
                item={key: np.zeros(shape.shape, shape.dtype)},
                restore_args={key: ocp.RestoreArgs(restore_type=np.ndarray)},
                partial_restore=True,
            )
            return handler.restore(epath.Path(self._path / "state"), args=args)[key]


def _chunks(array: np.ndarray) -> Iterator[tuple[np.ndarray, tuple[int, ...]]]:
    """Yield slices of about _CHUNK elements along axis 0, and their start; their sums need several times their size."""
    if not array.ndim:
        yield array, ()
        return
    rows = max(1, _CHUNK * array.shape[0] // max(1, array.size))
    for first in range(0, array.shape[0], rows):
        yield array[first : first + rows], (first,) + (0,) * (array.ndim - 1)
