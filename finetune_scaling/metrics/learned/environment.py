"""The Python environment of a metric's program, created once from its requirements in the user's cache directory.

Learned metrics pin versions that conflict with ours (unbabel-comet needs numpy 1), so each has its own environment.
"""

import collections
import fcntl
import hashlib
import json
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from finetune_scaling.errors import MetricError
from finetune_scaling.files import disk_errors, local_path, write_json_atomically

CACHE_VARIABLE = "FINETUNE_SCALING_METRICS_CACHE"

_SHOWN_LINES = 15  # of a program's output in an error message
_COMPLETE = "complete.json"  # written last: a directory without it is incomplete

log = logging.getLogger(__name__)


def metrics_cache() -> Path:
    """Return the directory of environments and cached scores: CACHE_VARIABLE, or one in the user's cache directory."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "finetune_scaling" / "metrics"
    return local_path(os.environ.get(CACHE_VARIABLE) or default, "the metrics cache").absolute()


def metric_interpreter(name: str, requirements: Sequence[str]) -> Path:
    """Return the interpreter of an environment with `requirements`; this process's interpreter if there are none.

    A missing environment is created; concurrent processes wait for the first one. Raises MetricError with the last
    lines of pip's output if that fails.
    """
    if not requirements:
        return Path(sys.executable)
    folder = metrics_cache() / "environments" / _digest(requirements)
    python = folder / "bin" / "python"
    if (folder / _COMPLETE).is_file():
        return python
    with disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with folder.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / _COMPLETE).is_file():
                _create(name, folder, requirements)
    return python


def metric_variables(isolated: bool) -> Mapping[str, str]:
    """Return a program's environment variables; `isolated` removes those that point to other Python environments."""
    removed = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"} if isolated else set()
    kept = {name: value for name, value in os.environ.items() if name not in removed}
    return kept | {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}


def last_lines(output: IO[bytes]) -> str:
    """Return the last lines of a program's output for an error message."""
    lines = collections.deque(output, maxlen=_SHOWN_LINES)
    return "".join(f"\n  {line.decode(errors='replace').rstrip()[-300:]}" for line in lines) or "empty"


def _digest(requirements: Sequence[str]) -> str:
    """Identify an environment, so that metrics with equal requirements share one."""
    contents = [sorted(requirements), platform.python_version(), platform.platform()]
    return hashlib.sha256(json.dumps(contents).encode()).hexdigest()[:16]


def _create(name: str, folder: Path, requirements: Sequence[str]) -> None:
    log_file = folder.with_suffix(".log")
    log.info("%s: creating its environment in %s, which may take minutes (log: %s)", name, folder, log_file)
    python, variables = str(folder / "bin" / "python"), metric_variables(isolated=True)
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [python, "-m", "pip", "install", "--quiet", *requirements],
    ):
        with log_file.open("w+b") as output:
            code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=variables)
            if code.returncode:
                output.seek(0)
                raise MetricError(
                    f"metric {name}: its environment cannot be created: {' '.join(command[1:4])} ... failed with exit "
                    f"code {code.returncode}; check its requirements and the network. The last lines of {log_file}: "
                    f"{last_lines(output)}"
                )
    frozen = subprocess.run([python, "-m", "pip", "freeze"], capture_output=True, text=True, check=True)
    write_json_atomically(
        folder / _COMPLETE, {"requirements": list(requirements), "packages": frozen.stdout.splitlines()}
    )
