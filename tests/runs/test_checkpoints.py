"""Checkpoints: what is restored equals what was saved, or damage to the files is reported."""

import dataclasses
import errno
import json
import logging
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore as ts

from finetune_scaling.errors import EXIT_USAGE, CheckpointError, WorkdirError
from finetune_scaling.experiments.run import run as run_to_end
from finetune_scaling.runs import checkpoints as checkpoints_module
from finetune_scaling.runs.checkpoints import (
    COMPUTE_DTYPES,
    Checkpoints,
    checkpoint_steps,
    read_checkpoint,
    read_metadata,
    read_trainable,
)
from finetune_scaling.runs.digest import digest
from finetune_scaling.runs.training_progress import TrainingProgress, progress_from_metadata
from finetune_scaling.training.step import State
from finetune_scaling.tuning.attach import cast_frozen

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax, about damaged files


def state(step: int) -> State:
    """Random parameters and optimizer state of a step, of several dtypes, with None for frozen leaves."""
    rng = np.random.default_rng(step)
    trainable = {
        "layers": {"kernel": jnp.asarray(rng.normal(size=(2, 5, 3)), jnp.float32), "frozen": None},
        "scale": jnp.asarray(rng.normal(size=4), jnp.bfloat16),
    }
    return State(trainable, ({"m": jnp.asarray(rng.normal(size=(30, 30)), jnp.float32)}, jnp.int32(step)))


def equal(left: State, right: State) -> bool:
    return digest(left) == digest(right) and jax.tree.structure(left) == jax.tree.structure(right)


@pytest.fixture(scope="module")
def three(tmp_path_factory) -> Path:
    """A run directory with checkpoints of steps 1 (best), 2 and 3."""
    run = tmp_path_factory.mktemp("run")
    checkpoints = Checkpoints(run, keep_steps=(1, 2))
    for step in (1, 2, 3):
        checkpoints.save(step, state(step), {"best_step": 1, "text": "ü"})
    checkpoints.close()
    return run


@pytest.fixture
def run(three, tmp_path) -> Path:
    """A copy of `three` to damage."""
    return Path(shutil.copytree(three, tmp_path / "run"))


def test_restored_equals_saved(run):
    checkpoints = Checkpoints(run)
    assert checkpoints.steps() == [1, 2, 3]
    for step in (1, 2, 3):
        restored = checkpoints.restore(step, state(0))
        assert restored.step == step
        assert equal(restored.state, state(step))
        assert len(restored.metadata.pop("arrays_digest")) == 64
        assert set(restored.metadata.pop("trainable_digests")) == {"stored"}
        assert restored.metadata == {"best_step": 1, "text": "ü", "step": step}
    assert list(checkpoint_steps(run)) == [3, 2, 1]
    checkpoints.close()


@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
@pytest.mark.parametrize("compute_dtype", COMPUTE_DTYPES)
@pytest.mark.parametrize("recorded", [True, False], ids=["cast when read", "by an older version"])
def test_parameters_are_read_in_the_dtypes_of_frozen_ones(stored, compute_dtype, recorded, tmp_path):
    """Verified by the digest of the cast parameters alone, or of all arrays where an older version wrote them."""
    rng = np.random.default_rng(0)
    shapes = {"layers": {"kernel": (2, 5, 3), "scale": (2, 5)}, "embedding": (300, 300), "scale": (4,)}
    is_shape = lambda leaf: isinstance(leaf, tuple)  # noqa: E731
    params = jax.tree.map(lambda shape: jnp.asarray(rng.normal(size=shape), stored), shapes, is_leaf=is_shape)
    checkpoints = Checkpoints(tmp_path, base_dtypes=COMPUTE_DTYPES)
    checkpoints.save(1, State(params, {"m": jnp.ones(3)}), {})
    checkpoints.close()
    path = tmp_path / "checkpoints" / "1"
    with changed_metadata(path) as metadata:
        del metadata["arrays_digest" if recorded else "trainable_digests"]
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    tree, _ = read_trainable(path, lambda leaves: dict.fromkeys(leaves, sharding), compute_dtype)
    assert digest(tree) == digest(cast_frozen(params, compute_dtype))
    assert all(leaf.sharding == sharding for leaf in jax.tree.leaves(tree))
    with changed_metadata(path) as metadata:
        metadata["arrays_digest"] = "0" * 64
        metadata["trainable_digests"] = dict.fromkeys(metadata.get("trainable_digests", ()), "0" * 64)
    with pytest.raises(CheckpointError, match="damaged: its arrays do not have the recorded digest"):
        read_trainable(path, None, compute_dtype)


@contextmanager
def changed_metadata(checkpoint: Path) -> Iterator[dict]:
    file = checkpoint / "facts" / "metadata"
    metadata = json.loads(file.read_text())
    yield metadata
    file.write_text(json.dumps(metadata))


