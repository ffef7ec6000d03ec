"""Progress of long loops in the log."""

import logging
import math
import time
from collections.abc import Iterable, Iterator
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
