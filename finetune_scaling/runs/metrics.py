"""Where the numbers of a run go: metrics.jsonl always, TensorBoard and W&B where asked, progress on the terminal."""

import contextlib
import hashlib
import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

from etils import epath

from finetune_scaling.configuration import choose
from finetune_scaling.errors import ConfigError
from finetune_scaling.files import Location, absolute, disk_errors, local_path, write_atomically
from finetune_scaling.runs.run_directory import CONFIG, METRICS
from finetune_scaling.sharding.roles import is_primary

log = logging.getLogger(__name__)


class Writer(Protocol):
    """Takes the numbers of one step."""

    def write(self, step: int, values: Mapping[str, float]) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """One JSON object a line: {"step": ..., name: value, ...}, at once."""

    def __init__(self, directory: Path):
        self._path = directory / METRICS
        with disk_errors(self._path):
            self._file: TextIO = self._path.open("a", encoding="utf-8")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        with disk_errors(self._path):
            print(json.dumps({"step": step, **values}), file=self._file, flush=True)

    def flush(self) -> None:
        """Every line is written when it comes."""

    def close(self) -> None:
        with disk_errors(self._path):
            self._file.close()


class RemoteJsonLines:
    """The same in an object store, where nothing can be added to a file: lines wait here and the whole is written anew
    before each checkpoint and at the end. So a run that is resumed finds all lines up to its checkpoint.
    """

    def __init__(self, directory: epath.Path):
        self._path = directory / METRICS
        with disk_errors(self._path):
            self._text = self._path.read_text() if self._path.exists() else ""
        self._written = self._text

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._text += json.dumps({"step": step, **values}) + "\n"

    def flush(self) -> None:
        if self._text != self._written:
            write_atomically(self._path, self._text)
            self._written = self._text

    def close(self) -> None:
        self.flush()


class TensorBoard:
    """Event files in `directory`/tensorboard; what an earlier process wrote there of steps after `step` is hidden."""

    def __init__(self, directory: Location, step: int):
        local_path(directory, "the log of TensorBoard")
        with _extra("tensorboard"):
            from tensorboardX import SummaryWriter
        self._writer = SummaryWriter(str(directory / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        """tensorboardX writes by itself, every two minutes and when closed."""

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A W&B run named after the directory; project and entity come from W&B's own environment variables.

    Steps that an earlier process has logged already are not logged again: W&B ignores them by itself.
    """

    def __init__(self, directory: Location, step: int):
        with _extra("wandb"):
            import wandb
        place = str(directory) if isinstance(directory, Path) else None  # W&B's own choice
        self._run = wandb.init(name=directory.name, dir=place, resume="allow", id=_run_id(directory))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def flush(self) -> None:
        """W&B sends by itself."""

    def close(self) -> None:
        self._run.finish()


def _run_id(directory: Location) -> str:
    """The same for every process of a run, and of no other run: the last names of directories repeat in a study."""
    config = directory / CONFIG
    told = config.read_bytes() if config.exists() else b""
    return hashlib.sha256(str(absolute(directory)).encode() + b"\n" + told).hexdigest()[:32]


WRITERS: dict[str, type] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}


class Metrics:
    """All writers of a run as one. step: where it goes on from, later ones being written anew."""

    def __init__(self, directory: Location, further: Sequence[str] = (), step: int = 0):
        kinds = [choose(WRITERS, name, "logging.writers") for name in further]
        self._writers: list[Writer] = []  # of several processes that train together only the first one writes
        if is_primary():
            lines = JsonLines(directory) if isinstance(directory, Path) else RemoteJsonLines(directory)
            self._writers = [lines, *(kind(directory, step) for kind in kinds)]

    def write(self, step: int, **values: float) -> None:
        """Writes named numbers of one step everywhere."""
        for writer in self._writers:
            writer.write(step, values)

    def flush(self) -> None:
        """Puts all that was written where a process that goes on from here finds it; called before each checkpoint."""
        for writer in self._writers:
            writer.flush()

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


class ProgressReporter:
    """Rate and time left: one line rewritten on a terminal, a plain line now and then in a log."""

    def __init__(self, title: str, start: int, total: int, every_seconds: float = 30.0):
        self._title, self._start, self._total = title, start, total
        self._began = self._last = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._every = 0.2 if self._terminal else every_seconds
        self._width = 0

    def update(self, step: int, **values: Any) -> None:
        """Tells the step reached and some values, if it is time to."""
        now = time.monotonic()
        if now - self._last < self._every:
            return
        self._last = now
        line = self._line(step, now, values)
        if self._terminal:
            sys.stderr.write("\r" + line.ljust(self._width))
            sys.stderr.flush()
            self._width = len(line)
        else:
            log.info("%s", line)

    def close(self) -> None:
        """Clears the line."""
        if self._terminal and self._width:
            sys.stderr.write("\r" + " " * self._width + "\r")
            sys.stderr.flush()

    def _line(self, step: int, now: float, values: Mapping[str, Any]) -> str:
        rate = (step - self._start) / max(now - self._began, 1e-9)
        left = (self._total - step) / rate if rate else float("inf")
        shown = " ".join(f"{name} {value:.4g}" for name, value in values.items())
        return f"{self._title}: step {step}/{self._total}, {rate:.1f} steps/s, {_clock(left)} left, {shown}"


def _clock(seconds: float) -> str:
    if seconds == float("inf"):
        return "?"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


@contextlib.contextmanager
def _extra(name: str):
    try:
        yield
    except ImportError as error:
        raise ConfigError(
            f"logging.writers asks for {name}, which is not installed: pip install 'finetune-scaling[logging]'"
        ) from error
