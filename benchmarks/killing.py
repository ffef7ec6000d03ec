"""What the campaigns that kill commands share."""

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
    """Starts a command of the package, whose log lines go to a file."""
    arguments = [sys.executable, "-m", f"finetune_scaling.{command}", *flags]
    variables = {**os.environ, **(environment or {})}
    with log.open("w") as file:
        return subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=file, env=variables)


def start_together(logs: list[Path], command: str, *flags: str) -> list[subprocess.Popen]:
    """Starts a command as so many processes that run together as there are files for their logs."""
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
    """Waits for a command's end; raises TrainingError with its last words where it failed."""
    if process.wait():
        raise TrainingError(f"the command ended with {process.returncode}: {log.read_text().strip().splitlines()[-1:]}")


def wait_for(process: subprocess.Popen, happened: Callable[[], bool]) -> None:
    """Returns when something happened or the process ended."""
    while process.poll() is None and not happened():
        time.sleep(POLL_SECONDS)
