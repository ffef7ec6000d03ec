"""The client side of the metric protocol: JSON lines over a program's standard input and output."""

import contextlib
import json
import math
import os
import queue
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

from finetune_scaling.errors import ConfigError, MetricError
from finetune_scaling.metrics.learned.environment import last_lines

PROTOCOL = 1

_EXIT_SECONDS = 30.0  # time for the program to exit after its last answer


@contextlib.contextmanager
def start_metric(
    name: str, command: Sequence[str], timeout: float, environment: Mapping[str, str]
) -> Iterator["MetricProcess"]:
    """Run a metric's program, and kill it and its children at the end of the block.

    timeout: seconds without output after which it counts as hung. Raises ConfigError if the program cannot be run,
    MetricError if its first line is not a header.
    """
    with tempfile.TemporaryFile() as stderr:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=dict(environment),
                start_new_session=True,  # a process group, so that its children can be killed, too
            )
        except OSError as error:
            raise ConfigError(
                f"metric {name}: its command {command[0]!r} cannot be run ({error.strerror}); install it, or change "
                "`command` in the metric's config"
            ) from None
        try:
            yield MetricProcess(name, process, stderr, timeout)
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class MetricProcess:
    """A running program.

    Attributes:
      header: the program's first line: protocol, metric, version, and further fields for the signature.
    """

    def __init__(self, name: str, process: subprocess.Popen[bytes], stderr: IO[bytes], timeout: float):
        self._name, self._process, self._stderr, self._timeout = name, process, stderr, timeout
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()
        self.header = self._read_header()

    def scores(self, requests: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, float]]:
        """Send all requests and yield (index into `requests`, score) in the order of the answers.

        Raises MetricError if the program exits early or with an error, hangs, answers an unknown or repeated id, or
        gives a score that is not a finite number.
        """
        threading.Thread(target=self._send, args=(requests,), daemon=True).start()
        waiting = set(range(len(requests)))
        while waiting:
            line = self._next_line()
            if line is None:
                answered = len(requests) - len(waiting)
                raise self._error(f"answered {answered} of {len(requests)} requests and exited")
            answer = self._parse(line)
            index, score = answer.get("id"), answer.get("score")
            if isinstance(index, bool) or not isinstance(index, int) or index not in waiting:
                raise self._error("answered an unknown or already answered id", line)
            if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
                raise self._error("gave a score that is not a finite number", line)
            waiting.remove(index)
            yield index, float(score)
        if (line := self._next_line()) is not None:
            raise self._error(f"answered more than the {len(requests)} requests", line)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

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
            raise self._error("exited without output")
        header = self._parse(line)
        named = all(isinstance(header.get(field), str) and header[field] for field in ("metric", "version"))
        if header.get("protocol") != PROTOCOL or not named:
            wanted = f'{{"protocol": {PROTOCOL}, "metric": "...", "version": "..."}}'
            raise self._error(f"must write the header {wanted} first", line)
        return header

    def _parse(self, line: bytes) -> dict[str, Any]:
        try:
            value = json.loads(line)
        except ValueError:  # of JSON or of UTF-8
            value = None
        if not isinstance(value, dict):
            raise self._error("wrote a line that is not a JSON object", line)
        return value

    def _next_line(self) -> bytes | None:
        """Return the next line of output, or None at its end. Raises MetricError if the program failed or hangs."""
        try:
            line = self._lines.get(timeout=self._timeout)
            if line is None and (code := self._process.wait(_EXIT_SECONDS)):
                how = f"failed with exit code {code}" if code > 0 else f"was killed by {signal.Signals(-code).name}"
                raise self._error(how)
        except queue.Empty:
            raise self._error(
                f"wrote nothing for {self._timeout:g} s and was terminated; raise `timeout` in its config if it is slow"
            ) from None
        except subprocess.TimeoutExpired:
            raise self._error(f"closed its output but did not exit within {_EXIT_SECONDS:g} s") from None
        return line

    def _error(self, what: str, line: bytes = b"") -> MetricError:
        """Return the error with the line that the program wrote, if any, and the last lines of its stderr."""
        shown = f": {line.decode(errors='replace').rstrip()[:200]!r}" if line else ""
        self._stderr.seek(0)
        return MetricError(f"metric {self._name}: the command {what}{shown}; its stderr: {last_lines(self._stderr)}")
