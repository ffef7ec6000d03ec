"""Checkpoints on other meshes and in distributed runs: equal bits, and no process waits for another forever."""

import json
import os
import socket
import subprocess
import sys

import jax

from finetune_scaling.runs.checkpoints import Checkpoints
from finetune_scaling.runs.digest import digest

FLAGS = "--xla_backend_optimization_level=0"

# Shared by the scripts below: a state, sharded over a mesh or on one device.
STATES = """
import json, sys
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from finetune_scaling.training.step import State

AXES = ("data", "fsdp", "tensor")

def random_state(step):
    rng = np.random.default_rng(step)
    trainable = {
        "kernel": rng.normal(size=(16, 32)).astype(np.float32),
        "scale": np.asarray(jnp.asarray(rng.normal(size=24), jnp.bfloat16)),
    }
    return State(trainable, ({"m": rng.normal(size=(8, 16, 4)).astype(np.float32)}, np.int32(step)))

def on_mesh(state, shape):
    mesh = jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 3)
    specs = {"kernel": P("fsdp", "tensor"), "scale": P("tensor")}, ({"m": P(None, ("data", "fsdp"), "tensor")}, P())
    def put(leaf, spec):
        return jax.make_array_from_callback(leaf.shape, NamedSharding(mesh, spec), lambda index: leaf[index])
    return jax.tree.map(put, state, State(*specs))

def same(left, right):
    def equal(a, b):
        return a.dtype == b.dtype and all(np.array_equal(s.data, np.asarray(b)[s.index]) for s in a.addressable_shards)
    return jax.tree.all(jax.tree.map(equal, left, right))
"""

EIGHT_DEVICES = (
    STATES
    + """
from finetune_scaling.runs.checkpoints import Checkpoints
checkpoints = Checkpoints(sys.argv[1], keep_steps=range(1, 10))
for shape in [(1, 2, 4), (1, 8, 1), (2, 2, 2), (8, 1, 1)]:
    target = on_mesh(random_state(0), shape)
    state = checkpoints.restore(1, target).state
    assert same(state, random_state(1)), shape
    assert jax.tree.map(lambda leaf: leaf.sharding, state) == jax.tree.map(lambda leaf: leaf.sharding, target)
for step, shape in [(2, (1, 2, 4)), (3, (1, 8, 1))]:
    checkpoints.save(step, on_mesh(random_state(step), shape), {})
checkpoints.close()
"""
)


