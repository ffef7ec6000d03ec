"""What the libraries that write checkpoints report by themselves of failures that they also raise to us.

A save is many writes at once. Where the disk is full, many of them fail; the first failure is raised, and a command
says it in one line. The others are told on stderr, each with a traceback, some only when the process ends and so below
that line: by Orbax's log, by asyncio when it deletes a task that nobody awaits any more, and by Python when TensorStore
finishes a write whose event loop is closed. Those, and no others, are left out.
"""

import logging
import sys
import traceback
from pathlib import Path

_hook = sys.unraisablehook


def leave_out_of_logs() -> None:
    """Orbax's log lines, and asyncio's of writes that nobody awaits."""
    logging.getLogger("absl").addFilter(_is_not_orbax)
    logging.getLogger("asyncio").addFilter(_is_not_of_a_write)


def leave_out_of_unraisable() -> None:
    """Python's reports of writes that end after their event loop. For programs of ours: this is the interpreter's."""
    global _hook
    if sys.unraisablehook is not _unraisable:
        _hook, sys.unraisablehook = sys.unraisablehook, _unraisable


def _is_not_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in Path(record.pathname).parts


def _is_not_of_a_write(record: logging.LogRecord) -> bool:
    told = record.getMessage()
    if told.startswith("Task was destroyed but it is pending!"):
        return "orbax" not in told  # which names the file of its function
    error = record.exc_info[1] if record.exc_info else None
    if error is None or "exception was never retrieved" not in told:
        return True
    return not (isinstance(error, OSError) or _is_tensorstore(error) or _went_through_orbax(error))


def _is_tensorstore(error: BaseException) -> bool:
    """TensorStore raises ValueErrors, without a traceback where they were not awaited."""
    return isinstance(error, ValueError) and any(word in str(error) for word in ("tensorstore", "os_error_code="))


def _went_through_orbax(error: BaseException) -> bool:
    files = (frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__))
    return any("orbax" in Path(file).parts for file in files)


def _unraisable(report: "sys.UnraisableHookArgs") -> None:
    nameless = report.object is None and report.err_msg is None  # as an extension module reports
    if not (
        nameless and isinstance(report.exc_value, RuntimeError) and str(report.exc_value) == "Event loop is closed"
    ):
        _hook(report)
