"""Commands in forked processes: the parent imports the package once, so that commands start in milliseconds.

The parent must not compute with JAX, whose threads do not survive a fork; every child starts its own backend.
"""

import contextlib
import gc
import importlib
import os
import pkgutil
import re
import resource
import runpy
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from absl import flags

import finetune_scaling

COMMANDS = frozenset(
    ("train", "evaluate", "compare", "samples", "fit", "recommend", "plan", "prepare", "inspect", "convert", "study")
)
# Names of temporary files and directories of the package and of Orbax.
TEMPORARY = re.compile(r"\.unfinished$|\.[0-9a-f]{32}$|orbax-checkpoint-tmp")


@dataclass(frozen=True)
class Limits:
    """Limits of one child: CPU seconds, wall-clock seconds, and bytes of address space."""

    cpu_seconds: int = 60
    seconds: float = 600
    memory: int = 12 * 2**30


@dataclass(frozen=True)
class Ended:
    """How a child ended: its exit code, or minus the signal; its stderr; peak memory in MiB; CPU and wall seconds."""

    code: int
    errors: str
    peak_mib: int
    cpu_seconds: float
    seconds: float
    timed_out: bool = False


def import_package() -> None:
    """Import all modules of the package except commands, whose flags would collide."""
    for module in pkgutil.walk_packages(finetune_scaling.__path__, "finetune_scaling."):
        name = module.name.removeprefix("finetune_scaling.")
        if name not in COMMANDS and "adapters" not in name.split("."):  # these run in other environments
            importlib.import_module(module.name)
    gc.freeze()  # collections in children would copy the parent's pages


def run_command(command: str, arguments: Sequence[str]) -> None:
    """Run a command of the package as `python -m finetune_scaling.COMMAND ARGUMENTS` does; only in a child."""
    for flag in list(flags.FLAGS.flags_by_module_dict().get(sys.argv[0], [])):  # of the parent's program
        delattr(flags.FLAGS, flag.name)
    flags.FLAGS.unparse_flags()
    module = f"finetune_scaling.{command}"
    sys.argv = [str(Path(finetune_scaling.__file__).with_name(f"{command}.py")), *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def start(action: Callable[[], None], log: Path, limits: Limits = Limits()) -> int:
    """Fork a child that calls action() with its output in `log`; return its process id."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _enter(log, limits)
            code = _exit_code(action)
        finally:
            os._exit(code)
    return child


def _enter(log: Path, limits: Limits) -> None:
    os.setsid()
    out, null = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), os.open(os.devnull, os.O_RDWR)
    for target, source in ((0, null), (1, null), (2, out)):
        os.dup2(source, target)
    resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_seconds, limits.cpu_seconds + 5))
    resource.setrlimit(resource.RLIMIT_AS, (limits.memory, limits.memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _exit_code(action: Callable[[], None]) -> int:
    """Return the exit code that the interpreter would end with, and flush what a child has printed."""
    try:
        action()
        code = 0
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    return code


def wait(child: int, log: Path, limits: Limits = Limits()) -> Ended:
    """Wait for the end of a child; kill its process group after the limit."""
    began, timed_out = time.monotonic(), False
    pause = 0.001
    while True:
        found, status, usage = os.wait4(child, os.WNOHANG)
        if found:
            break
        if time.monotonic() - began > limits.seconds:
            timed_out = True
            kill(child)
        time.sleep(pause)
        pause = min(2 * pause, 0.05)
    return Ended(
        os.waitstatus_to_exitcode(status),
        log.read_text(encoding="utf-8", errors="replace") if log.exists() else "",
        usage.ru_maxrss // 1024,
        usage.ru_utime + usage.ru_stime,
        time.monotonic() - began,
        timed_out,
    )


def outlives(child: int, seconds: float) -> bool:
    """Return whether a child still runs after some seconds; it must be waited for afterwards."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return False
        time.sleep(0.002)
    return True


def kill(child: int) -> None:
    """Kill a child and the processes that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)


def run(action: Callable[[], None], log: Path, limits: Limits = Limits()) -> Ended:
    """Run action() in a child and wait for its end."""
    return wait(start(action, log, limits), log, limits)


@contextlib.contextmanager
def progress(total: int, what: str, every: float = 5.0) -> Iterator[Callable[[int, str], None]]:
    """Yield a function of (number done, text) that prints a line on stderr every few seconds."""
    began = last = time.monotonic()

    def report(done: int, text: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= every or done == total:
            last = now
            left = (now - began) / max(done, 1) * (total - done)
            print(f"{what}: {done} of {total}, {text}, {left:.0f} s left", file=sys.stderr, flush=True)

    yield report
