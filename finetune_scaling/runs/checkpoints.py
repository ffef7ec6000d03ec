"""Checkpoints of one run: what trains, the optimizer's state, and how far the run has come; nothing that is frozen.

Orbax writes them in the background and atomically. Each is checked against a digest of its arrays when it is read; a
damaged one is set aside, and the newest good one taken instead. They are read onto any mesh, number of processes or
kind of device. Over several processes each writes and reads its share, and every function here must be called by all.
"""

import contextlib
import errno
import json
import logging
import os
import re
import zlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import preservation_policy as policies

from finetune_scaling.errors import CheckpointError, UserError, WorkdirError
from finetune_scaling.files import Location, absolute, disk_errors, is_remote, location, remote_failure
from finetune_scaling.library_reports import leave_out_of_logs
from finetune_scaling.runs.digest import digest
from finetune_scaling.runs.run_directory import CHECKPOINTS
from finetune_scaling.training.step import State
from finetune_scaling.trees import path_name, unflatten

CHECKPOINTS = CHECKPOINTS
_DAMAGED = "damaged."
log = logging.getLogger(__name__)

leave_out_of_logs()

CheckpointMetadata = dict[str, Any]  # JSON-like: what is known of a checkpoint beside its arrays


class DamagedCheckpointError(CheckpointError):
    """A checkpoint's files are not what was written."""


class RestoredCheckpoint(NamedTuple):
    """A checkpoint read back."""

    step: int
    state: State
    metadata: CheckpointMetadata


class Checkpoints:
    """The checkpoints of a run directory: the newest, the best (by the fact "best_step"), and those at `keep_steps`."""

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
        """Raises WorkdirError where processes see different directories below the same path."""
        seen = json.dumps([self.directory.is_dir(), self.steps()])
        digests = multihost_utils.process_allgather(np.uint32(zlib.crc32(seen.encode()))).reshape(-1)
        if differing := np.flatnonzero(digests != digests[0]).tolist():
            raise WorkdirError(
                f"{self.directory}: processes {differing} see other checkpoints there than process 0 "
                f"(process {jax.process_index()}: {self.steps()}); give a --workdir on storage that all hosts share"
            )

    def save(self, step: int, state: State, metadata: CheckpointMetadata) -> None:
        """Saves in the background; the arrays may be donated at once afterwards."""
        if step in self._manager.all_steps():
            return
        self._best.step = metadata.get("best_step")
        tree = _named(state)
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(tree),
            facts=ocp.args.JsonSave({**metadata, "step": step, "arrays_digest": digest(tree)}),
        )
        with storage_errors(self.directory):
            self._manager.save(step, args=items)

    def wait(self) -> None:
        """Returns when everything is on disk; WorkdirError where it did not fit there."""
        with storage_errors(self.directory):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, then lets go of the background threads."""
        with storage_errors(self.directory):
            self._manager.wait_until_finished()
            self._manager.close()  # which raises what a failed save left behind

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, in order."""
        return sorted(self._manager.all_steps())

    def restore_newest(self, target: State) -> RestoredCheckpoint | None:
        """The newest good checkpoint in the shape of `target`, or None where there is none at all.

        Damaged newer ones are reported and set aside; older ones that a killed process had no time to delete go.
        Raises CheckpointError where all of them are damaged, or where one belongs to another model or method.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                restored = self.restore(step, target)
            except DamagedCheckpointError as error:
                log.warning("%s; trying an older one", error)
                self._set_aside(step)
            else:
                self._delete_superseded(step)
                return restored
        if steps:
            raise CheckpointError(
                f"{self.directory}: none of the checkpoints {steps} is whole; they are kept as damaged.STEP. "
                "Start the run anew in an empty directory, or put a good copy back"
            )
        if damaged := self._set_aside_before():
            log.warning(
                "%s: no whole checkpoint is left, only %s: starting at step 0", self.directory, ", ".join(damaged)
            )
        return None

    def _delete_superseded(self, newest: int) -> None:
        """Orbax deletes them at the next save only, and a process killed between its last two acts makes no further."""
        with storage_errors(self.directory):
            for step in sorted(set(self.steps()) - {newest, self._best.step} - self._keep_steps):
                self._manager.delete(step)

    def _set_aside_before(self) -> list[str]:
        names = [entry.name for entry in self.directory.iterdir()] if self.directory.is_dir() else []
        return sorted(name for name in names if name.startswith(_DAMAGED))

    def restore(self, step: int, target: State) -> RestoredCheckpoint:
        """The checkpoint of one step. Raises CheckpointError where it is missing, damaged or of another shape."""
        where = self.directory / str(step)
        if step not in self._manager.all_steps():
            raise CheckpointError(f"{where}: no checkpoint of step {step}; there are {self.steps()}")
        tree, metadata = read_checkpoint(where, _named(target))
        self._best.step = metadata.get("best_step")
        return RestoredCheckpoint(step, _unnamed(tree, target), metadata)

    def _set_aside(self, step: int) -> None:
        with _alike(self.directory):
            if jax.process_index() == 0:
                self._rename_damaged(step)
        self._manager.reload()

    def _rename_damaged(self, step: int) -> None:
        source = self.directory / str(step)
        for number in range(1000):
            name = self.directory / (f"{_DAMAGED}{step}" + (f".{number}" if number else ""))
            if not name.exists():
                with disk_errors(name):
                    source.rename(name)
                break


@contextlib.contextmanager
def storage_errors(path: Location) -> Iterator[None]:
    """As files.disk_errors, and for TensorStore too, whose ValueErrors tell the system's code in their text."""
    with disk_errors(path):
        try:
            yield
        except ValueError as error:
            code = _os_error_code(error)
            if code is None and not is_remote(path):
                raise
            raise OSError(code, os.strerror(code) if code else str(error)) from error


