"""Worker processes that apply a function to blocks of data, in order.

They are started as commands, not by multiprocessing: a fork of a process with JAX's threads may hang, and a spawned
process runs the main module of the program again, which may be a script or a notebook.
"""

import collections
import contextlib
import itertools
import logging
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self, TypeVar

from finetune_scaling.errors import ProcessError

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_processes(function: Callable[[Item], Result], items: Iterable[Item], processes: int) -> Iterator[Result]:
    """Yield function(item) in the order of the items, computed by at most `processes` processes and one per core.

    A number below 2 computes in this process. The function and its results have to be picklable. Raises what the
    function raises, and ProcessError if a process ends before it has answered.
    """
    processes = min(processes, len(os.sched_getaffinity(0)))
    if processes < 2:
        yield from map(function, items)
        return
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(_Worker(function)) for _ in range(processes)]
        busy: collections.deque[_Worker] = collections.deque()
        for item, worker in zip(items, itertools.cycle(workers)):
            if len(busy) == processes:
                yield busy.popleft().receive()
            worker.send(item)
            busy.append(worker)
        while busy:
            yield busy.popleft().receive()


class _Worker:
    """One worker process. Each item that is sent has to be received before the next one is sent."""

    def __init__(self, function: Callable[[Any], Any]):
        paths = os.pathsep.join(filter(None, sys.path))
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": paths},
        )
        self.send(function)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):  # of bytes that a process that has ended did not read
                pipe.close()

    def send(self, value: Any) -> None:
        """Send the function or an item."""
        assert self._process.stdin is not None
        try:
            pickle.dump(value, self._process.stdin, pickle.HIGHEST_PROTOCOL)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def receive(self) -> Any:
        """Return the result of the item, or raise its error."""
        assert self._process.stdout is not None
        try:
            is_result, value = pickle.load(self._process.stdout)
        except (EOFError, pickle.UnpicklingError):
            raise self._ended() from None
        if not is_result:
            raise value
        return value

    def _ended(self) -> ProcessError:
        status = self._process.wait()
        return ProcessError(
            f"a process that encodes data ended with status {status}; see its output above. Fix: free some memory if "
            "the system ended it, and run the same command again"
        )


def _serve() -> None:
    """Apply the function that stdin begins with to the items after it, until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one ends it
    logging.disable()  # that process logs the same
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr
    function = pickle.load(source)
    with contextlib.suppress(EOFError):
        while True:
            item = pickle.load(source)
            try:
                answer = True, function(item)
            except Exception as error:
                answer = False, error
            pickle.dump(answer, sink, pickle.HIGHEST_PROTOCOL)
            sink.flush()


if __name__ == "__main__":
    _serve()