def test_metadata_is_strict_json_before_the_first_evaluation(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    progress = TrainingProgress(step=1, unreported_loss=float("inf"))
    checkpoints.save(1, state(1), {"best_step": None, "position": dataclasses.asdict(progress)})
    checkpoints.close()
    for file in (tmp_path / "checkpoints" / "1" / "facts").iterdir():
        assert not re.search("Infinity|NaN", file.read_text())
    metadata = read_metadata(tmp_path / "checkpoints" / "1")
    assert metadata["position"]["unreported_loss"] is None
    older = {**metadata["position"], "best_loss": float("inf"), "unreported_loss": 0.0}  # what commits before wrote
    for position in (older, {**older, "best_loss": None}):
        assert progress_from_metadata({"position": position}) == TrainingProgress(step=1)


@pytest.mark.parametrize("change", [{"los3es": []}, {"step": "2"}])
def test_damaged_progress_counts_as_a_damaged_checkpoint(run, change):
    (file,) = (run / "checkpoints" / "3" / "facts").glob("metadata")
    metadata = json.loads(file.read_text())
    metadata["position"] = {**dataclasses.asdict(TrainingProgress(step=3)), **change}
    file.write_text(json.dumps(metadata))
    checkpoints = Checkpoints(run)
    with pytest.raises(CheckpointError, match="checkpoints/3: damaged"):
        checkpoints.restore(3, state(0))
    checkpoints.close()


def test_checkpoints_that_a_killed_process_did_not_delete_are_deleted(run):
    checkpoints = Checkpoints(run)
    assert checkpoints.restore_newest(state(0)).step == 3
    assert list(checkpoint_steps(run)) == checkpoints.steps()[::-1] == [3, 1]
    checkpoints.close()


def test_a_saved_state_may_be_donated_at_once(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    add = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree), donate_argnums=0)
    current = state(1)
    checkpoints.save(1, current, {})
    for _ in range(20):
        current = add(current)
    checkpoints.wait()
    assert equal(checkpoints.restore(1, state(0)).state, state(1))
    checkpoints.close()


def test_newest_best_and_keep_steps_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep_steps=(2,))
    best = {1: 1, 2: 1, 3: 3, 4: 3, 5: 3}
    for step, best_step in best.items():
        checkpoints.save(step, state(step), {"best_step": best_step})
    checkpoints.close()
    assert list(checkpoint_steps(tmp_path)) == [5, 3, 2]
    reopened = Checkpoints(tmp_path, keep_steps=(2,))
    assert reopened.restore_newest(state(0)).step == 5  # whose metadata say that step 3 is the best
    reopened.save(6, state(6), {"best_step": 3})
    reopened.close()
    assert list(checkpoint_steps(tmp_path)) == [6, 3, 2]


def test_a_run_without_checkpoint_restores_none(tmp_path):
    assert Checkpoints(tmp_path).restore_newest(state(0)) is None
    assert list(checkpoint_steps(tmp_path / "none")) == []


def files_of(checkpoint: Path) -> list[Path]:
    return sorted(path for path in checkpoint.rglob("*") if path.is_file())


def truncate(path: Path, rng: random.Random) -> None:
    os.truncate(path, rng.randrange(path.stat().st_size) if path.stat().st_size else 0)


def zero(path: Path, rng: random.Random) -> None:
    start = rng.randrange(max(1, path.stat().st_size))
    path.write_bytes(path.read_bytes()[:start].ljust(path.stat().st_size, b"\0"))


def delete(path: Path, rng: random.Random) -> None:
    path.unlink()


