"""Who is there: the processes of one program find each other, agree on what they run, and notice when one is gone.

JAX's own start-up names nobody: where a process is missing or dies, the others abort with a stack trace. So before JAX
starts, process 0 listens at the coordinator's address and every other process reports to it, with what must be equal
everywhere. The connections stay open; the system closes those of a process that dies, however it dies, and keep-alive
those of a host that vanishes.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

from finetune_scaling import configuration
from finetune_scaling.errors import EXIT_FAILED, ConfigError, ProcessError

ADDRESS, COUNT, NUMBER = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
AUTOMATIC = "FINETUNE_SCALING_DISTRIBUTED"
_RETRY_SECONDS = 0.2
_GRACE_SECONDS = 2.0
_REPORT_SECONDS = 5.0  # in which a process that has connected says who it is
_KEEPALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}  # a vanished host is noticed after 20 seconds
Report = dict[str, Any]


def is_asked_for(environment: Mapping[str, str]) -> bool:
    """Whether the environment says that this process is one of several."""
    return any(environment.get(name) for name in (ADDRESS, COUNT, NUMBER, AUTOMATIC))


class Lifeline:
    """Connections to the processes whose end is this one's too: process 0 has all others, each of those process 0."""

    def __init__(self, peers: Mapping[int, socket.socket], hosts: Mapping[int, str]):
        self._peers, self._hosts = dict(peers), dict(hosts)
        self._left = threading.Event()
        self._lock = threading.Lock()
        for number, peer in self._peers.items():
            threading.Thread(target=self._watch, args=(number, peer), daemon=True).start()

    def close(self) -> None:
        """Says that this process ends as it should; the others go on."""
        self._say("done", "")

    def fail(self, reason: str) -> None:
        """Says that this process ends early, and why: the others end too."""
        self._say("failed", reason)

    def _say(self, what: str, reason: str) -> None:
        with self._lock:
            if self._left.is_set():
                return
            self._left.set()
            for peer in self._peers.values():
                with contextlib.suppress(OSError):
                    _send(peer, {"what": what, "reason": reason})

    def _watch(self, number: int, peer: socket.socket) -> None:
        while not self._left.is_set():
            message = _receive(peer)
            if message is not None and message["what"] == "done":
                return
            if self._left.is_set():
                return
            reason = message["reason"] if message else f"process {number} on {self._hosts[number]} is gone"
            self.fail(reason)  # process 0 tells it to the rest
            print(f"error: {reason}; run the same command again on all of them", file=sys.stderr, flush=True)
            time.sleep(_GRACE_SECONDS if 0 not in self._peers else 0)  # JAX aborts the others once process 0 is gone
            os._exit(EXIT_FAILED)  # the main thread may hang in a collective with the process that is gone


