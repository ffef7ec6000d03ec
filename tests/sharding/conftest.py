"""Fixture that starts several processes of one command, as launch/multiprocess_cpu.sh does."""

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import NamedTuple

import pytest


class Ended(NamedTuple):
    """The result of a process: exit code, stdout and stderr."""

    code: int
    output: str
    errors: str


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def _start(
    commands: Sequence[Sequence[str]], devices: int = 1, environment: Mapping[str, str] | None = None
) -> list[subprocess.Popen]:
    """Start `python COMMAND` for each command as one process of a program, with `devices` CPU devices each."""
    address = f"127.0.0.1:{free_port()}"
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    shared = {**os.environ, "JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(len(commands))}
    return [
        subprocess.Popen(
            [sys.executable, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**shared, "XLA_FLAGS": flags, "JAX_PROCESS_ID": str(number), **(environment or {})},
        )
        for number, command in enumerate(commands)
    ]


def _wait(processes: Sequence[subprocess.Popen], seconds: float = 300) -> list[Ended]:
    """Return the results in order; kill all processes if one takes longer."""
    try:
        texts = [process.communicate(timeout=seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [Ended(process.returncode, *text) for process, text in zip(processes, texts, strict=True)]


@pytest.fixture(scope="session")
def together() -> SimpleNamespace:
    """start(commands, devices, environment) -> processes; wait(processes, seconds) -> how each ended."""
    return SimpleNamespace(start=_start, wait=_wait)
