"""Time the steps of a program on a shared machine: a number of steps in a row, or one step per line on stdin."""

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
    """Seconds per step: median and minimum of the undisturbed steps (of all steps if there are none), and counts.

    warmup_s: seconds of all warm-up steps.
    """

    median_s: float
    min_s: float
    quiet_steps: int
    noisy_steps: int
    warmup_s: float

    def rounded(self) -> dict[str, float]:
        """Return the fields for a JSON line."""
        return {
            **{name: round(value, 5) for name, value in dataclasses.asdict(self).items()},
            "warmup_s": round(self.warmup_s, 1),
        }


def time_steps(step: Callable[[], object], warmup: int, steps: int, paced: bool) -> Timing:
    """Time calls of `step`, which returns when its work is done, after `warmup` untimed ones.

    paced: one call per line on stdin instead of `steps` calls.
    """
    warmup_began = time.perf_counter()
    for _ in range(warmup):
        step()
    warmup_seconds = time.perf_counter() - warmup_began
    quiet: list[float] = []
    noisy: list[float] = []
    for _ in on_demand() if paced else range(steps):
        others, began = busy_elsewhere(), time.perf_counter()
        step()
        seconds = time.perf_counter() - began
        disturbed = busy_elsewhere() - others > DISTURBED * seconds + _TICK
        (noisy if disturbed else quiet).append(seconds)
    counted = quiet or noisy
    if not counted:
        sys.exit("error: no step was timed; give --steps=1 or more, or with --paced a line on stdin")
    return Timing(statistics.median(counted), min(counted), len(quiet), len(noisy), warmup_seconds)


def on_demand() -> Iterator[None]:
    """Print "ready"; then yield a turn for every line of stdin and print "done" after it, until stdin closes.

    This lets several programs take turns, so that drift of the machine affects all of them alike.
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
