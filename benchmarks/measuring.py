"""Timing of steps on a shared machine: medians of undisturbed steps, or single steps on demand."""

import dataclasses
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

DISTURBED = 0.1  # cores that other processes may use during an undisturbed step
_TICK = 1 / os.sysconf("SC_CLK_TCK")
_STAT = Path("/proc/stat")


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds per step: median and minimum of the undisturbed steps (of all steps if there are none), and counts."""

    median_s: float
    min_s: float
    quiet_steps: int
    noisy_steps: int


def time_steps(step: Callable[[], object], turns: Iterator[None]) -> Timing:
    """Time one call of `step` per turn; `step` returns when its work is done."""
    quiet: list[float] = []
    noisy: list[float] = []
    for _ in turns:
        others, began = busy_elsewhere(), time.perf_counter()
        step()
        seconds = time.perf_counter() - began
        disturbed = busy_elsewhere() - others > DISTURBED * seconds + _TICK
        (noisy if disturbed else quiet).append(seconds)
    counted = quiet or noisy
    if not counted:
        sys.exit("error: no step was timed; give --steps=1 or more, or with --paced a line on stdin")
    return Timing(statistics.median(counted), min(counted), len(quiet), len(noisy))


def at_once(steps: int) -> Iterator[None]:
    """Yield `steps` turns without a pause."""
    yield from (None for _ in range(steps))


def on_demand() -> Iterator[None]:
    """Print "ready"; then yield a turn for every line of stdin and print "done" after it, until stdin closes.

    Several programs can so take turns, and drift of the machine affects all of them alike.
    """
    print("ready", flush=True)
    for _ in sys.stdin:
        yield
        print("done", flush=True)


def busy_elsewhere() -> float:
    """Return the CPU seconds of all other processes since boot; 0 if /proc/stat does not exist."""
    if not _STAT.exists():
        return 0.0
    user, nice, system, _, _, interrupts, soft_interrupts, stolen = map(int, _STAT.read_text().split()[1:9])
    total = (user + nice + system + interrupts + soft_interrupts + stolen) * _TICK
    return total - sum(os.times()[:4])


def peak_memory_mib() -> int:
    """Return the largest resident set size of this process in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (2**20 if sys.platform == "darwin" else 2**10)
