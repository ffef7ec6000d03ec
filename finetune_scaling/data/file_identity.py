"""The state of a local file by which later processes know that they have read the same content before."""

import os
import time
from typing import Any

from finetune_scaling.paths import user_path

_SETTLED = 2.0  # seconds after which a further change certainly has another time


def file_identity(path: str) -> dict[str, Any] | None:
    """Return the absolute path, size and time of change (ns) of a local file, which together change with its content.

    None for a URL, a file that cannot be read, and one that was changed a moment ago, as the clock of a file system may
    give two changes the same time.
    """
    if "://" in path:
        return None
    try:
        found = os.stat(user_path(path))
    except OSError:  # reading it is the error
        return None
    if time.time() - found.st_mtime < _SETTLED:
        return None
    return {"path": os.path.realpath(user_path(path)), "size": found.st_size, "mtime_ns": found.st_mtime_ns}
