"""The set-up of a command's process: freed memory is kept, and a failed checkpoint is reported once."""

import subprocess
import sys

import pytest

# Each call makes and frees 32 MiB of temporaries on one of XLA's threads; a page is 4 KiB.
PAGE_FAULTS = """
import resource
from finetune_scaling import process_setup
process_setup.set_up()
import jax, jax.numpy as jnp

call = jax.jit(lambda x: jnp.sort(jnp.sin(x).reshape(-1, 8))[:, ::2].sum())
x = jnp.ones(2**22)
faults = []
for _ in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    call(x).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(sum(faults[-4:]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_temporaries_are_faulted_in_only_once():
    result = subprocess.run([sys.executable, "-c", PAGE_FAULTS], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 1000


FAILED_WRITES = """
import asyncio, gc, sys
import tensorstore as ts
from etils import epath
from orbax.checkpoint._src import asyncio_utils
from orbax.checkpoint._src.path import async_path
from finetune_scaling import process_setup

process_setup.set_up()


def abandon(*writes):
    # As Orbax leaves them: the first failure is raised, the loop is closed, the other writes end later.
    loop = asyncio.new_event_loop()
    tasks = [loop.create_task(write()) for write in writes]
    loop.run_until_complete(asyncio.wait(tasks))
    loop.close()
    del tasks
    gc.collect()


async def full():  # raised in a thread, through Orbax: a file is where a directory must be
    await async_path.write_text(epath.Path(sys.executable) / "below", "text")


async def array():
    store = {"driver": "zarr", "kvstore": "file://" + sys.executable + "/below"}
    await ts.open(store, create=True, dtype=ts.int8, shape=[1])


def unfinished():
    # A loop that is closed with a task of Orbax's on it.
    loop = asyncio.new_event_loop()
    task = loop.create_task(asyncio_utils.cancellable(asyncio.sleep(60)))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    del task
    gc.collect()


def late():
    # A write of TensorStore's that ends when its event loop is closed.
    async def begin():
        promise, future = ts.Promise.new()
        waiting = future.__await__()
        next(waiting)
        return promise, waiting

    loop = asyncio.new_event_loop()
    promise, waiting = loop.run_until_complete(begin())
    loop.close()
    promise.set_result(1)


abandon(full, full, array, array)
unfinished()
late()


class Fault:
    def __del__(self):
        raise RuntimeError('Event loop is closed')


Fault()

"""


def test_writes_that_fail_after_the_first_are_not_reported_and_other_failures_are():
    result = subprocess.run([sys.executable, "-c", FAILED_WRITES], capture_output=True, text=True, check=True)
    assert result.stderr.startswith("Exception ignored in")
    assert result.stderr.count("Traceback") == 1
    assert "in __del__" in result.stderr
