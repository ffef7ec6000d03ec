"""Checkpoints of one run: trainable parameters, optimizer state and training progress; frozen parameters are not saved.

Orbax writes them asynchronously and atomically. Reading verifies a digest of the arrays; a damaged checkpoint is set
aside and the newest intact one is used. They can be read onto any mesh, number of processes and kind of device. In a
distributed run all processes must call every function that reads or writes arrays, each for its shards.
"""

import contextlib
import json
import logging
import os
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import preservation_policy as policies

from finetune_scaling.errors import CheckpointError, WorkdirError
from finetune_scaling.files import Location, absolute, disk_errors, location
from finetune_scaling.runs.checkpoint_errors import (
    FIX,
    DamagedCheckpointError,
    damage_errors,
    damaged,
    same_outcome_on_all_processes,
    storage_errors,
)
from finetune_scaling.runs.digest import digest
from finetune_scaling.runs.run_directory import CHECKPOINTS
from finetune_scaling.runs.training_progress import progress_from_metadata
from finetune_scaling.strict_json import json_value
from finetune_scaling.training.step import State
from finetune_scaling.trees import path_name, unflatten

_DAMAGED = "damaged."
_FIX_CONFIG = "Fix: choose another --workdir, or use the config that the checkpoint was trained with"
_SEPARATOR = "."  # in names of stored arrays; Orbax would create a folder for a slash
log = logging.getLogger(__name__)

CheckpointMetadata = dict[str, Any]  # JSON: what is known about a checkpoint in addition to its arrays
Shardings = Callable[[dict[str, Any]], Mapping[str, Any]]  # shapes and dtypes by name -> shardings by name


class RestoredCheckpoint(NamedTuple):
    """A checkpoint that was read."""

    step: int
    state: State
    metadata: CheckpointMetadata


class Checkpoints:
    """The checkpoints of a run directory: the newest, the best (metadata "best_step"), and those of `keep_steps`."""

    def __init__(self, run: str | os.PathLike, keep_steps: Collection[int] = ()):
        self.directory = location(run) / CHECKPOINTS
        self._best = _KeepBest()
        self._keep_steps = frozenset(keep_steps)
        keep = [policies.LatestN(n=1), policies.CustomSteps(steps=sorted(keep_steps)), self._best]
        options = ocp.CheckpointManagerOptions(preservation_policy=policies.AnyPreservationPolicy(keep))
        with storage_errors(self.directory):
            self._manager = ocp.CheckpointManager(epath.Path(absolute(self.directory)), options=options)
        self._check_shared()

    def _check_shared(self) -> None:
        """Raise WorkdirError if processes see different directories under the same path."""
        content = json.dumps([self.directory.is_dir(), self.steps()])
        checksums = multihost_utils.process_allgather(np.uint32(zlib.crc32(content.encode()))).reshape(-1)
        if differing := np.flatnonzero(checksums != checksums[0]).tolist():
            raise WorkdirError(
                f"{self.directory}: processes {differing} see other checkpoints than process 0 "
                f"(process {jax.process_index()}: {self.steps()}). Fix: give a --workdir on storage shared by all hosts"
            )

    def save(self, step: int, state: State, metadata: CheckpointMetadata) -> None:
        """Save asynchronously; the arrays may be donated right after this returns."""
        if step in self._manager.all_steps():
            return
        self._best.step = metadata.get("best_step")
        arrays = _stored_arrays(state)
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(arrays),
            facts=ocp.args.JsonSave(json_value({**metadata, "step": step, "arrays_digest": digest(arrays)})),
        )
        with storage_errors(self.directory):
            self._manager.save(step, args=items)

    def wait(self) -> None:
        """Wait until everything is written. Raises WorkdirError if the disk is full."""
        with storage_errors(self.directory):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait, then stop the background threads."""
        self.wait()
        with storage_errors(self.directory):
            self._manager.close()  # raises the error of a failed save

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, in order."""
        return sorted(self._manager.all_steps())

    def restore_newest(self, target: State) -> RestoredCheckpoint | None:
        """Return the newest intact checkpoint, with the structure of `target`; None if the run has no checkpoint.

        Damaged newer ones are logged and set aside. Superseded ones that a killed process did not delete are deleted.
        Raises CheckpointError if all are damaged, or if one belongs to another model or method.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                restored = self.restore(step, target)
            except DamagedCheckpointError as error:
                log.warning("%s; trying an older one", str(error).removesuffix(f". {FIX}"))
                self._set_aside(step)
            else:
                self._delete_superseded(step)
                return restored
        if steps:
            raise CheckpointError(
                f"{self.directory}: all checkpoints {steps} are damaged; they were renamed to {_DAMAGED}STEP. {FIX}"
            )
        if set_aside := damaged_checkpoints(self.directory):
            log.warning("%s: no intact checkpoint, only %s: starting at step 0", self.directory, ", ".join(set_aside))
        return None

    def restore(self, step: int, target: State) -> RestoredCheckpoint:
        """Return one step's checkpoint. Raises CheckpointError if it is missing, damaged or has other shapes."""
        path = self.directory / str(step)
        if step not in self._manager.all_steps():
            raise CheckpointError(f"{path}: no checkpoint of step {step}; there are {self.steps()}. {FIX}")
        arrays, metadata = read_checkpoint(path, _stored_arrays(target))
        self._best.step = metadata.get("best_step")
        leaves = [arrays[name] for name in _stored_arrays(target)]
        return RestoredCheckpoint(step, jax.tree.unflatten(jax.tree.structure(target), leaves), metadata)

    def _delete_superseded(self, newest: int) -> None:
        """Delete the checkpoints that Orbax deletes at the next save, which a killed process may not have reached."""
        with storage_errors(self.directory):
            for step in sorted(set(self.steps()) - {newest, self._best.step} - self._keep_steps):
                self._manager.delete(step)

    def _set_aside(self, step: int) -> None:
        """Rename a damaged checkpoint to damaged.STEP, or damaged.STEP.NUMBER if that exists."""
        with same_outcome_on_all_processes(self.directory):
            if jax.process_index() == 0:
                names = [f"{_DAMAGED}{step}", *(f"{_DAMAGED}{step}.{number}" for number in range(1, 1000))]
                free = next(self.directory / name for name in names if not (self.directory / name).exists())
                with disk_errors(free):
                    (self.directory / str(step)).rename(free)
        self._manager.reload()


