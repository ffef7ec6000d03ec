"""A lease on a directory of an object store, which has no locks: an object that its holder renews.

A free lease is created atomically: of several processes one has it. A process that finds a lease watches it: while it
is renewed, its holder is alive, so clocks need not agree. A lease expires after EXPIRY_SECONDS without renewal, or
immediately if its holder was killed on the same machine. If two processes take over an expired lease at the same time,
the last writer has it, which the other reads after SETTLE_SECONDS. A holder whose lease was taken over because it could
not renew it exits immediately, so that two processes never write.
"""

import contextlib
import json
import logging
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
from etils import epath

from finetune_scaling.errors import EXIT_FAILED, InUseError
from finetune_scaling.files import call_with_timeout

log = logging.getLogger(__name__)

RENEWAL_SECONDS = 10.0
EXPIRY_SECONDS = 40.0
SETTLE_SECONDS = 1.0
_POLL_SECONDS = 2.0

Lease = dict[str, Any]


@contextlib.contextmanager
def hold_lease(path: epath.Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lease at `path` while the block runs.

    Raises InUseError if a live process holds it and `wait` is False; WorkdirError if the store cannot be used.
    """
    own: Lease = {
        "holder": uuid.uuid4().hex,
        "host": socket.gethostname(),
        "machine": _machine(),
        "pid": os.getpid(),
        "renewals": 0,
    }
    call_with_timeout(path, lambda: _read(path))
    while not _acquire(path, own):
        if not wait:
            raise InUseError(
                f"{path.parent}: another process is working here ({_holder(_read(path) or {})}). Fix: wait for it, or "
                "choose another"
            )
    done = threading.Event()
    heartbeat = threading.Thread(target=_renew, args=(path, own, done), daemon=True)
    heartbeat.start()
    try:
        yield
    finally:
        done.set()
        heartbeat.join()
        path.unlink(missing_ok=True)


def _acquire(path: epath.Path, own: Lease) -> bool:
    """Acquire the lease if it is free, expired, or its holder has exited; return whether this process holds it."""
    if _create(path, own):
        return True
    found = _read(path)
    if found is not None and not _is_dead(found):
        log.info("%s: held by %s; waiting to see whether it is renewed", path, _holder(found))
        if _is_renewed(path, found):
            return False
        if _create(path, own):  # it was released
            return True
    call_with_timeout(path, lambda: path.write_text(json.dumps(own)))
    time.sleep(SETTLE_SECONDS)
    return (_read(path) or {}).get("holder") == own["holder"]


def _create(path: epath.Path, own: Lease) -> bool:
    """Create the lease in one request that fails if it exists; return whether it was created."""
    store, name = fsspec.core.url_to_fs(str(path))

    def create() -> bool:
        try:
            store.pipe_file(name, json.dumps(own).encode(), mode="create")
        except FileExistsError:  # or created by a first attempt whose answer was lost
            return (_read(path) or {}).get("holder") == own["holder"]
        return True

    return call_with_timeout(path, create)


def _is_renewed(path: epath.Path, found: Lease) -> bool:
    """Return whether a lease is renewed within EXPIRY_SECONDS; False if it is released."""
    end = time.monotonic() + EXPIRY_SECONDS
    while time.monotonic() < end:
        time.sleep(_POLL_SECONDS)
        now = _read(path)
        if now != found:
            return now is not None
    return False


def _read(path: epath.Path) -> Lease | None:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except json.JSONDecodeError:
        return {}


def _is_dead(lease: Lease) -> bool:
    """Return whether the holder ran on this machine and has exited."""
    if lease.get("machine") != _machine():
        return False
    try:
        os.kill(lease["pid"], 0)
    except PermissionError:  # the process exists, and is another user's
        return False
    except ProcessLookupError:
        return True
    return False


def _holder(lease: Lease) -> str:
    return f"process {lease.get('pid')} on {lease.get('host')}"


def _machine() -> str:
    """Return an identifier of this boot of this machine and of the PID namespace (of a container)."""
    try:
        boot, namespace = Path("/proc/sys/kernel/random/boot_id").read_text(), os.readlink("/proc/self/ns/pid")
    except OSError:
        return uuid.uuid4().hex  # unknown: never equal to another process's
    return f"{socket.gethostname()} {boot.strip()} {namespace}"


def _renew(path: epath.Path, own: Lease, done: threading.Event) -> None:
    """Renew the lease until `done`; exit the process if another process has taken it over."""
    while not done.wait(RENEWAL_SECONDS):
        try:
            found = _read(path)
            if found is not None and found.get("holder") != own["holder"]:
                taken = f"{path.parent}: {_holder(found)} took over this directory, as this process could not renew"
                print(f"error: {taken} its lease; it exits without saving", file=sys.stderr, flush=True)
                os._exit(EXIT_FAILED)
            own["renewals"] += 1
            path.write_text(json.dumps(own))
        except Exception as error:  # a network error, which may be transient
            log.warning("%s: cannot be renewed (%s: %s); trying again", path, type(error).__name__, error)
