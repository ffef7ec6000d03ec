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
from finetune_scaling.trees import Tree, flatten, path_name, unflatten
from finetune_scaling.tuning.attach import frozen_dtype

_DAMAGED = "damaged."
_FIX_CONFIG = "Fix: choose another --workdir, or use the config that the checkpoint was trained with"
_SEPARATOR = "."  # in names of stored arrays; Orbax would create a folder for a slash
_TRAINABLE = "trainable"  # what the names of trainable arrays begin with
_STORED = "stored"  # key of the digest of trainable arrays in their stored dtypes
COMPUTE_DTYPES = ("bfloat16", "float32")  # of ModelConfig.compute_dtype
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

    def __init__(self, run: str | os.PathLike, keep_steps: Collection[int] = (), base_dtypes: Collection[str] = ()):
        """base_dtypes: compute dtypes in which the model will be read as a base, see `read_trainable`."""
        self._base_dtypes = base_dtypes
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
        digests = {"arrays_digest": digest(arrays), "trainable_digests": _trainable_digests(arrays, self._base_dtypes)}
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(arrays),
            facts=ocp.args.JsonSave(json_value({**metadata, "step": step, **digests})),
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
        arrays, metadata = read_checkpoint(self._existing(step), _stored_arrays(target))
        self._best.step = metadata.get("best_step")
        leaves = [arrays[name] for name in _stored_arrays(target)]
        return RestoredCheckpoint(step, jax.tree.unflatten(jax.tree.structure(target), leaves), metadata)

    def restore_trainable(self, step: int, target: Tree) -> Tree:
        """Return one step's trainable parameters, with the structure and shardings of `target`; raises as `restore`."""
        where = {f"{_TRAINABLE}/{name}": leaf.sharding for name, leaf in flatten(target).items()}
        found, metadata = read_trainable(self._existing(step), lambda _: where)
        self._best.step = metadata.get("best_step")
        leaves = flatten(found)
        return jax.tree.unflatten(jax.tree.structure(target), [leaves[name] for name in flatten(target)])

    def _existing(self, step: int) -> Location:
        path = self.directory / str(step)
        if step not in self._manager.all_steps():
            raise CheckpointError(f"{path}: no checkpoint of step {step}; there are {self.steps()}. {FIX}")
        return path

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


def read_checkpoint(path: Location, target: dict[str, Any] | None = None) -> tuple[dict[str, Any], CheckpointMetadata]:
    """Return the arrays of a checkpoint by stored name (trainable.embedding), and its metadata.

    Args:
        path: the checkpoint.
        target: arrays or ShapeDtypeStructs with the expected names, shapes and dtypes; those read have the same
            shardings. Without it the arrays are NumPy arrays.

    Raises:
        CheckpointError: it is damaged, or differs from `target`. All processes raise the same kind of error.
        WorkdirError: it cannot be read at present, although it may be intact.
    """
    path = absolute(path)  # Orbax finds no metadata below a relative path
    with same_outcome_on_all_processes(path), damage_errors(path):
        metadata, stored = _read_metadata(path), _stored_shapes(path)
        if target is not None:
            _check_shapes(path, stored, target)
        # In the stored dtype, so that the digest can be verified.
        wanted = {name: _with_sharding(leaf, (target or {}).get(name)) for name, leaf in stored.items()}
        arrays = _read_arrays(path, wanted)
    _check_digest(path, arrays, metadata.get("arrays_digest"))
    _check_dtypes(path, arrays, target or {})
    return arrays, metadata


def read_trainable(
    path: Location, shardings: Shardings | None = None, compute_dtype: str | None = None
) -> tuple[dict[str, Any], CheckpointMetadata]:
    """Return a checkpoint's trainable parameters as a nested dict, and its metadata.

    Args:
        path: the checkpoint.
        shardings: computes the shardings; without them the arrays are NumPy arrays.
        compute_dtype: read the parameters in the dtypes of frozen ones (tuning.attach.frozen_dtype), cast on the host
            before they reach a device. None keeps the stored dtypes.

    Raises the errors of read_checkpoint.
    """
    path = absolute(path)
    with same_outcome_on_all_processes(path), damage_errors(path):
        metadata, stored = _read_metadata(path), _stored_shapes(path)
        recorded = _recorded_digest(metadata, stored, compute_dtype)
        if recorded is not None:  # otherwise all arrays must be read in their stored dtypes
            stored = _trainable_only(stored)
            for name, cast in _frozen_dtypes(stored, compute_dtype).items():
                stored[name] = stored[name].update(dtype=cast)
        where = shardings(_with_slashes(stored)) if shardings else {}
        wanted = {name: leaf.update(sharding=where.get(_with_slash(name))) for name, leaf in stored.items()}
        arrays = _read_arrays(path, wanted)
    _check_digest(path, arrays, recorded or metadata.get("arrays_digest"))
    arrays = _trainable_only(arrays)
    for name, cast in _frozen_dtypes(arrays, compute_dtype).items():
        arrays[name] = arrays[name].astype(cast)  # one at a time; does nothing to arrays that were cast when read
    return unflatten(_with_slashes(arrays))[_TRAINABLE], metadata


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
    with damage_errors(path):
        return _with_slashes(_stored_shapes(path))


