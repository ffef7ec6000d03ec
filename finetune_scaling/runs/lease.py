"""Holding a directory of an object store, where the system has no locks: an object that its holder renews.

Whoever finds one watches it: as long as it changes, its holder lives. So clocks need not agree. A holder that was
killed is known at once on its own machine, and elsewhere after EXPIRY_SECONDS without a renewal. Of two processes that
take a free directory in the same moment the later writer gets it, the other finds that out after SETTLE_SECONDS. A
holder that could not renew for so long that another took over ends itself at once, lest both write.
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
    """Holds the lease at `path` while the block runs.

    Raises InUseError where a living process holds it, unless `wait`; WorkdirError where the store cannot be used.
    """
    mine: Lease = {
        "holder": uuid.uuid4().hex,
        "host": socket.gethostname(),
        "machine": _machine(),
        "pid": os.getpid(),
        "renewals": 0,
    }
    call_with_timeout(path, lambda: _read(path))
    while not _take(path, mine):
        if not wait:
            found = _read(path) or {}
            raise InUseError(
                f"{path.parent}: another process is working here (process {found.get('pid')} on {found.get('host')}); "
                "let it end, or choose another"
            )
    done = threading.Event()
    renewing = threading.Thread(target=_renew, args=(path, mine, done), daemon=True)
    renewing.start()
    try:
        yield
    finally:
        done.set()
        renewing.join()
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def _take(path: epath.Path, mine: Lease) -> bool:
    """Whether the lease could be had: it was free, its holder is dead, or it was not renewed while it was watched."""
    found = _read(path)
    if found is not None and not _is_dead(found):
        log.info("%s: held by process %s on %s; watching whether it lives", path, found.get("pid"), found.get("host"))
        if _changes(path, found):
            return False
    call_with_timeout(path, lambda: path.write_text(json.dumps(mine)))
    time.sleep(SETTLE_SECONDS)
    return (_read(path) or {}).get("holder") == mine["holder"]


def _changes(path: epath.Path, found: Lease) -> bool:
    """Whether a lease is renewed within EXPIRY_SECONDS; one that is given back meanwhile is not."""
    end = time.monotonic() + EXPIRY_SECONDS
    while time.monotonic() < end:
        time.sleep(_POLL_SECONDS)
        now = _read(path)
        if now != found:
            return now is not None
    return False


def _read(path: epath.Path) -> Lease | None:
    try:
        lease = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except json.JSONDecodeError:
        return {}
    return lease if isinstance(lease, dict) else {}


def _is_dead(lease: Lease) -> bool:
    """Whether the holder ran on this machine and is no more."""
    if lease.get("machine") != _machine() or not isinstance(lease.get("pid"), int):
        return False
    try:
        os.kill(lease["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _machine() -> str:
    """Names this boot of this machine and its numbering of processes, which containers have of their own."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    numbering = Path("/proc/self/ns/pid")
    if not boot.exists() or not numbering.is_symlink():
        return uuid.uuid4().hex  # nothing to go by: another machine each time
    return f"{socket.gethostname()} {boot.read_text().strip()} {os.readlink(numbering)}"


def _renew(path: epath.Path, mine: Lease, done: threading.Event) -> None:
    """Renews until done; ends the process where another has taken over."""
    while not done.wait(RENEWAL_SECONDS):
        try:
            found = _read(path)
            if found is not None and found.get("holder") != mine["holder"]:
                _end(f"{path.parent}: process {found.get('pid')} on {found.get('host')} took this directory over")
            mine["renewals"] += 1
            path.write_text(json.dumps(mine))
        except Exception as error:  # of the network; the next time may do
            log.warning("%s: could not be renewed (%s: %s); trying again", path, type(error).__name__, error)


def _end(why: str) -> None:
    print(f"error: {why}, since this process could not renew its hold; it ends without saving", file=sys.stderr)
    sys.stderr.flush()
    os._exit(EXIT_FAILED)