class _KeepBest(policies.PreservationPolicy):
    """Preserve the checkpoint of the best evaluation so far, whose step is set at each save."""

    step: int | None = None

    def should_preserve(self, checkpoints, *, context):
        return [checkpoint.step == self.step for checkpoint in checkpoints]


def checkpoint_steps(run: str | os.PathLike) -> Iterator[int]:
    """Yield the steps that have a complete checkpoint in a run directory, newest first; the run may be in progress."""
    folder = location(run) / CHECKPOINTS
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    yield from sorted((int(name) for name in names if name.isdigit() and _is_complete(folder / name)), reverse=True)


def _is_complete(checkpoint: Location) -> bool:
    """Return whether Orbax committed a checkpoint: locally by renaming it, in an object store by a marker file."""
    return isinstance(checkpoint, Path) or (checkpoint / "commit_success.txt").exists()


def damaged_checkpoints(folder: Location) -> list[str]:
    """Return the names of checkpoints that were set aside in a run's checkpoint folder."""
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    return sorted(name for name in names if name.startswith(_DAMAGED))


def read_checkpoint(
    path: Location, target: dict[str, Any] | None = None, shardings: Shardings | None = None
) -> tuple[dict[str, Any], CheckpointMetadata]:
    """Return the arrays of a checkpoint by stored name (trainable.embedding), and its metadata.

    Args:
        path: the checkpoint.
        target: arrays with the expected names, shapes and dtypes; those read have the same shardings.
        shardings: computes the shardings if there is no target. Without either the arrays are NumPy arrays.

    Raises:
        CheckpointError: it is damaged, or differs from `target`. All processes raise the same kind of error.
        WorkdirError: it cannot be read at present, although it may be intact.
    """
    path = absolute(path)  # Orbax finds no metadata below a relative path
    with same_outcome_on_all_processes(path), damage_errors(path):
        metadata = _read_metadata(path)
        # Not through a Checkpointer: its barriers would wait for a process that found damage.
        with contextlib.closing(ocp.StandardCheckpointHandler()) as handler:
            stored = _stored_shapes(handler, path)
            if target is not None:
                _check_shapes(path, stored, target)
                sharding_of = {name: leaf.sharding for name, leaf in target.items() if isinstance(leaf, jax.Array)}
            else:
                named = shardings(_with_slashes(stored)) if shardings else {}
                sharding_of = {stored_name(name): sharding for name, sharding in named.items()}
            abstract = {  # in the stored dtype, so that the digest can be verified
                name: leaf.update(sharding=sharding_of[name])
                if name in sharding_of
                else np.zeros(leaf.shape, leaf.dtype)
                for name, leaf in stored.items()
            }
            arrays = handler.restore(epath.Path(path / "state"), args=ocp.args.StandardRestore(abstract))
    if digest(arrays) != metadata.get("arrays_digest"):
        raise damaged(path, "its arrays do not have the recorded digest")
    _check_dtypes(path, arrays, target or {})
    return arrays, metadata