def flip(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    if content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def damage(path: Path, rng: random.Random) -> str:
    changes = [truncate, zero, delete, flip] if "state" in path.parts else [truncate, zero, delete]
    act = rng.choice(changes)
    act(path, rng)
    return f"{act.__name__} {path.name}"


@pytest.mark.parametrize("seed", range(12))
def test_after_any_damage_the_newest_intact_checkpoint_is_used(seed, run, caplog):
    rng = random.Random(seed)
    done = damage(rng.choice(files_of(run / "checkpoints" / "3")), rng)
    checkpoints = Checkpoints(run, keep_steps=(1, 2))
    with caplog.at_level(logging.WARNING, logger="finetune_scaling"):
        restored = checkpoints.restore_newest(state(0))
    # Damage to bytes that are not read may go unnoticed, but what is restored is always right.
    assert restored.step in (2, 3), done
    assert equal(restored.state, state(restored.step)), done
    assert restored.metadata["best_step"] == 1, done
    if restored.step == 2:
        assert "damaged" in caplog.text or checkpoints.steps() == [1, 2]
    checkpoints.save(4, state(4), {"best_step": 1})
    checkpoints.close()
    assert equal(Checkpoints(run).restore_newest(state(0)).state, state(4))


def test_a_damaged_checkpoint_is_set_aside_and_logged(run, caplog):
    for path in files_of(run / "checkpoints" / "3" / "state"):
        if path.parent.name == "d":  # where the arrays are
            path.write_bytes(bytes(path.stat().st_size))
    checkpoints = Checkpoints(run)
    with caplog.at_level(logging.WARNING, logger="finetune_scaling"):
        assert checkpoints.restore_newest(state(0)).step == 2
    assert re.search(f"{run / 'checkpoints' / '3'}: damaged: .+[^.]; trying an older one", caplog.text)
    assert (run / "checkpoints" / "damaged.3").is_dir()
    assert checkpoints.steps() == [1, 2]


def rewrite(checkpoint: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Replace an array of a checkpoint using TensorStore only."""
    spec = {
        "driver": "zarr",
        "kvstore": {"driver": "ocdbt", "base": f"file://{checkpoint / 'state'}", "path": f"{name}/"},
    }
    stored = ts.open(spec).result().read().result()
    changed = change(stored)
    create = {**spec, "create": True, "delete_existing": True}
    store = ts.open(create, dtype=changed.dtype, shape=changed.shape).result()
    store.write(changed).result()


@pytest.mark.parametrize("dtype", ["float16", "int32", "bfloat16"])
def test_an_array_of_another_dtype_is_damage(dtype, run, caplog):
    rewrite(run / "checkpoints" / "3", "trainable.layers.kernel", lambda array: array.astype(dtype))
    checkpoints = Checkpoints(run)
    with caplog.at_level(logging.WARNING, logger="finetune_scaling"):
        assert equal(checkpoints.restore_newest(state(0)).state, state(2))
    assert f"{run / 'checkpoints' / '3'}: damaged" in caplog.text
    assert checkpoints.steps() == [1, 2]


def test_an_intact_checkpoint_of_another_dtype_raises_and_is_kept(run):
    trainable = jax.tree.map(lambda leaf: leaf.astype(jnp.float16), state(0).trainable)
    with pytest.raises(CheckpointError, match=r"kernel is float32, and the config implies float16"):
        Checkpoints(run).restore_newest(state(0)._replace(trainable=trainable))
    assert list(checkpoint_steps(run)) == [3, 2, 1]


def test_all_checkpoints_damaged_raises(run, caplog):
    for step in (1, 2, 3):
        for path in files_of(run / "checkpoints" / str(step) / "state"):
            os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(CheckpointError, match=r"all checkpoints \[1, 2, 3\] are damaged"):
        Checkpoints(run).restore_newest(state(0))
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["damaged.1", "damaged.2", "damaged.3"]
    assert Checkpoints(run).restore_newest(state(0)) is None  # the same command again
    assert "no intact checkpoint, only damaged.1, damaged.2, damaged.3: starting at step 0" in caplog.text


def no_memory() -> None:
    raise MemoryError


def wrapped(error: Exception) -> None:
    """Raise as Orbax does for an error of a reader."""
    raise Exception("Encountered error while reading array index") from error


def system(code: int) -> OSError:
    return OSError(code, os.strerror(code), "a file")


@pytest.mark.parametrize(
    ("fail", "kind", "message"),
    [
        (lambda: wrapped(system(errno.EIO)), WorkdirError, "cannot be read .Input/output error."),
        (lambda: wrapped(system(errno.EMFILE)), WorkdirError, "cannot be read .Too many open files"),
        (lambda: wrapped(ValueError("Failed to open [os_error_code='5']")), WorkdirError, "Input/output error"),
        (lambda: wrapped(MemoryError()), MemoryError, None),
        (no_memory, MemoryError, None),
    ],
)
def test_transient_read_errors_are_not_damage(fail, kind, message, run, monkeypatch):
    """An intact checkpoint must not be set aside, or its steps would be trained again."""
    monkeypatch.setattr(checkpoints_module, "_read_metadata", lambda where: fail())
    checkpoints = Checkpoints(run)
    with pytest.raises(kind, match=message):
        checkpoints.restore_newest(state(0))
    monkeypatch.undo()
    assert checkpoints.restore_newest(state(0)).step == 3


@contextmanager
def as_another_user() -> Iterator[None]:
    """Run as another user if root, who may read everything."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def array_file(checkpoint: Path) -> Path:
    return max((checkpoint / "state").rglob("ocdbt.process_0/d/*"), key=lambda path: path.stat().st_size)


@pytest.mark.parametrize(
    "locked",
    [
        lambda checkpoint: checkpoint,
        lambda checkpoint: checkpoint / "state",
        lambda checkpoint: checkpoint / "facts" / "metadata",
        array_file,
    ],
)
def test_missing_read_permission_is_not_damage(locked: Callable[[Path], Path], three):
    with tempfile.TemporaryDirectory() as folder:  # other users cannot read pytest's folders
        os.chmod(folder, 0o755)
        checkpoint = Path(shutil.copytree(three, Path(folder) / "run")) / "checkpoints" / "3"
        path = locked(checkpoint)
        mode = path.stat().st_mode
        path.chmod(0)
        try:
            with as_another_user(), pytest.raises(WorkdirError, match=r"checkpoints/3.*cannot be read \(Permission"):
                read_checkpoint(checkpoint)
        finally:
            path.chmod(mode)
        assert digest(read_trainable(checkpoint)[0]) == digest(state(3).trainable)


def test_a_missing_step_raises(run):
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 7; there are \[1, 2, 3\]"):
        Checkpoints(run).restore(7, state(0))


def test_a_checkpoint_of_another_shape_or_method_raises_and_is_kept(run):
    other_shape = state(0)._replace(trainable={**state(0).trainable, "scale": jnp.zeros(5, jnp.bfloat16)})
    with pytest.raises(CheckpointError, match=r"scale has shape \[4\], and the config implies \[5\]"):
        Checkpoints(run).restore_newest(other_shape)
    further = state(0)._replace(trainable={**state(0).trainable, "lora_a": jnp.zeros(5)})
    with pytest.raises(CheckpointError, match=r"another model or method: trainable\.lora_a is missing"):
        Checkpoints(run).restore_newest(further)
    assert list(checkpoint_steps(run)) == [3, 2, 1]


def test_reading_trainable_parameters_only(run):
    tree, metadata = read_trainable(run / "checkpoints" / "2")
    assert digest(tree) == digest(state(2).trainable)
    assert (metadata["step"], set(tree)) == (2, {"layers", "scale"})
    arrays, _ = read_checkpoint(run / "checkpoints" / "2")
    assert set(arrays) == {"trainable.layers.kernel", "trainable.scale", "optimizer.0.m", "optimizer.1"}


def test_a_relative_path(run, monkeypatch):
    monkeypatch.chdir(run.parent)
    assert list(checkpoint_steps("run")) == [3, 2, 1]
    tree, metadata = read_trainable(Checkpoints("run").directory / "3")
    assert (digest(tree), metadata["step"]) == (digest(state(3).trainable), 3)


def test_metadata_has_the_digest_of_the_arrays(run):
    metadata = next((run / "checkpoints" / "3" / "facts").glob("metadata"))
    assert json.loads(metadata.read_text())["arrays_digest"] == digest(read_checkpoint(run / "checkpoints" / "3")[0])


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 450 KB, enough to write one checkpoint of the tiny runs, but not two."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        shutil.which("mount") is None
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=450k", "tmpfs", folder], capture_output=True).returncode
    ):
        pytest.skip("mounting a small file system requires root")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_raises_and_the_last_checkpoint_survives(small_disk):
    checkpoints = Checkpoints(small_disk, keep_steps=range(100))
    big = lambda step: State({"a": jnp.full((20_000,), step) + jnp.arange(20_000) % 7919}, {})  # noqa: E731
    saved = 0

    def fill() -> None:
        nonlocal saved
        for step in range(1, 100):
            checkpoints.save(step, big(step), {"best_step": None})
            checkpoints.wait()
            saved = step

    with pytest.raises(WorkdirError, match="the disk is full; free some space and run the same command again"):
        fill()
    restored = Checkpoints(small_disk).restore_newest(big(0))
    assert restored.step == saved > 0
    assert equal(restored.state, big(saved))


@pytest.mark.slow
def test_training_on_a_full_disk_resumes_after_space_is_freed(small_disk, tiny_runs, tmp_path):
    config = tiny_runs.config("full")
    flags = tiny_runs.flags("full", small_disk / "run")
    train = [sys.executable, "-m", "finetune_scaling.train", *flags]
    filled = subprocess.run(train, capture_output=True, text=True)
    assert filled.returncode == EXIT_USAGE
    assert filled.stderr.splitlines()[-1].startswith(f"error: {small_disk / 'run' / 'checkpoints'}: the disk is full")
    for library in ("orbax", "asyncio", "tensorstore", "Traceback"):  # which would report every failed write
        assert library not in filled.stderr
    assert next(checkpoint_steps(small_disk / "run")) > 0
    subprocess.run(["mount", "-o", "remount,size=50m", small_disk], check=True)
    assert run_to_end(config, small_disk / "run")["loss"] == run_to_end(config, tmp_path / "uninterrupted")["loss"]