class _KeepBest(policies.PreservationPolicy):
    """Keeps the checkpoint of the best evaluation so far, whose step the run names at each save."""

    step: int | None = None

    def should_preserve(self, checkpoints, *, context):
        return [checkpoint.step == self.step for checkpoint in checkpoints]


Place = Callable[[dict[str, Any]], dict[str, Any]]  # names -> arrays' shapes and dtypes; to their shardings


def read_checkpoint(
    where: Location, target: dict[str, Any] | None = None, place: Place | None = None
) -> tuple[dict[str, Any], CheckpointMetadata]:
    """Reads the arrays of a checkpoint by name, laid out as in `target`, and the metadata.

    place: where arrays are to live that no target tells of; without either they are NumPy arrays.
    Over several processes all must call it, and it ends alike on all. Raises CheckpointError where it is damaged, or
    where `target` has other names, shapes or dtypes; WorkdirError where it cannot be read just now, whole as it may be.
    """
    where = absolute(where)  # Orbax finds no metadata below a relative path
    with _alike(where), _damage(where):
        stored = _read_metadata(where)
        # Not through a Checkpointer: its barriers would wait for a process that found damage.
        with contextlib.closing(ocp.StandardCheckpointHandler()) as handler:
            known = dict(handler.metadata(epath.Path(where / "state")).tree)
            wanted = _targets(known, place) if target is None else target
            _check_shapes(where, known, wanted)
            as_stored = {name: _as_stored(known[name], leaf) for name, leaf in wanted.items()}
            tree = handler.restore(epath.Path(where / "state"), args=ocp.args.StandardRestore(as_stored))
    if digest(tree) != stored.get("arrays_digest"):
        raise DamagedCheckpointError(f"{where}: damaged: its arrays do not have the digest that was recorded with them")
    _check_dtypes(where, tree, target or {})
    return tree, stored


def _targets(known: dict[str, Any], place: Place | None) -> dict[str, Any]:
    if place is None:
        return {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in known.items()}
    shapes = _shapes(known)
    return {
        stored_name(name): jax.ShapeDtypeStruct(shapes[name].shape, shapes[name].dtype, sharding=sharding)
        for name, sharding in place(shapes).items()
    }