def read_trainable(path: Location, shardings: Shardings | None = None) -> tuple[dict[str, Any], CheckpointMetadata]:
    """Return a checkpoint's trainable parameters as a nested dict, and its metadata; see read_checkpoint."""
    arrays, metadata = read_checkpoint(path, shardings=shardings)
    return unflatten(_with_slashes(arrays))["trainable"], metadata


def read_metadata(path: Location) -> CheckpointMetadata:
    """Return a checkpoint's metadata. Raises as read_checkpoint does, on this process only."""
    path = absolute(path)
    with damage_errors(path):
        return _read_metadata(path)


def read_array_shapes(path: Location) -> dict[str, jax.ShapeDtypeStruct]:
    """Return shapes and dtypes of a checkpoint's arrays by name (trainable/..., optimizer/...); reads no array.

    Raises as read_checkpoint does, on this process only.
    """
    path = absolute(path)
    with damage_errors(path), contextlib.closing(ocp.StandardCheckpointHandler()) as handler:
        return _with_slashes(_stored_shapes(handler, path))


def stored_name(name: str) -> str:
    """Return the name under which an array is stored: trainable.embedding for trainable/embedding."""
    return name.replace("/", _SEPARATOR)


def _stored_arrays(state: State) -> dict[str, Any]:
    return {stored_name(path_name(path)): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)}


def _stored_shapes(handler: ocp.StandardCheckpointHandler, path: Location) -> dict[str, jax.ShapeDtypeStruct]:
    stored = dict(handler.metadata(epath.Path(path / "state")).tree)
    return {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in stored.items()}


def _with_slashes(stored: Mapping[str, Any]) -> dict[str, Any]:
    return {name.replace(_SEPARATOR, "/"): leaf for name, leaf in stored.items()}


def _read_metadata(path: Location) -> CheckpointMetadata:
    metadata = ocp.JsonCheckpointHandler().restore(epath.Path(path / "facts"))
    if not isinstance(metadata, dict):
        raise ValueError("not a JSON object")
    if "position" in metadata:
        progress_from_metadata(metadata)  # raises if it is damaged
    return metadata


def _check_shapes(path: Location, stored: Mapping[str, Any], target: Mapping[str, Any]) -> None:
    for name in sorted(stored.keys() | target.keys()):
        if name not in stored or name not in target:
            problem = f"{name} is missing" if name not in stored else f"it has {name} in addition"
            raise CheckpointError(f"{path}: belongs to another model or method: {problem}. {_FIX_CONFIG}")
        if tuple(stored[name].shape) != tuple(target[name].shape):
            raise CheckpointError(
                f"{path}: belongs to another model: {name} has shape {list(stored[name].shape)}, and the config "
                f"implies {list(target[name].shape)}. {_FIX_CONFIG}"
            )


def _check_dtypes(path: Location, arrays: Mapping[str, Any], target: Mapping[str, Any]) -> None:
    for name, leaf in target.items():
        if arrays[name].dtype != leaf.dtype:
            raise CheckpointError(
                f"{path}: belongs to another model: {name} is {arrays[name].dtype}, and the config implies "
                f"{leaf.dtype}. {_FIX_CONFIG}"
            )
