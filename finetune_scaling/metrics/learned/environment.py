"""The Python environment of a metric's program: made once from its requirements, then kept in the user's cache.

Such programs pin versions that the rest cannot live with (unbabel-comet wants numpy 1), so each has its own.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from finetune_scaling.errors import MetricError
from finetune_scaling.files import disk_errors, local_path, write_json_atomically

CACHE_VARIABLE = "FINETUNE_SCALING_METRICS_CACHE"

_COMPLETE = "complete.json"  # written last: without it a folder is what a kill left
_NEWS_SECONDS = 15.0
_LAST_WORDS = 15

log = logging.getLogger(__name__)


def metrics_cache() -> Path:
    """Where environments and scores are kept: the variable's folder, or one in the user's cache."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "finetune_scaling" / "metrics"
    return local_path(os.environ.get(CACHE_VARIABLE) or default, "the cache of metrics").absolute()


def tool_interpreter(name: str, requirements: Sequence[str]) -> Path:
    """The interpreter of an environment that holds `requirements`; this process's own where there are none.

    The environment is made where it is not there; processes that want the same one at once wait for the first.
    Raises MetricError, with pip's last lines, where it cannot be made.
    """
    if not requirements:
        return Path(sys.executable)
    folder = metrics_cache() / "environments" / _digest(requirements)
    python = folder / "bin" / "python"
    if not (folder / _COMPLETE).is_file():
        with _locked(folder):
            if not (folder / _COMPLETE).is_file():
                _make(name, folder, requirements)
    return python


def tool_variables(isolated: bool) -> Mapping[str, str]:
    """The environment variables of a metric's program; isolated: without those that lead out of an environment."""
    leading_out = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"} if isolated else set()
    kept = {name: value for name, value in os.environ.items() if name not in leading_out}
    return kept | {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}


def _digest(requirements: Sequence[str]) -> str:
    """Names an environment by what it is made from: equal requirements of any metric share one."""
    made_from = [sorted(requirements), platform.python_version(), platform.platform()]
    return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:16]


def _make(name: str, folder: Path, requirements: Sequence[str]) -> None:
    record = folder.with_suffix(".log")
    log.info("%s: making its environment, once, in %s (log: %s)", name, folder, record)
    with disk_errors(folder):
        shutil.rmtree(folder, ignore_errors=True)
        python = str(folder / "bin" / "python")
        with record.open("wb") as output:
            _run(name, [sys.executable, "-m", "venv", str(folder)], record, output)
            _run(name, [python, "-m", "pip", "install", "--quiet", *requirements], record, output)
            frozen = subprocess.run([python, "-m", "pip", "freeze"], capture_output=True, text=True, check=True)
    write_json_atomically(
        folder / _COMPLETE, {"requirements": list(requirements), "packages": frozen.stdout.splitlines()}
    )


def _run(name: str, command: Sequence[str], record: Path, output: BinaryIO) -> None:
    """Runs one command with its output in the log, telling now and then that it goes on."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=tool_variables(isolated=True)
    )
    seconds = 0.0
    try:
        while True:
            try:
                code = process.wait(_NEWS_SECONDS)
                break
            except subprocess.TimeoutExpired:
                seconds += _NEWS_SECONDS
                log.info("%s: installing for %.0f s", name, seconds)
    except BaseException:
        process.kill()
        process.wait()
        raise
    if code:
        last = record.read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_WORDS:]
        words = "".join(f"\n  {line}" for line in last)
        raise MetricError(
            f"metric {name}: its environment cannot be made: {' '.join(command[1:4])} ... failed with exit code "
            f"{code}; check its requirements and the network. The end of {record}:{words}"
        )


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds the lock of a folder that may not exist yet."""
    with disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
