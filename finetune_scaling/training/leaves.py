"""A checkpoint's arrays one by one, for what is too large to be in memory at once, and then checked all the same."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from finetune_scaling.files import Location
from finetune_scaling.training.checkpoints import DamagedCheckpointError, read_facts, read_leaf, read_shapes
from finetune_scaling.training.digest import PieceSums

TRAINABLE = "trainable/"


class CheckedLeaves:
    """The trained arrays of a checkpoint by path. What was read counts only once `check` has returned."""

    def __init__(self, where: Location):
        """Raises CheckpointError where the checkpoint is damaged."""
        self._where = where
        self._all = read_shapes(where)
        # Digests are of the names as they are stored.
        self._sums = PieceSums({_stored(name): leaf for name, leaf in self._all.items()})
        self._read: dict[str, list[int]] = {}

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
        found = self._sums.digest((_stored(name), sums) for name, sums in self._read.items())
        if found != read_facts(self._where)["arrays_digest"]:
            raise DamagedCheckpointError(
                f"{self._where}: damaged: its arrays do not have the digest that was recorded with them"
            )

    def _leaf(self, name: str) -> np.ndarray:
        leaf = read_leaf(self._where, name)
        self._read[name] = self._sums.of(_stored(name), leaf, (0,) * leaf.ndim)
        return leaf


def _stored(name: str) -> str:
    return name.replace("/", ".")