def _shapes(known: dict[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    return {name.replace(_SEPARATOR, "/"): jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in known.items()}


def read_metadata(where: Location) -> CheckpointMetadata:
    """The metadata of a checkpoint alone; raises as `read` does, on this process only."""
    where = absolute(where)
    with _damage(where):
        return _read_metadata(where)


def read_array_shapes(where: Location) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of a checkpoint's arrays by name (trainable/..., optimizer/...), without reading any of them.

    Raises as `read` does, on this process only.
    """
    where = absolute(where)
    with _damage(where), contextlib.closing(ocp.StandardCheckpointHandler()) as handler:
        return _shapes(dict(handler.metadata(epath.Path(where / "state")).tree))


def read_array(where: Location, name: str) -> np.ndarray:
    """One array of a checkpoint by its name (trainable/...), which no digest tells of alone; raises as `read` does."""
    where, key = absolute(where), stored_name(name)
    with _damage(where), contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
        known = dict(handler.metadata(epath.Path(where / "state")).tree)[key]
        target = {key: np.zeros(known.shape, known.dtype)}
        how = {key: ocp.RestoreArgs(restore_type=np.ndarray)}
        args = ocp.args.PyTreeRestore(item=target, restore_args=how, partial_restore=True)
        return handler.restore(epath.Path(where / "state"), args=args)[key]


def read_trainable(where: Location, place: Place | None = None) -> tuple[dict[str, Any], CheckpointMetadata]:
    """The trained parameters of a checkpoint as a nested tree, whatever their shapes, and the metadata; as `read`."""
    tree, metadata = read_checkpoint(where, place=place)
    trained = {name.removeprefix(_TRAINABLE): leaf for name, leaf in tree.items() if name.startswith(_TRAINABLE)}
    return unflatten({name.replace(_SEPARATOR, "/"): leaf for name, leaf in trained.items()}), metadata


@contextlib.contextmanager
def _alike(where: Location) -> Iterator[None]:
    """Over several processes, fails on all where it fails on one, so that none waits for another or goes its own way.

    Damage on one and another failure elsewhere count as the latter: nothing is to be moved then.
    """
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        failure = error
    rank = 0 if failure is None else 1 if isinstance(failure, DamagedCheckpointError) else 2
    ranks = multihost_utils.process_allgather(np.int32(rank)).reshape(-1)
    worst = int(ranks.max())
    if failure is not None and rank == worst:
        raise failure
    found = f"as process {int(ranks.argmax())} found, which says more"
    if worst == 1:
        raise DamagedCheckpointError(f"{where}: damaged, {found}")
    if worst:
        raise WorkdirError(f"{where}: cannot be used, {found}")


@contextlib.contextmanager
def _damage(where: Location) -> Iterator[None]:
    """Turns what a reader says of a damaged file into DamagedCheckpointError, and of a file that may be whole not."""
    try:
        yield
    except (UserError, MemoryError, jax.errors.JaxRuntimeError):  # the last: the device's memory is full
        raise
    except Exception as error:  # tensorstore, zlib, JSON: whatever a damaged file makes its reader say
        _check_readable(where, error)
        raise DamagedCheckpointError(f"{where}: damaged or half-written ({type(error).__name__})") from error


# What the system says where files are missing or others than were written.
_OF_DAMAGE = (None, errno.ENOENT, errno.ENOTDIR, errno.EISDIR)


def _check_readable(where: Location, error: BaseException) -> None:
    """Raises WorkdirError where the system failed and not the files, MemoryError where memory ran out.

    Readers tell it in an error's cause, TensorStore in its text only, and Orbax takes a folder that it may not list for
    an empty one: so all files are read once more, plainly.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError):
            raise cause
        number = cause.errno if isinstance(cause, OSError) else _os_error_code(cause)
        if number not in _OF_DAMAGE and isinstance(where, Path):
            raise _unreadable(where, number) from error
        cause = cause.__cause__ or cause.__context__
    try:
        _read_all(where)
    except FileNotFoundError:
        return
    except Exception as failure:
        reason = None if isinstance(where, Path) else remote_failure(failure)
        if reason:
            raise WorkdirError(f"{where}: {reason}; nothing was moved or changed") from error
        if not isinstance(failure, OSError):
            raise
        if failure.errno not in _OF_DAMAGE:
            raise _unreadable(failure.filename or where, failure.errno) from error


def _unreadable(path: str | os.PathLike, number: int | None) -> WorkdirError:
    return WorkdirError(
        f"{path}: cannot be read ({os.strerror(number or 0)}); nothing was moved or changed: mend that and run the "
        "same command again"
    )


def _os_error_code(error: BaseException) -> int | None:
    """The system's code in the text of an error of TensorStore's."""
    code = re.search(r"os_error_code='(\d+)'", str(error))
    return int(code[1]) if code else None


def _read_all(folder: Location) -> None:
    """Reads all files below a folder, for nothing but the error where one cannot be read."""
    for entry in folder.iterdir():
        if entry.is_dir():
            _read_all(entry)
        else:
            with entry.open("rb") as file:
                while file.read(1 << 20):
                    pass


_SEPARATOR = "."  # Orbax takes a slash in a name for a folder
_TRAINABLE = "trainable" + _SEPARATOR


def _named(state: State) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {stored_name(path_name(path)): leaf for path, leaf in leaves}


def stored_name(path: str) -> str:
    """What an array of a checkpoint is called on the disk: trainable.embedding of trainable/embedding."""
    return path.replace("/", _SEPARATOR)


def _unnamed(tree: dict[str, Any], target: State) -> State:
    structure = jax.tree.structure(target)
    return jax.tree.unflatten(structure, [tree[name] for name in _named(target)])


def _read_metadata(where: Location) -> CheckpointMetadata:
    metadata = ocp.JsonCheckpointHandler().restore(epath.Path(where / "facts"))
    if not isinstance(metadata, dict):
        raise ValueError("not an object")
    return metadata


def _as_stored(known: Any, wanted: Any) -> Any:
    """What to read: the stored form, so that its digest can be taken, laid out as it is wanted."""
    if isinstance(wanted, np.ndarray):
        return wanted
    return jax.ShapeDtypeStruct(known.shape, known.dtype, sharding=wanted.sharding)


def _check_dtypes(where: Location, tree: dict[str, Any], target: dict[str, Any]) -> None:
    for name, leaf in target.items():
        if tree[name].dtype != leaf.dtype:
            raise CheckpointError(
                f"{where}: belongs to another model: {name} is {tree[name].dtype} there and {leaf.dtype} in the config"
            )


def _check_shapes(where: Location, known: dict[str, Any], target: dict[str, Any]) -> None:
    for name in sorted(known.keys() | target.keys()):
        if name not in known or name not in target:
            lacks = "lacks" if name not in known else "has a further"
            raise CheckpointError(f"{where}: belongs to another model or method: it {lacks} {name}")
        if tuple(known[name].shape) != tuple(target[name].shape):
            raise CheckpointError(
                f"{where}: belongs to another model: {name} is {list(known[name].shape)} there and "
                f"{list(target[name].shape)} in the config"
            )


def checkpoint_steps(run: str | os.PathLike) -> Iterator[int]:
    """Steps that have a checkpoint in a run directory that may be in use, newest first."""
    folder = location(run) / CHECKPOINTS
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    yield from sorted((int(name) for name in names if name.isdigit() and _is_whole(folder / name)), reverse=True)


def _is_whole(checkpoint: Location) -> bool:
    """Whether all of it was written: locally it gets its name then; object stores cannot rename, so a file says so."""
    return isinstance(checkpoint, Path) or (checkpoint / "commit_success.txt").exists()