def gather(address: str, process: int, processes: int, facts: Mapping[str, Any], timeout: float) -> Lifeline:
    """Waits until all `processes` have reported at `address` ("host:port", of process 0) with equal `facts`.

    Raises ProcessError, on every process that is there, with the numbers of those that are missing after `timeout`
    seconds, or the dotted names of the facts in which two differ; ConfigError for an address that is none.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise ConfigError(f"JAX_COORDINATOR_ADDRESS = {address!r} is not HOST:PORT; give the address of process 0")
    report = {"process": process, "processes": processes, "host": socket.gethostname(), "facts": dict(facts)}
    if process == 0:
        return _call(int(port), report, timeout)
    return _answer(host, int(port), report, timeout)


def _call(port: int, own: Report, timeout: float) -> Lifeline:
    """Process 0: collects the reports, and tells everyone the outcome."""
    deadline = time.monotonic() + timeout
    peers: dict[int, socket.socket] = {}
    reports: dict[int, Report] = {0: own}
    with _listen(port) as server:
        while len(reports) < own["processes"]:
            server.settimeout(max(0.0, deadline - time.monotonic()) or 1e-3)
            try:
                peer, _ = server.accept()
            except TimeoutError:
                break
            peer.settimeout(_REPORT_SECONDS)  # who connects and says nothing, or something else, is none of ours
            if _is_report(report := _receive(_kept_alive(peer))):
                peer.settimeout(None)
                problem = _disagreement(reports, report)
                reports.setdefault(report["process"], report)
                peers[report["process"]] = peer
                if problem:
                    _refuse([*peers.values(), peer], problem)
    missing = sorted(set(range(own["processes"])) - set(reports))
    if missing:
        names = ", ".join(map(str, missing))
        _refuse(
            peers.values(),
            f"process {names} of {own['processes']} did not report within {timeout:.0f} s: see its log, and whether "
            f"JAX_COORDINATOR_ADDRESS there names this host ({own['host']})",
        )
    hosts = {number: report["host"] for number, report in reports.items()}
    for peer in peers.values():
        _send(peer, {"what": "go", "host": own["host"]})
    return Lifeline(peers, hosts)


def _answer(host: str, port: int, own: Report, timeout: float) -> Lifeline:
    """Any other process: reports, and waits for the outcome."""
    deadline = time.monotonic() + timeout
    peer = _retry(lambda: socket.create_connection((host, port), timeout=_RETRY_SECONDS * 5), deadline)
    if peer is None:
        raise ProcessError(
            f"process 0 did not answer at {host}:{port} within {timeout:.0f} s: see its log, and whether this host can "
            "reach that address"
        )
    peer.settimeout(max(0.0, deadline - time.monotonic()) + _REPORT_SECONDS)
    _send(_kept_alive(peer), own)
    outcome = _receive(peer)
    peer.settimeout(None)
    if outcome is None or outcome["what"] != "go":
        raise ProcessError(outcome["reason"] if outcome else f"process 0 at {host}:{port} ended during start-up")
    return Lifeline({0: peer}, {0: outcome["host"]})


def _is_report(message: Any) -> TypeGuard[Report]:
    return isinstance(message, dict) and {"process", "processes", "host", "facts"} <= message.keys()


def _disagreement(reports: Mapping[int, Report], new: Report) -> str | None:
    """What is wrong with a report beside those that are there; None where nothing is."""
    first, number = reports[0], new["process"]
    if number in reports or not 0 <= number < first["processes"]:
        return f"two processes say that they are process {number}, or it is not one of {first['processes']}"
    if new["processes"] != first["processes"]:
        return (
            f"process {number} on {new['host']} was told of {new['processes']} processes, process 0 of "
            f"{first['processes']}"
        )
    if differing := configuration.differing_fields(first["facts"], new["facts"]):
        more = f" and {len(differing) - 4} more" if len(differing) > 4 else ""
        return (
            f"process {number} on {new['host']} differs from process 0 on {first['host']} in "
            f"{', '.join(differing[:4])}{more}; give all of them the same"
        )
    return None


def _refuse(peers: Any, problem: str) -> None:
    for peer in peers:
        with contextlib.suppress(OSError):
            _send(peer, {"what": "refused", "reason": problem})
    raise ProcessError(problem)


def _listen(port: int) -> socket.socket:
    try:
        return socket.create_server(("", port), backlog=1024)
    except OSError as error:
        raise ProcessError(
            f"port {port} of JAX_COORDINATOR_ADDRESS cannot be used: {error.strerror}; choose another"
        ) from None


def _retry(attempt: Callable[[], socket.socket], deadline: float) -> socket.socket | None:
    while time.monotonic() < deadline:
        try:
            return attempt()
        except OSError:
            time.sleep(_RETRY_SECONDS)
    return None


def _kept_alive(peer: socket.socket) -> socket.socket:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE.items():
        if hasattr(socket, option):
            peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return peer


def _send(peer: socket.socket, message: Mapping[str, Any]) -> None:
    peer.sendall(json.dumps(message).encode() + b"\n")


def _receive(peer: socket.socket) -> dict[str, Any] | None:
    """The next message; None where the other side is gone, or says what is none."""
    line = bytearray()
    try:
        while not line.endswith(b"\n"):
            byte = peer.recv(1)
            if not byte:
                return None
            line += byte
        return json.loads(line)
    except (OSError, ValueError):
        return None