def stored_name(name: str) -> str:
    """Return the name under which an array is stored: trainable.embedding for trainable/embedding."""
    return name.replace("/", _SEPARATOR)


def _stored_arrays(state: State) -> dict[str, Any]:
    return {stored_name(path_name(path)): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)}


def _stored_shapes(path: Location) -> dict[str, jax.ShapeDtypeStruct]:
    with contextlib.closing(ocp.StandardCheckpointHandler()) as handler:
        stored = dict(handler.metadata(epath.Path(path / "state")).tree)
    return {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in stored.items()}


def _with_sharding(shape: jax.ShapeDtypeStruct, like: Any) -> jax.ShapeDtypeStruct:
    return shape if like is None else shape.update(sharding=like.sharding)


def _read_arrays(path: Location, wanted: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, Any]:
    """Read the wanted arrays in their dtypes and shardings, those without a sharding as NumPy arrays."""
    targets = {n: leaf if leaf.sharding else np.empty(leaf.shape, leaf.dtype) for n, leaf in wanted.items()}
    arguments = ocp.args.PyTreeRestore(
        targets, ocp.checkpoint_utils.construct_restore_args(targets), partial_restore=True
    )
    # Not through a Checkpointer: its barriers would wait for a process that found damage.
    with contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
        return dict(handler.restore(epath.Path(path / "state"), args=arguments))


def _check_digest(path: Location, arrays: Mapping[str, Any], recorded: str | None) -> None:
    if digest(arrays) != recorded:
        raise damaged(path, "its arrays do not have the recorded digest")


def _trainable_digests(arrays: Mapping[str, Any], compute_dtypes: Collection[str]) -> dict[str, str]:
    """Return digests of the trainable arrays for `read_trainable`, by `digest_dtypes`."""
    arrays = _trainable_only(arrays)
    return {key: digest(arrays, dtypes) for key, dtypes in digest_dtypes(arrays, compute_dtypes).items()}


def digest_dtypes(
    arrays: Mapping[str, Any], compute_dtypes: Collection[str] = COMPUTE_DTYPES
) -> dict[str, dict[str, np.dtype]]:
    """Return the dtypes of trainable arrays, by stored name, for each digest that is recorded for them.

    Keys: "stored", and each compute dtype with which frozen parameters have other dtypes.
    """
    stored = {name: np.dtype(leaf.dtype) for name, leaf in arrays.items()}
    frozen = {dtype: _frozen_dtypes(arrays, dtype) for dtype in compute_dtypes}
    return {_STORED: stored, **{dtype: dtypes for dtype, dtypes in frozen.items() if dtypes != stored}}


def _recorded_digest(metadata: CheckpointMetadata, stored: Mapping[str, Any], compute_dtype: str | None) -> str | None:
    """Return the digest of the trainable arrays in the dtypes to read; None if it was not recorded."""
    wanted = () if compute_dtype is None else (compute_dtype,)
    key = [*digest_dtypes(_trainable_only(stored), wanted)][-1]
    return metadata.get("trainable_digests", {}).get(key)


def _trainable_only(arrays: Mapping[str, Any]) -> dict[str, Any]:
    return {name: leaf for name, leaf in arrays.items() if name.startswith(_TRAINABLE + _SEPARATOR)}


def _frozen_dtypes(arrays: Mapping[str, Any], compute_dtype: str | None) -> dict[str, np.dtype]:
    """Return the dtypes of trainable arrays as frozen parameters, by stored name; {} without a compute dtype."""
    if compute_dtype is None:
        return {}
    names = {name: _with_slash(name).removeprefix(_TRAINABLE + "/") for name in _trainable_only(arrays)}
    return {n: np.dtype(frozen_dtype(name, arrays[n].ndim, compute_dtype)) for n, name in names.items()}


def _with_slash(name: str) -> str:
    return name.replace(_SEPARATOR, "/")


def _with_slashes(stored: Mapping[str, Any]) -> dict[str, Any]:
    return {_with_slash(name): leaf for name, leaf in stored.items()}


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
