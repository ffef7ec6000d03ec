"""A run's directory: one config, one process at a time, and a result that is there only when all is done.

It may be a URL such as gs://bucket/run: see files.py and lease.py for how that differs.
"""

import contextlib
import errno
import fcntl
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from finetune_scaling import configuration
from finetune_scaling.errors import InUseError, WorkdirError
from finetune_scaling.files import Location, disk_errors, location, read_json, write_atomically, write_json_atomically
from finetune_scaling.runs.lease import hold_lease
from finetune_scaling.sharding.roles import run_on_primary

CONFIG, ENVIRONMENT, METRICS, RESULT, LOCK = (
    "config.json",
    "environment.json",
    "metrics.jsonl",
    "result.json",
    ".lock",
)
CHECKPOINTS = "checkpoints"

# Directories may move; digests in the checkpoints tell whether they are the same. And any mesh goes on with a run, on
# devices that may want another form of attention or remat, which compute the same. Evaluators change no parameter.
_MAY_CHANGE = re.compile(r"base\.run|tokenizer|sharding(\..*)?|model\.(attention|remat)|evaluation\.evaluators(\..*)?")

FAILURE = "failure.json"  # beside a study's run that failed
RunState = Literal["done", "failed", "started", "waiting"]


class RunDirectory:
    """Files of one run. config.json says whose run it is; result.json, written last, that it is finished."""

    def __init__(self, path: str | os.PathLike):
        self.path = location(path)

    @property
    def result(self) -> dict[str, Any] | None:
        """The result record, or None while the run is not finished."""
        return read_json(self.path / RESULT) if (self.path / RESULT).exists() else None

    @property
    def config(self) -> dict[str, Any]:
        """The config that the run was started with. Raises WorkdirError where this is no run."""
        if not (self.path / CONFIG).exists():
            raise WorkdirError(f"{self.path}: not the directory of a run (it has no {CONFIG})")
        return read_json(self.path / CONFIG, mend="put a good copy back, or choose another --workdir")

    def claim(self, config: Mapping[str, Any]) -> None:
        """Records `config` as this directory's; one with which nothing was trained yet gives way to it. See `check`."""
        self.check(config)
        write_json_atomically(self.path / CONFIG, configuration.plain(config))

    def check(self, config: Mapping[str, Any]) -> None:
        """Raises WorkdirError, naming the fields, where something was trained here with another config.

        Of an adapter that came in (interop/peft/incoming.py) only the method has to be the same.
        """
        trained = any((self.path / name).exists() for name in (METRICS, RESULT))
        if not trained and not self._came_in():
            return
        if not (self.path / CONFIG).exists():
            raise WorkdirError(f"{self.path}: has files of a run but no {CONFIG}; choose another --workdir")
        differing = [
            name for name in configuration.differing_fields(self.config, config) if not _MAY_CHANGE.fullmatch(name)
        ]
        if not trained:
            differing = [name for name in differing if name.startswith("method.")]
        if differing:
            raise WorkdirError(
                f"{self.path}: holds a run of another config (they differ in {', '.join(differing[:8])}); "
                "choose another --workdir, or delete this one"
            )

    def _came_in(self) -> bool:
        """Whether there is a checkpoint of no step."""
        return (self.path / CHECKPOINTS / "0").is_dir()

    def write_result(self, record: Mapping[str, Any]) -> None:
        """Finishes the run."""
        write_json_atomically(self.path / RESULT, configuration.plain(record))

    def write_environment(self, metadata: Mapping[str, Any]) -> None:
        """Records versions and devices."""
        write_json_atomically(self.path / ENVIRONMENT, configuration.plain(metadata))

    def metrics(self) -> list[dict[str, Any]]:
        """All whole lines of metrics.jsonl; a last line that a kill cut short is left out."""
        path = self.path / METRICS
        lines = path.read_bytes().decode("utf-8", "replace").splitlines() if path.exists() else []
        return list(_whole_records(lines))

    def rewind_metrics(self, step: int) -> None:
        """Drops metrics of steps after `step`: a resumed run writes them again."""
        kept = [record for record in self.metrics() if record["step"] <= step]
        write_atomically(self.path / METRICS, "".join(json.dumps(record) + "\n" for record in kept))


def run_state(directory: Location) -> RunState:
    """How far a run is."""
    if (directory / RESULT).exists():
        return "done"
    if (directory / FAILURE).exists():
        return "failed"
    return "started" if (directory / CONFIG).exists() else "waiting"


def _whole_records(lines: list[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        with contextlib.suppress(json.JSONDecodeError):
            yield json.loads(line)


@contextlib.contextmanager
def lock_directory(directory: str | os.PathLike, *, wait: bool = False) -> Iterator[None]:
    """Holds a directory for this process, until the block ends or the process dies, however it does.

    Of several processes that run together the first one holds it for all.
    Raises InUseError where another process holds it, unless `wait`, which then waits for its end; WorkdirError where
    it cannot be used. The system keeps the lock of a local directory; for a URL there is a lease (lease.py).
    """
    with contextlib.ExitStack() as held:
        run_on_primary(lambda: _hold(held, location(directory), wait))
        yield


def _hold(held: contextlib.ExitStack, directory: Location, wait: bool) -> None:
    """Takes a directory until `held` is left."""
    if isinstance(directory, Path):
        held.callback(os.close, _lock(directory, wait))
    else:
        held.enter_context(hold_lease(directory / LOCK, wait=wait))


def _lock(directory: Path, wait: bool) -> int:
    """Locks a directory; returns the file descriptor that holds it."""
    with disk_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK):
            raise WorkdirError(
                f"{directory}: the file system there has no locks ({error.strerror}), so that two processes could "
                "write the same files; work in a local directory, and copy it there"
            ) from None
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        raise InUseError(f"{directory}: another process is working here; let it end, or choose another") from None
    return descriptor
