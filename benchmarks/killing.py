"""Starting and ending commands, for the benchmarks that kill them."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from finetune_scaling.errors import TrainingError

POLL_SECONDS = 0.002


def start(log: Path, command: str, *flags: str, environment: Mapping[str, str] | None = None) -> subprocess.Popen:
    """Start a command of the package and write its log to a file."""
    arguments = [sys.executable, "-m", f"finetune_scaling.{command}", *flags]
    variables = {**os.environ, **(environment or {})}
    with log.open("w") as file:
        return subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=file, env=variables)


def start_together(logs: list[Path], command: str, *flags: str) -> list[subprocess.Popen]:
    """Start a command as one distributed program, with a process for each log file."""
    if len(logs) == 1:
        return [start(logs[0], command, *flags)]
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        port = opened.getsockname()[1]
    shared = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": str(len(logs))}
    return [
        start(log, command, *flags, environment={**shared, "JAX_PROCESS_ID": str(number)})
        for number, log in enumerate(logs)
    ]


def finish(process: subprocess.Popen, log: Path) -> None:
    """Wait for the end of a command. Raises TrainingError with its last log line if it failed."""
    if process.wait():
        raise TrainingError(
            f"the command exited with {process.returncode}: {log.read_text().strip().splitlines()[-1:]}"
        )


def wait_for(process: subprocess.Popen, happened: Callable[[], bool]) -> None:
    """Return when happened() is true or the process has ended."""
    while process.poll() is None and not happened():
        time.sleep(POLL_SECONDS)
