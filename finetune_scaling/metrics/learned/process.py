"""The protocol of a metric's program, from the side that asks: JSON lines over its standard input and output."""

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

_LAST_WORDS = 15  # lines of the program's stderr that an error shows
_EXIT_SECONDS = 30.0  # within which a program has to end after its last answer


class MetricProcess:
    """A running program. Its header is read on entering; on leaving, or on any error, all of it is ended.

    header: what the first line says: protocol, metric, version, and whatever else belongs into the signature.
    """

    def __init__(self, name: str, command: Sequence[str], timeout: float, environment: Mapping[str, str]):
        """name: the metric's, for messages; timeout: seconds without a line after which the program counts as hung."""
        self._name = name
        self._command = list(command)
        self._timeout = timeout
        self._environment = environment
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._last_words: collections.deque[str] = collections.deque(maxlen=_LAST_WORDS)
        self.header: dict[str, Any] = {}

    def __enter__(self) -> Self:
        """Starts the program. Raises ConfigError where it is missing, MetricError where its first line is no header."""
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=dict(self._environment),
                start_new_session=True,  # so that what it starts can be ended with it
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
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def scores(self, requests: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, float]]:
        """Sends all requests and yields (index into `requests`, score) as they come, in any order.

        Raises MetricError: the program ends too early or with an error, hangs, answers too often or too seldom, or
        with something else than a finite score.
        """
        self._threads.append(_start(lambda: self._send(requests)))
        waiting = set(range(len(requests)))
        while waiting:
            line = self._next_line()
            if line is None:
                raise self._early_end(f"answered {len(requests) - len(waiting)} of {len(requests)} requests and ended")
            index, score = self._read_answer(line, waiting)
            waiting.remove(index)
            yield index, score
        if (line := self._next_line()) is not None:
            raise self._error(f"answered more than the {len(requests)} requests: {_shown(line)}")
        self._check_exit()

    @property
    def has_more(self) -> bool:
        """Whether an answer, or the end, has come that was not read yet."""
        return not self._lines.empty()

    def _send(self, requests: Sequence[Mapping[str, Any]]) -> None:
        """Writes from a thread of its own, since a pipe that is full would keep answers from being read."""
        stdin = self._process.stdin
        assert stdin is not None
        with contextlib.suppress(BrokenPipeError), stdin:  # the program ended: the reader tells how
            for index, request in enumerate(requests):
                stdin.write(json.dumps({"id": index, **request}).encode() + b"\n")

    def _read_header(self) -> dict[str, Any]:
        line = self._next_line()
        if line is None:
            raise self._early_end("ended without a word")
        header = self._parse(line)
        if header.get("protocol") != PROTOCOL:
            raise self._error(
                f'must begin with a line {{"protocol": {PROTOCOL}, ...}}, but its first is {_shown(line)}'
            )
        for field in ("metric", "version"):
            if not isinstance(header.get(field), str) or not header[field]:
                raise self._error(f"does not say its {field} in its first line, {_shown(line)}")
        return header

    def _read_answer(self, line: bytes, waiting: set[int]) -> tuple[int, float]:
        answer = self._parse(line)
        index, score = answer.get("id"), answer.get("score")
        if not isinstance(index, int) or isinstance(index, bool) or index not in waiting:
            raise self._error(f"answered a request that it was not sent, or answered twice: {_shown(line)}")
        if isinstance(score, bool) or not isinstance(score, int | float):
            raise self._error(f"gave no number as score: {_shown(line)}")
        if not math.isfinite(score):
            raise self._error(f"gave a score that is not finite: {_shown(line)}")
        return index, float(score)

    def _parse(self, line: bytes) -> dict[str, Any]:
        try:
            value = json.loads(line)
        except ValueError:  # of JSON or of UTF-8
            value = None
        if not isinstance(value, dict):
            raise self._error(f"wrote a line that is no JSON object: {_shown(line)}")
        return value

    def _next_line(self) -> bytes | None:
        """The next line of the program's output, None at its end."""
        try:
            return self._lines.get(timeout=self._timeout)
        except queue.Empty:
            raise self._error(
                f"gave no line for {self._timeout:g} s and was ended; raise `timeout` in its config if it is only slow"
            ) from None

    def _early_end(self, what: str) -> MetricError:
        """What it means that the output ended too early; raises where the exit code tells more."""
        self._check_exit()
        return self._error(what)

    def _check_exit(self) -> None:
        try:
            code = self._process.wait(_EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            raise self._error(f"closed its output and did not end within {_EXIT_SECONDS:g} s") from None
        if code < 0:
            raise self._error(f"was killed by signal {signal.Signals(-code).name}")
        if code:
            raise self._error(f"failed with exit code {code}")

    def _error(self, what: str) -> MetricError:
        self._end()
        words = "".join(f"\n  {line}" for line in self._last_words)
        told = f"; its last words on stderr:{words}" if words else "; it wrote nothing to stderr"
        return MetricError(f"metric {self._name}: the command {what}{told}")

    def _end(self) -> None:
        """Ends the program and all that it started, where they have not ended by themselves."""
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
        _keep_last(self._process.stderr, self._last_words)


def _keep_last(stream: Any, last: collections.deque[str]) -> None:
    for line in stream:
        if text := line.decode(errors="replace").rstrip():
            last.append(text[-300:])


def _start(function: Any) -> threading.Thread:
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def _shown(line: bytes) -> str:
    text = line.decode(errors="replace").rstrip("\n")
    return repr(text if len(text) <= 200 else text[:200] + "...")
