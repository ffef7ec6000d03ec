"""Errors that a user can fix, and the exit codes of all commands.

Each message names the file, line or field that is wrong and how to fix it; commands print it without a traceback.
"""

import contextlib
import os
import select
import sys
from collections.abc import Iterator
from typing import TextIO

from finetune_scaling.messages import escape_controls

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: the same command resumes the run
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report Ctrl-C
EXIT_OUTPUT_CLOSED = 141  # 128 + SIGPIPE, as shells report a program whose output nobody reads


class UserError(Exception):
    """An error that the user can fix; the message says where and how."""

    exit_code = EXIT_USAGE


class ConfigError(UserError):
    """A field of a config is unknown, missing, of the wrong type or out of range."""


class DataError(UserError):
    """A data file, split, column or text does not match the task."""


class MissingDataError(DataError):
    """A data file cannot be opened, for example because it has moved."""


class EmptyTableError(DataError):
    """A table has column names and no rows."""


class CheckpointError(UserError):
    """A checkpoint is missing, damaged, or belongs to another model, tokenizer or base."""


class WorkdirError(UserError):
    """A working directory is in use, not writable, on a full disk, or holds the run of another config."""


class InUseError(WorkdirError):
    """Another process uses the directory."""


class TrainingError(UserError):
    """Training cannot continue, for example because the loss is not finite."""

    exit_code = EXIT_FAILED


class ProcessError(UserError):
    """A process of a distributed program is missing or runs another program."""

    exit_code = EXIT_FAILED


class MetricError(UserError):
    """A metric that an external program computes failed; earlier scores are kept."""

    exit_code = EXIT_FAILED


class Preempted(Exception):
    """The process was asked to stop (SIGTERM) and saved a checkpoint; the same command resumes the run."""


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error and its chain of causes and contexts."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


INTERRUPTED = "interrupted: run the same command again to resume from the last checkpoint"


@contextlib.contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Print a UserError as one line on stderr and exit with its code; likewise for Ctrl-C and preemption.

    If nobody reads the output any more (`| head`), the command ends without a message, as other programs do.
    """
    with _exit_if_output_is_closed():
        try:
            yield
        except UserError as error:
            _report(f"error: {escape_controls(str(error))}")
            sys.exit(error.exit_code)
        except Preempted as notice:
            _report(f"preempted: {notice}")
            sys.exit(EXIT_PREEMPTED)
        except KeyboardInterrupt:
            _report(INTERRUPTED)
            sys.exit(EXIT_INTERRUPTED)


def _report(message: str) -> None:
    """Print a line on stderr, or nothing if it cannot be written: the exit code still says what happened."""
    try:
        print(message, file=sys.stderr, flush=True)
    except BrokenPipeError:
        raise  # ends the command
    except OSError:
        pass


@contextlib.contextmanager
def _exit_if_output_is_closed() -> Iterator[None]:
    """Write the output before Python does at exit, with a traceback; exit if it is unread or cannot be written."""
    _replace_closed_streams()
    try:
        try:
            yield
        except SystemExit:
            sys.stdout.flush()
            raise
        sys.stdout.flush()
    except BrokenPipeError:
        closed = [_close_if_unread(stream) for stream in (sys.stdout, sys.stderr)]
        if not any(closed):
            raise  # another pipe
        sys.exit(EXIT_OUTPUT_CLOSED)
    except OSError as error:
        if error.filename is not None or _can_write_output():
            raise  # another file
        _discard(sys.stdout)
        fix = "redirect it to a file on a disk with free space"
        _report(f"error: stdout cannot be written: {error.strerror}. Fix: {fix}")
        sys.exit(EXIT_USAGE)
    finally:
        try:
            sys.stderr.flush()
        except OSError:
            _discard(sys.stderr)  # or Python would exit with 120


def _replace_closed_streams() -> None:
    """Discard what is written to streams that the caller closed (`>&-`), which Python has as None."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - open until the end


def _can_write_output() -> bool:
    """Return whether stdout can be written, by a line break, as an unbuffered stream has nothing left to write."""
    try:
        sys.stdout.write("\n")
        sys.stdout.flush()
    except OSError:
        return False
    return True


def _close_if_unread(stream: TextIO) -> bool:
    """Return whether a stream is a pipe whose reader is gone; discard what is still to be written to it."""
    poll = select.poll()
    poll.register(stream, 0)  # errors only
    closed = any(event & select.POLLERR for _, event in poll.poll(0))
    if closed:
        _discard(stream)
    return closed


def _discard(stream: TextIO) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
