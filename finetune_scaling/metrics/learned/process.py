"""The client side of the metric protocol: JSON lines over a program's standard input and output."""

import collections
import contextlib
import json
import math
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

from finetune_scaling.errors import ConfigError, MetricError

PROTOCOL = 1

_STDERR_LINES = 15  # last lines of the program's stderr in an error message
_EXIT_SECONDS = 30.0  # time for the program to exit after its last answer


class MetricProcess:
    """A context manager that runs a metric's program and terminates it on exit or on an error.

    Attributes:
      header: the program's first line: protocol, metric, version, and further fields for the signature.
    """

    def __init__(self, name: str, command: Sequence[str], timeout: float, environment: Mapping[str, str]):
        """Set the metric's name for messages, and the seconds without output after which the program counts as hung."""
        self._name = name
        self._command = list(command)
        self._timeout = timeout
        self._environment = environment
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._stderr_tail: collections.deque[str] = collections.deque(maxlen=_STDERR_LINES)
        self.header: dict[str, Any] = {}

    def __enter__(self) -> Self:
        """Start the program. Raises ConfigError if it is missing, MetricError if its first line is not a header."""
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=dict(self._environment),
                start_new_session=True,  # a process group, so that its children can be terminated too
            )
        except OSError as error:
            raise ConfigError(
                f"metric {self._name}: its command {self._command[0]!r} cannot be run ({error.strerror}); "
                "install it, or change `command` in the metric's config"
            ) from None
        self._threads = [_start(self._read_answers), _start(self._read_errors)]
        try:
            self.header = self._read_header()
        except BaseException:
            self._terminate()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._terminate()

    def scores(self, requests: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, float]]:
        """Send all requests and yield (index into `requests`, score) in the order of the answers.

        Raises MetricError if the program exits early or with an error, hangs, answers an unknown or repeated id, or
        gives a score that is not a finite number.
        """
        self._threads.append(_start(lambda: self._send(requests)))
        waiting = set(range(len(requests)))
        while waiting:
            line = self._next_line()
            if line is None:
                raise self._early_end(f"answered {len(requests) - len(waiting)} of {len(requests)} requests and exited")
            index, score = self._read_answer(line, waiting)
            waiting.remove(index)
            yield index, score
        if (line := self._next_line()) is not None:
            raise self._error(f"answered more than the {len(requests)} requests: {_shown(line)}")
        self._check_exit()

    def _send(self, requests: Sequence[Mapping[str, Any]]) -> None:
        """Write requests from a separate thread, because a full pipe would block the reading of answers."""
        stdin = self._process.stdin
        assert stdin is not None
        with contextlib.suppress(BrokenPipeError), stdin:  # the program exited: the reader reports it
            for index, request in enumerate(requests):
                stdin.write(json.dumps({"id": index, **request}).encode() + b"\n")

    def _read_header(self) -> dict[str, Any]:
        line = self._next_line()
        if line is None:
            raise self._early_end("exited without output")
        header = self._parse(line)
        if header.get("protocol") != PROTOCOL:
            raise self._error(f'must write the header {{"protocol": {PROTOCOL}, ...}} first, but wrote {_shown(line)}')
        for field in ("metric", "version"):
            if not isinstance(header.get(field), str) or not header[field]:
                raise self._error(f"has no {field!r} in its header {_shown(line)}")
        return header

    def _read_answer(self, line: bytes, waiting: set[int]) -> tuple[int, float]:
        answer = self._parse(line)
        index, score = answer.get("id"), answer.get("score")
        if not isinstance(index, int) or isinstance(index, bool) or index not in waiting:
            raise self._error(f"answered an unknown or already answered id: {_shown(line)}")
        if isinstance(score, bool) or not isinstance(score, int | float):
            raise self._error(f"gave a score that is not a number: {_shown(line)}")
        if not math.isfinite(score):
            raise self._error(f"gave a score that is not finite: {_shown(line)}")
        return index, float(score)

    def _parse(self, line: bytes) -> dict[str, Any]:
        try:
            value = json.loads(line)
        except ValueError:  # of JSON or of UTF-8
            value = None
        if not isinstance(value, dict):
            raise self._error(f"wrote a line that is not a JSON object: {_shown(line)}")
        return value

    def _next_line(self) -> bytes | None:
        """Return the next line of the program's output, or None at its end."""
        try:
            return self._lines.get(timeout=self._timeout)
        except queue.Empty:
            raise self._error(
                f"wrote nothing for {self._timeout:g} s and was terminated; raise `timeout` in its config if it is slow"
            ) from None

    def _early_end(self, what: str) -> MetricError:
        """Return the error for output that ended early; raise a more specific one if the exit code shows a failure."""
        self._check_exit()
        return self._error(what)

    def _check_exit(self) -> None:
        try:
            code = self._process.wait(_EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            raise self._error(f"closed its output but did not exit within {_EXIT_SECONDS:g} s") from None
        if code < 0:
            raise self._error(f"was killed by signal {signal.Signals(-code).name}")
        if code:
            raise self._error(f"failed with exit code {code}")

    def _error(self, what: str) -> MetricError:
        self._terminate()
        lines = "".join(f"\n  {line}" for line in self._stderr_tail)
        stderr = f"; the last lines of its stderr:{lines}" if lines else "; it wrote nothing to stderr"
        return MetricError(f"metric {self._name}: the command {what}{stderr}")

    def _terminate(self) -> None:
        """Kill the program and its children if they are still running."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for thread in self._threads:
            thread.join(timeout=5.0)

    def _read_answers(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if text := line.decode(errors="replace").rstrip():
                self._stderr_tail.append(text[-300:])


def _start(function: Any) -> threading.Thread:
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def _shown(line: bytes) -> str:
    text = line.decode(errors="replace").rstrip("\n")
    return repr(text if len(text) <= 200 else text[:200] + "...")