def run_script(script: str, *arguments: str, **environment: str) -> subprocess.Popen:
    settings = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": FLAGS, **environment}
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.Popen(command, env=settings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def random_state():
    """Return the function of the scripts that makes states."""
    names: dict = {}
    exec(STATES, names)
    return names["random_state"]


def test_saved_on_one_device_restored_on_meshes_of_eight_and_back(tmp_path):
    state = random_state()
    on_device = lambda step: jax.device_put(state(step), jax.devices()[0])  # noqa: E731
    checkpoints = Checkpoints(tmp_path, keep_steps=range(1, 10))
    checkpoints.save(1, on_device(1), {})
    checkpoints.close()
    eight = run_script(EIGHT_DEVICES, str(tmp_path), XLA_FLAGS=f"{FLAGS} --xla_force_host_platform_device_count=8")
    assert eight.wait(120) == 0, eight.stderr.read()
    reopened = Checkpoints(tmp_path, keep_steps=range(1, 10))
    for step in (2, 3):
        restored = reopened.restore(step, on_device(0)).state
        assert jax.tree.all(
            jax.tree.map(lambda a, b: a.tobytes() == b.tobytes(), jax.device_get(restored), state(step))
        )
        assert digest(restored) == digest(state(step))
    reopened.close()


TWO_PROCESSES = (
    STATES
    + """
import os
jax.distributed.initialize(
    os.environ["JAX_COORDINATOR_ADDRESS"], int(os.environ["JAX_NUM_PROCESSES"]), int(os.environ["JAX_PROCESS_ID"])
)
from jax.experimental.multihost_utils import sync_global_devices
from finetune_scaling.errors import CheckpointError, WorkdirError
from finetune_scaling.runs import checkpoints as module
from finetune_scaling.runs.checkpoints import Checkpoints, checkpoint_steps, read_metadata
import logging
logging.basicConfig(level=logging.WARNING)
run, me = Path(sys.argv[1]), jax.process_index()
assert jax.process_count() == 2 and len(jax.devices()) == 4
shape = (1, 4, 1)
checkpoints = Checkpoints(run, keep_steps=range(1, 10))
for step in (1, 2, 3, 4, 5):
    checkpoints.save(step, on_mesh(random_state(step), shape), {"best_step": 1})
checkpoints.close()
assert list(checkpoint_steps(run)) == [5, 4, 3, 2, 1]
assert read_metadata(run / "checkpoints" / "5")["step"] == 5

# The newest has damaged arrays, the next damaged metadata; only process 1 finds the one after that damaged.
if me == 0:
    for path in (run / "checkpoints" / "5" / "state").rglob("d/*"):
        path.write_bytes(bytes(path.stat().st_size))
    os.truncate(run / "checkpoints" / "4" / "facts" / "metadata", 9)
sync_global_devices("damaged")
original = module._read_metadata
def fails(error):
    def read_metadata(where):
        if me == 1 and where.name == "3":
            raise error
        return original(where)
    return read_metadata

# If one process cannot read a checkpoint at present, no process sets it aside.
module._read_metadata = fails(OSError(5, "Input/output error"))
reopened = Checkpoints(run, keep_steps=range(1, 10))
try:
    reopened.restore_newest(on_mesh(random_state(0), shape))
except WorkdirError as error:
    print(json.dumps(str(error)))
assert list(checkpoint_steps(run)) == [3, 2, 1]
module._read_metadata = fails(ValueError("damaged"))
restored = reopened.restore_newest(on_mesh(random_state(0), (1, 2, 2)))
assert restored.step == 2 and same(restored.state, random_state(2))
assert reopened.steps() == list(checkpoint_steps(run))[::-1] == [1, 2]
reopened.save(6, on_mesh(random_state(6), shape), {"best_step": 1})
reopened.close()

# A directory that is not shared: each host would write half a checkpoint to its own.
own = run / f"own{me}"
try:
    Checkpoints(own)
except WorkdirError as error:
    print(json.dumps(str(error)))
jax.distributed.shutdown()
"""
)


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


def test_two_processes_set_damage_aside_once_and_raise_the_same_error(tmp_path):
    address = f"127.0.0.1:{free_port()}"
    flags = f"{FLAGS} --xla_force_host_platform_device_count=2"
    processes = [
        run_script(
            TWO_PROCESSES,
            str(tmp_path),
            JAX_COORDINATOR_ADDRESS=address,
            JAX_NUM_PROCESSES="2",
            JAX_PROCESS_ID=str(index),
            XLA_FLAGS=flags,
        )
        for index in (0, 1)
    ]
    try:
        outputs = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors for _, errors in outputs)
    errors = [[json.loads(line) for line in out.splitlines() if line.startswith('"')] for out, _ in outputs]
    assert "checkpoints/3: cannot be used; see the error of process 1" in errors[0][0]
    assert "cannot be read (Input/output error)" in errors[1][0]
    assert all("storage shared by all hosts" in lines[1] for lines in errors)
    assert "checkpoints/3: damaged: see the error of process 1; trying an older one" in outputs[0][1]
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["1", "2", "6", "damaged.3", "damaged.4", "damaged.5"]
    state = random_state()
    restored = Checkpoints(tmp_path).restore(6, jax.device_put(state(0), jax.devices()[0])).state
    assert digest(restored) == digest(state(6))
