"""A checkpoint's arrays one by one, for what is too large to be in memory at once, and then checked all the same."""

import gc
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from finetune_scaling.files import Location
from finetune_scaling.runs.checkpoints import (
    DamagedCheckpointError,
    read_array,
    read_array_shapes,
    read_metadata,
    stored_name,
)
from finetune_scaling.runs.digest import StreamingDigest

TRAINABLE = "trainable/"
_PIECE = 1 << 22  # elements


class StreamedCheckpoint:
    """The trained arrays of a checkpoint by path. What was read counts only once `check` has returned."""

    def __init__(self, where: Location):
        """Raises CheckpointError where the checkpoint is damaged."""
        self._where = where
        self._all = read_array_shapes(where)
        # Digests are of the names as they are stored.
        self._sums = StreamingDigest({stored_name(name): leaf for name, leaf in self._all.items()})
        self._read: dict[str, list[list[int]]] = {}  # the sums of every leaf's pieces

    @property
    def shapes(self) -> Mapping[str, Any]:
        """Shapes and dtypes by path."""
        return {n.removeprefix(TRAINABLE): leaf for n, leaf in self._all.items() if n.startswith(TRAINABLE)}

    def __getitem__(self, path: str) -> np.ndarray:
        return self._leaf(TRAINABLE + path)

    def check(self) -> None:
        """Reads the rest. Raises DamagedCheckpointError where the arrays are not those that were written."""
        for name in self._all:
            if name not in self._read:
                self._leaf(name)
        found = self._sums.digest((stored_name(name), sums) for name, pieces in self._read.items() for sums in pieces)
        if found != read_metadata(self._where)["arrays_digest"]:
            raise DamagedCheckpointError(
                f"{self._where}: damaged: its arrays do not have the digest that was recorded with them; put a "
                "good copy back"
            )

    def _leaf(self, name: str) -> np.ndarray:
        if math.prod(self._all[name].shape) > _PIECE:
            gc.collect()  # what read the leaf before stays behind in cycles that hold it
        leaf = read_array(self._where, name)
        self._read[name] = [self._sums.of(stored_name(name), piece, start) for piece, start in _pieces(leaf)]
        return leaf


def _pieces(leaf: np.ndarray) -> Iterator[tuple[np.ndarray, tuple[int, ...]]]:
    """Parts of about _PIECE elements along axis 0, and where each begins; sums take several times their room."""
    if not leaf.ndim:
        yield leaf, ()
        return
    rows = max(1, _PIECE * leaf.shape[0] // max(1, leaf.size))
    for first in range(0, leaf.shape[0], rows):
        yield leaf[first : first + rows], (first,) + (0,) * (leaf.ndim - 1)
