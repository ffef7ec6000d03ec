"""Programs of several processes: start-up, results shared by all processes, and joint termination.

JAX_COORDINATOR_ADDRESS=HOST:PORT, JAX_NUM_PROCESSES and JAX_PROCESS_ID describe the processes, or
FINETUNE_SCALING_DISTRIBUTED=auto lets JAX find them (TPU pods, SLURM, MPI). Without these variables a command is a
single process. Messages go through the key-value store of JAX's coordination service, and so use no device.
"""

import atexit
import contextlib
import functools
import hashlib
import itertools
import json
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from jax._src import distributed  # its client is JAX's only way to the coordination service; Orbax uses it too

import finetune_scaling
from finetune_scaling import configuration, errors
from finetune_scaling.errors import ConfigError, ProcessError, UserError
from finetune_scaling.messages import first_names, one_line
from finetune_scaling.sharding.rendezvous import wait_for_processes

ADDRESS, COUNT, NUMBER = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
AUTOMATIC = "FINETUNE_SCALING_DISTRIBUTED"
TIMEOUT = "FINETUNE_SCALING_START_TIMEOUT"  # seconds that processes wait for each other at start-up
_HEARTBEAT_SECONDS = 30  # JAX ends all processes, naming the lost one, when one sends no heartbeat for this long
_POLL_SECONDS = 0.5
_GRACE_SECONDS = 2.0
_FAILURE = "finetune_scaling/failure"

_calls = itertools.count()
_running_on_primary = False


def is_distributed() -> bool:
    """Return whether this process is one of several of the same program."""
    return jax.distributed.is_initialized()


def is_primary() -> bool:
    """Return whether this is the primary process, which writes the files that all processes share."""
    return not is_distributed() or _running_on_primary or distributed.global_state.process_id == 0


def run_on_primary(function: Callable[[], Any]) -> Any:
    """Run `function` on the primary process and return its result (JSON-like) on all processes.

    All processes must call it, in the same order. A UserError that `function` raises is raised on all processes.
    """
    if not is_distributed() or _running_on_primary:
        return function()
    key = f"finetune_scaling/results/{next(_calls)}"
    if is_primary():
        _client().key_value_set(key, json.dumps(_outcome(function)))
    outcome = json.loads(_wait_for_value(key))
    if "error" in outcome:
        raise getattr(errors, outcome["error"])(outcome["message"])
    return outcome["value"]


def _outcome(function: Callable[[], Any]) -> dict[str, Any]:
    """Return the result of `function` or the UserError that it raised, as JSON-like data."""
    global _running_on_primary
    _running_on_primary = True
    try:
        return {"value": function()}
    except UserError as error:
        kind = next(kind.__name__ for kind in type(error).__mro__ if hasattr(errors, kind.__name__))
        return {"error": kind, "message": str(error)}
    finally:
        _running_on_primary = False


def is_requested(environment: Mapping[str, str]) -> bool:
    """Return whether the environment describes several processes."""
    return any(environment.get(name) for name in (ADDRESS, COUNT, NUMBER, AUTOMATIC))


@contextlib.contextmanager
def distributed_program(settings: Mapping[str, Any]) -> Iterator[None]:
    """Run the block as one of the processes that the environment describes.

    settings: flags and config, which must be equal on all processes. A process that fails ends the others.

    Raises:
      ConfigError: an environment variable is missing or wrong.
      ProcessError: a process is missing, or its settings or code differ from those of process 0.
    """
    _initialize(_positive(TIMEOUT, os.environ.get(TIMEOUT, "60")))
    if not is_primary():  # the primary process logs the same
        logging.getLogger("finetune_scaling").setLevel(logging.WARNING)
    with _joint_failure():
        _check_equal({**settings, "code": _code(), COUNT: distributed.global_state.num_processes})
        yield


def _initialize(timeout: int) -> None:
    """Start JAX's coordination service and connect to it."""
    initialize = functools.partial(
        jax.distributed.initialize, initialization_timeout=timeout, heartbeat_timeout_seconds=_HEARTBEAT_SECONDS
    )
    if not os.environ.get(AUTOMATIC):
        host, port, count, number = _identity(os.environ)
        wait_for_processes((host, port), number, count, timeout)
        initialize(f"{host}:{port}", count, number)
        return
    if os.environ[AUTOMATIC] != "auto":
        raise ConfigError(f"{AUTOMATIC} = {os.environ[AUTOMATIC]!r} is unknown; set it to auto or unset it")
    try:
        initialize()
    except (ValueError, RuntimeError) as error:
        raise ProcessError(
            f"{AUTOMATIC}=auto: JAX found no cluster here ({error}); set {ADDRESS}, {COUNT} and {NUMBER} instead"
        ) from error


