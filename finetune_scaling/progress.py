"""Progress of long loops in the log, and of the steps of a command."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

_SECONDS = 10.0

log = logging.getLogger(__name__)


def log_progress(items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
    """Yield items, and log their number and the remaining time every ten seconds, estimated from the first item on."""
    start = logged = math.inf
    for count, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        start, logged = min(start, now), min(logged, now)
        if now - logged >= _SECONDS and count < total:
            logged = now
            left = (now - start) / (count - 1) * (total - count)
            log.info("%s: %d of %d, about %.0f s left", what, count, total, left)


def with_seconds(show: Callable[[str], None]) -> Callable[[str], None]:
    """Return a function that shows a text behind the seconds since this call."""
    started = time.perf_counter()
    return lambda text: show(f"[{time.perf_counter() - started:5.1f} s] {text}")
