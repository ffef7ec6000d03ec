"""Rendezvous of the processes of one program before JAX starts, so that a missing process can be named.

`jax.distributed.initialize` aborts with a stack trace that names no process when one of them is missing (jax 0.10).
"""

import contextlib
import socket
import time
from collections.abc import Iterator

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
    missing = set(range(1, processes))
    problem = ""
    with _listening(port) as server, contextlib.ExitStack() as connections:
        peers: list[socket.socket] = []
        while missing and not problem:
            server.settimeout(max(1e-3, deadline - time.monotonic()))
            try:
                peer = connections.enter_context(server.accept()[0])
            except TimeoutError:
                numbers = ", ".join(map(str, sorted(missing)))
                problem = (
                    f"process {numbers} of {processes} did not report within {timeout:.0f} s; check its log, and that "
                    f"JAX_COORDINATOR_ADDRESS names this host ({socket.gethostname()}) there"
                )
                break
            number = _receive(peer, _REPORT_SECONDS).strip()
            if not number.isdecimal():  # not one of the processes, for example a port scanner
                continue
            peers.append(peer)
            if int(number) not in missing:
                problem = f"two processes have JAX_PROCESS_ID = {number}, or it is not below {processes}"
            missing.discard(int(number))
        for peer in peers:
            _send(peer, problem)
    if problem:
        raise ProcessError(problem)


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
        _send(peer, str(process))
        reply = _receive(peer, max(0.0, deadline - time.monotonic()) + _REPORT_SECONDS)
    if reply != "\n":
        raise ProcessError(reply.strip() or f"{where} ended during start-up; see its log")


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


def _send(peer: socket.socket, line: str) -> None:
    with contextlib.suppress(OSError):  # the other process has ended
        peer.sendall(f"{line}\n".encode())


def _receive(peer: socket.socket, timeout: float) -> str:
    """Return the next line with its newline; "" if none arrives within `timeout` seconds."""
    peer.settimeout(timeout)
    try:
        return peer.makefile(encoding="utf-8", errors="replace").readline()
    except OSError:
        return ""
