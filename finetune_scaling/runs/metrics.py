"""Writers of a run's metrics: metrics.jsonl always, TensorBoard and W&B on request, progress on the terminal."""

import datetime
import hashlib
import importlib
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from finetune_scaling.configuration import choose
from finetune_scaling.errors import ConfigError
from finetune_scaling.files import Location, absolute, disk_errors, is_remote, local_path, write_atomically
from finetune_scaling.runs.run_directory import CONFIG, METRICS
from finetune_scaling.sharding.processes import is_primary
from finetune_scaling.strict_json import format_json

log = logging.getLogger(__name__)

# Values that differ between two executions of a run.
MEASURED = ("time", "tokens_per_second", "flops_per_second", "mfu", "peak_memory_bytes")


class Writer:
    """Writes the metrics of one step."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        raise NotImplementedError

    def flush(self) -> None:
        """Make all metrics durable; called before each checkpoint."""

    def close(self) -> None:
        """Write the remaining metrics and release resources."""


class JsonLines(Writer):
    """Appends one JSON object per line: {"step": ..., name: value, ...}."""

    def __init__(self, directory: Location):
        self._path = directory / METRICS

    def write(self, step: int, values: Mapping[str, float]) -> None:
        with disk_errors(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(format_json({"step": step, **values}) + "\n")


class RemoteJsonLines(Writer):
    """Writes metrics.jsonl to an object store, where objects cannot be appended to.

    The complete file is written before each checkpoint and at the end, so that a resumed run finds all lines up to its
    checkpoint.
    """

    def __init__(self, directory: Location):
        self._path = directory / METRICS
        with disk_errors(self._path):
            self._text = self._path.read_text() if self._path.exists() else ""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._text += format_json({"step": step, **values}) + "\n"

    def flush(self) -> None:
        write_atomically(self._path, self._text)

    close = flush


class TensorBoard(Writer):
    """Writes event files to `directory`/tensorboard; those that a killed process wrote after `step` are hidden."""

    package = "tensorboardX"

    def __init__(self, directory: Location, step: int):
        folder = local_path(directory, "the log of TensorBoard") / "tensorboard"
        self._writer = _import(self.package, "tensorboard").SummaryWriter(str(folder), purge_step=step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases(Writer):
    """Logs to a W&B run named after the directory; project and entity come from W&B's own environment variables.

    W&B ignores steps that were already logged before a resume.
    """

    package = "wandb"

    def __init__(self, directory: Location, step: int):
        wandb = _import(self.package, "wandb")
        folder = None if is_remote(directory) else str(directory)  # None: W&B's default
        self._run = wandb.init(name=directory.name, dir=folder, resume="allow", id=_run_id(directory))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


def _run_id(directory: Location) -> str:
    """Return an id that a resumed run shares and other runs do not, although directory names repeat in a study."""
    config = (directory / CONFIG).read_bytes()
    return hashlib.sha256(str(absolute(directory)).encode() + b"\n" + config).hexdigest()[:32]


WRITERS: dict[str, type[TensorBoard] | type[WeightsAndBiases]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
}


def check_writers(names: Sequence[str]) -> None:
    """Raise ConfigError if a name of `logging.writers` is unknown, or its package is not installed."""
    for name in names:
        _import(choose(WRITERS, name, "logging.writers").package, name)


class Metrics:
    """The writers of a run's metrics: metrics.jsonl, and those named in `writers`. step: the step to resume from."""

    def __init__(self, directory: Location, writers: Sequence[str] = (), step: int = 0):
        check_writers(writers)
        kinds = [WRITERS[name] for name in writers]
        self._writers: list[Writer] = []  # empty on processes other than the primary
        if is_primary():
            lines = RemoteJsonLines if is_remote(directory) else JsonLines
            self._writers = [lines(directory), *(kind(directory, step) for kind in kinds)]

    def write(self, step: int, **values: float) -> None:
        """Write the metrics of one step to all writers."""
        for writer in self._writers:
            writer.write(step, values)

    def flush(self) -> None:
        """Make all metrics durable; called before each checkpoint."""
        for writer in self._writers:
            writer.flush()

    def close(self) -> None:
        """Close all writers."""
        for writer in self._writers:
            writer.close()


_CLEAR_LINE = "\r\x1b[K"  # ANSI: erase to the end of the line


class ProgressReporter:
    """Reports rate and remaining time: one rewritten line on a terminal, a line at intervals in a log."""

    def __init__(self, title: str, start: int, total: int, every_seconds: float = 30.0):
        self._title, self._start, self._total = title, start, total
        self._started = self._last = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._every = 0.2 if self._terminal else every_seconds

    def update(self, step: int, **values: Any) -> None:
        """Report the step and some values if the interval has passed."""
        now = time.monotonic()
        if now - self._last < self._every:
            return
        self._last = now
        line = self._line(step, now, values)
        if self._terminal:
            print(_CLEAR_LINE + line, end="", file=sys.stderr, flush=True)
        else:
            log.info("%s", line)

    def close(self) -> None:
        """Clear the terminal's progress line."""
        if self._terminal:
            print(_CLEAR_LINE, end="", file=sys.stderr, flush=True)

    def _line(self, step: int, now: float, values: Mapping[str, Any]) -> str:
        rate = (step - self._start) / max(now - self._started, 1e-9)
        left = datetime.timedelta(seconds=round((self._total - step) / rate)) if rate else "?"
        shown = " ".join(f"{name} {value:{'.4g' if value < 1e4 else ',.0f'}}" for name, value in values.items())
        return f"{self._title}: step {step}/{self._total}, {rate:.1f} steps/s, {left} left, {shown}"


def _import(module: str, writer: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"logging.writers names {writer}, which is not installed. Fix: pip install 'finetune-scaling[logging]'"
        ) from error
