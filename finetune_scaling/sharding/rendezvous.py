"""Rendezvous of the processes of one program before JAX starts, so that a missing process can be named.

`jax.distributed.initialize` aborts with a stack trace that names no process when one of them is missing (jax 0.10).
"""

import contextlib
import json
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any

from finetune_scaling.errors import ProcessError

_RETRY_SECONDS = 0.2
_REPORT_SECONDS = 5.0  # time for a new connection to send its report


def wait_for_processes(address: tuple[str, int], process: int, processes: int, timeout: float) -> None:
    """Return when all `processes` have reported to process 0, which listens at `address` (host, port).

    Raises:
      ProcessError: on every process that was started, naming the processes that did not report within `timeout`
        seconds, a process number that is used twice, or a port that is in use.
    """
    if process == 0:
        _collect_reports(address[1], processes, timeout)
    else:
        _report(address, process, timeout)


def _collect_reports(port: int, processes: int, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    with _listening(port) as server, contextlib.ExitStack() as connections:
        reported = {0}
        peers: list[socket.socket] = []
        problem = ""
        while len(reported) < processes and not problem:
            server.settimeout(max(1e-3, deadline - time.monotonic()))
            try:
                peer = connections.enter_context(server.accept()[0])
            except TimeoutError:
                problem = _missing(set(range(processes)) - reported, processes, timeout)
                break
            number = _receive(peer, _REPORT_SECONDS).get("process")
            if number is None:  # not one of the processes, for example a port scanner
                continue
            peers.append(peer)
            if number in reported or not 0 <= number < processes:
                problem = f"two processes have JAX_PROCESS_ID = {number}, or it is not below {processes}"
            reported.add(number)
        for peer in peers:
            with contextlib.suppress(OSError):
                _send(peer, {"problem": problem})
    if problem:
        raise ProcessError(problem)


def _missing(numbers: set[int], processes: int, timeout: float) -> str:
    return (
        f"process {', '.join(map(str, sorted(numbers)))} of {processes} did not report within {timeout:.0f} s; check "
        f"its log, and that JAX_COORDINATOR_ADDRESS names this host ({socket.gethostname()}) there"
    )


def _report(address: tuple[str, int], process: int, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    where = f"process 0 at {address[0]}:{address[1]}"
    while (peer := _connect(address)) is None:
        if time.monotonic() > deadline:
            raise ProcessError(
                f"{where} did not answer within {timeout:.0f} s; check its log, and that this host can reach it"
            )
        time.sleep(_RETRY_SECONDS)
    with peer:
        _send(peer, {"process": process})
        reply = _receive(peer, max(0.0, deadline - time.monotonic()) + _REPORT_SECONDS)
    if problem := reply.get("problem", f"{where} ended during start-up; see its log"):
        raise ProcessError(problem)


def _connect(address: tuple[str, int]) -> socket.socket | None:
    with contextlib.suppress(OSError):
        return socket.create_connection(address, timeout=_RETRY_SECONDS * 5)
    return None


@contextlib.contextmanager
def _listening(port: int) -> Iterator[socket.socket]:
    try:
        server = socket.create_server(("", port), backlog=1024)
    except OSError as error:
        raise ProcessError(
            f"port {port} of JAX_COORDINATOR_ADDRESS cannot be used: {error.strerror}; choose another port"
        ) from None
    with server:
        yield server


def _send(peer: socket.socket, message: Mapping[str, Any]) -> None:
    peer.sendall(json.dumps(message).encode() + b"\n")


def _receive(peer: socket.socket, timeout: float) -> dict[str, Any]:
    """Return the next message; {} if none arrives within `timeout` seconds."""
    peer.settimeout(timeout)
    try:
        message = json.loads(peer.makefile("rb").readline())
    except (OSError, ValueError):
        return {}
    return message if isinstance(message, dict) else {}