def _identity(environment: Mapping[str, str]) -> tuple[str, int, int, int]:
    """Return (host, port, number of processes, number of this process)."""
    missing = [name for name in (ADDRESS, COUNT, NUMBER) if not environment.get(name)]
    if missing:
        raise ConfigError(f"{missing[0]} is not set; several processes need {ADDRESS}, {COUNT} and {NUMBER}")
    host, _, port = environment[ADDRESS].rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise ConfigError(f"{ADDRESS} = {environment[ADDRESS]!r} is not HOST:PORT; give the address of process 0")
    count, number = _positive(COUNT, environment[COUNT]), environment[NUMBER]
    if not number.isdigit() or int(number) >= count:
        raise ConfigError(f"{NUMBER} = {number} must be a number from 0 to {count - 1} ({COUNT} = {count})")
    return host, int(port), count, int(number)


def _positive(name: str, text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise ConfigError(f"{name} = {text!r} must be a positive integer")
    return int(text)


def _check_equal(settings: Mapping[str, Any]) -> None:
    """Raise ProcessError on every process where the settings of one differ from those of process 0."""
    client, number = _client(), distributed.global_state.process_id
    own = configuration.plain(settings)
    if is_primary():
        client.key_value_set("finetune_scaling/settings", json.dumps(own))
    differing = configuration.differing_fields(json.loads(_wait_for_value("finetune_scaling/settings")), own)
    if differing:
        message = (
            f"process {number} on {socket.gethostname()} differs from process 0 in {first_names(differing, 4)}; "
            "give all processes the same"
        )
        client.key_value_set(f"finetune_scaling/differences/{number:09d}", message)
    client.wait_at_barrier("finetune_scaling/settings are compared", 1000 * _HEARTBEAT_SECONDS)
    if found := client.key_value_dir_get("finetune_scaling/differences/"):
        raise ProcessError(min(found)[1])


@functools.cache
def _code() -> dict[str, str]:
    """Return the first digits of the SHA-256 of each file of the package."""
    root = Path(finetune_scaling.__file__).parent
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()[:12] for p in sorted(root.rglob("*.py"))
    }


@contextlib.contextmanager
def _joint_failure() -> Iterator[None]:
    """End all processes when one fails: the others would wait for it in a collective operation."""
    done = threading.Event()
    watcher = threading.Thread(target=_exit_after_failure_elsewhere, args=(done,), daemon=True)
    watcher.start()
    try:
        yield
    except errors.Preempted:  # all processes stop at the same step
        raise
    except BaseException as error:
        done.set()
        _publish_failure(error)
        code = errors.EXIT_INTERRUPTED if isinstance(error, KeyboardInterrupt) else errors.EXIT_FAILED
        atexit.register(_exit, getattr(error, "exit_code", code))  # JAX's own exit waits minutes for the others
        raise
    finally:
        done.set()
        watcher.join()


def _publish_failure(error: BaseException) -> None:
    client, number = _client(), distributed.global_state.process_id
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        if isinstance(error, jax.errors.JaxRuntimeError):  # if a process was lost, JAX ends this one and names it
            client.wait_at_barrier("finetune_scaling/all failed", 1000 * (_HEARTBEAT_SECONDS + 5))
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        reason = one_line(str(error)) or type(error).__name__
        client.key_value_set(_FAILURE, f"process {number} failed: {reason}")


def _exit_after_failure_elsewhere(done: threading.Event) -> None:
    """Exit when another process publishes a failure; this one may hang in a collective operation with it."""
    while not done.wait(_POLL_SECONDS):
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # not found
            message = _client().key_value_try_get(_FAILURE)
            if not done.is_set():
                print(f"error: {message}; run the same command again on all of them", file=sys.stderr, flush=True)
                _exit(errors.EXIT_FAILED)


def _exit(code: int) -> None:
    """Exit without JAX's shutdown, which would wait for processes that have ended."""
    sys.stdout.flush()
    sys.stderr.flush()
    if distributed.global_state.process_id == 0:
        threading.Event().wait(_GRACE_SECONDS)  # the others read the failure before the coordination service ends
    os._exit(code)


def _client() -> Any:
    return distributed.global_state.client


def _wait_for_value(key: str) -> str:
    """Return a value of the key-value store as soon as another process has set it.

    It may take hours. JAX ends this process if the other one is lost.
    """
    while True:
        try:
            return _client().blocking_key_value_get(key, timeout_in_ms=10_000)  # Ctrl-C is noticed between the calls
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
