"""Of failed writes a command says one line; what else fails unseen is still reported."""

import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, gc, sys
import tensorstore as ts
from etils import epath
from orbax.checkpoint._src import asyncio_utils
from orbax.checkpoint._src.path import async_path
from finetune_scaling import command
import finetune_scaling.runs.checkpoints

command.set_up()


def abandon(*writes):
    # As Orbax leaves them: the first failure is raised, the loop is closed, the other writes end on their own.
    loop = asyncio.new_event_loop()
    tasks = [loop.create_task(write()) for write in writes]
    loop.run_until_complete(asyncio.wait(tasks))
    loop.close()
    del tasks
    gc.collect()


async def full():  # raised in a thread, through Orbax: a file stands where a directory must be
    await async_path.write_text(epath.Path(sys.executable) / "below", "text")


async def plain():
    await asyncio.to_thread(lambda: open("/dev/full", "w", buffering=1).write("text\\n"))


async def array():
    store = {"driver": "zarr", "kvstore": "file://" + sys.executable + "/below"}
    await ts.open(store, create=True, dtype=ts.int8, shape=[1])


async def own():
    raise LookupError("of another kind")


def unfinished():
    # A loop that is closed with a task of Orbax's on it.
    loop = asyncio.new_event_loop()
    task = loop.create_task(asyncio_utils.cancellable(asyncio.sleep(60)))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    del task
    gc.collect()


def late():
    # A write of TensorStore's that ends when the loop that it is to tell is closed.
    async def begin():
        promise, future = ts.Promise.new()
        waiting = future.__await__()
        next(waiting)
        return promise, waiting

    loop = asyncio.new_event_loop()
    promise, waiting = loop.run_until_complete(begin())
    loop.close()
    promise.set_result(1)


"""


def stderr_of(what: str) -> str:
    return subprocess.run([sys.executable, "-c", PROGRAM + what], capture_output=True, text=True, check=True).stderr


@pytest.mark.parametrize("what", ["abandon(full, full, plain, plain, array, array)", "unfinished()", "late()"])
def test_writes_that_nobody_awaits_any_more_are_not_reported(what):
    assert stderr_of(what) == ""


def test_other_failures_are():
    class_with_fault = "class Fault:\n    def __del__(self):\n        raise RuntimeError('Event loop is closed')\n"
    told = stderr_of(f"abandon(own, full)\n{class_with_fault}Fault()\n")
    assert told.count("Task exception was never retrieved") == 1
    assert "LookupError: of another kind" in told
    assert told.count("RuntimeError: Event loop is closed") == 1
