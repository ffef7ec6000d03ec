"""Several processes that run one program: starting them, and what only the first of them does.

JAX_COORDINATOR_ADDRESS=HOST:PORT, JAX_NUM_PROCESSES and JAX_PROCESS_ID say who is who. Or
FINETUNE_SCALING_DISTRIBUTED=auto asks JAX, which knows TPU pods, SLURM and MPI. With none of them a command is one
process.
"""

import atexit
import contextlib
import functools
import hashlib
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

import finetune_scaling
from finetune_scaling import errors
from finetune_scaling.errors import ConfigError, ProcessError, UserError
from finetune_scaling.sharding import roles
from finetune_scaling.sharding.roll_call import ADDRESS, AUTOMATIC, COUNT, NUMBER, Lifeline, gather

TIMEOUT = "FINETUNE_SCALING_START_TIMEOUT"  # seconds that processes wait for each other
_HEARTBEAT_SECONDS = 30  # JAX's own notice of a process that is gone, where the roll call's cannot be


@contextlib.contextmanager
def joined(facts: Mapping[str, Any]) -> Iterator[None]:
    """Makes this process one of those that the environment speaks of, until the block ends.

    facts: what must be equal on all of them (flags, config). Raises ProcessError where a process is missing or differs.
    """
    timeout = _positive(TIMEOUT, os.environ.get(TIMEOUT, "60"))
    if os.environ.get(AUTOMATIC):
        _start_automatically(timeout)
        _take_role()
        with _left_on_failure():
            _check_equal(facts)
            yield
        return
    address, count, number = _identity(os.environ)
    lifeline = gather(address, number, count, {**facts, "code": _code()}, timeout)
    jax.distributed.initialize(
        address, count, number, initialization_timeout=timeout, heartbeat_timeout_seconds=_HEARTBEAT_SECONDS
    )
    _take_role()
    with _left_on_failure(), _told(lifeline, number):
        yield


@contextlib.contextmanager
def _left_on_failure() -> Iterator[None]:
    """Ends a process that fails without JAX's farewell, which would wait minutes for the others, who wait for it."""
    try:
        yield
    except errors.Preempted:  # which is agreed upon: all of them end so
        raise
    except KeyboardInterrupt:
        atexit.register(_leave, errors.EXIT_INTERRUPTED)
        raise
    except BaseException as error:
        atexit.register(_leave, getattr(error, "exit_code", errors.EXIT_FAILED))
        raise


@contextlib.contextmanager
def _told(lifeline: Lifeline, number: int) -> Iterator[None]:
    """Tells the others how this process ends."""
    try:
        yield
    except errors.Preempted:
        lifeline.close()
        raise
    except BaseException as error:
        lifeline.fail(f"process {number} failed: {' '.join(str(error).split()) or type(error).__name__}")
        raise
    lifeline.close()


def _leave(code: int) -> None:
    """Ends at once: JAX's own farewell would wait for processes that are ending too."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _identity(environment: Mapping[str, str]) -> tuple[str, int, int]:
    missing = [name for name in (ADDRESS, COUNT, NUMBER) if not environment.get(name)]
    if missing:
        raise ConfigError(f"{missing[0]} is not set; several processes need {ADDRESS}, {COUNT} and {NUMBER}")
    count, number = _positive(COUNT, environment[COUNT]), environment[NUMBER]
    if not number.isdigit() or int(number) >= count:
        raise ConfigError(f"{NUMBER} = {number} must be a number from 0 to {count - 1} ({COUNT} = {count})")
    return environment[ADDRESS], count, int(number)


def _take_role() -> None:
    if jax.process_index() != 0:  # what they log is what the first one does
        logging.getLogger("finetune_scaling").setLevel(logging.WARNING)
    roles.take(roles.Role(jax.process_index() == 0, _run_on_primary))


def _positive(name: str, text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise ConfigError(f"{name} = {text!r} must be a number from 1 on")
    return int(text)


def _start_automatically(timeout: int) -> None:
    if os.environ[AUTOMATIC] != "auto":
        raise ConfigError(f"{AUTOMATIC} = {os.environ[AUTOMATIC]!r} is unknown; set it to auto, or leave it out")
    try:
        jax.distributed.initialize(initialization_timeout=timeout, heartbeat_timeout_seconds=_HEARTBEAT_SECONDS)
    except (ValueError, RuntimeError) as error:
        raise ProcessError(
            f"{AUTOMATIC}=auto: JAX found no cluster here ({error}); set {ADDRESS}, {COUNT} and {NUMBER} instead"
        ) from error


def _check_equal(facts: Mapping[str, Any]) -> None:
    """Raises ProcessError on every process where one has other facts than process 0."""
    for name, value in {**facts, "code": _code()}.items():
        digest = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest()
        rows = _all_gather(np.frombuffer(digest, np.uint8))
        differing = [i for i, row in enumerate(rows) if (row != rows[0]).any()]
        if differing:
            raise ProcessError(
                f"process {differing[0]} differs from process 0 in its {name}; give all of them the same"
            )


@functools.cache
def _code() -> dict[str, str]:
    """The first digits of the digest of each of the package's files."""
    root = Path(finetune_scaling.__file__).parent
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()[:12] for p in sorted(root.rglob("*.py"))
    }


def _run_on_primary(function: Callable[[], Any]) -> Any:
    outcome = _broadcast(_outcome(function) if roles.is_primary() else {})
    if "error" in outcome:
        raise getattr(errors, outcome["error"])(outcome["message"])
    return outcome["value"]


def _outcome(function: Callable[[], Any]) -> dict[str, Any]:
    try:
        with roles.alone():
            return {"value": function()}
    except UserError as error:
        known = next(kind.__name__ for kind in type(error).__mro__ if hasattr(errors, kind.__name__))
        return {"error": known, "message": str(error)}


def _broadcast(message: Mapping[str, Any]) -> dict[str, Any]:
    """The first process's message, on all of them."""
    text = np.frombuffer(json.dumps(message).encode(), np.uint8)
    size = int(_all_gather(np.array([len(text)], np.int32))[0, 0])
    room = np.zeros(1 << max(8, size.bit_length()), np.uint8)  # few sizes, few compilations
    if roles.is_primary():
        room[: len(text)] = text
    return json.loads(_all_gather(room)[0][:size].tobytes())


def _all_gather(values: np.ndarray) -> np.ndarray:
    """[N] of each process -> [processes, N]."""
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(values))
