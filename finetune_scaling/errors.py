"""Errors that a user can mend, and the exit codes of every command.

Each message names the file, line or field that is wrong and what to do about it; commands print it without a traceback.
"""

import contextlib
import sys
from collections.abc import Iterator

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: start the same command again and it goes on
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report Ctrl-C


class UserError(Exception):
    """Something the user can mend; the message says where and how."""

    exit_code = EXIT_USAGE


class ConfigError(UserError):
    """A field of a config is unknown, missing, of the wrong type or out of range."""


class DataError(UserError):
    """A data file, split, column or text is not what the task says it is."""


class CheckpointError(UserError):
    """A checkpoint is missing, damaged, or belongs to another model, tokenizer or base."""


class WorkdirError(UserError):
    """A working directory is in use, not writable, full, or holds the run of another config."""


class InUseError(WorkdirError):
    """Another process works in the directory."""


class TrainingError(UserError):
    """Training cannot go on, for example because the loss is not finite."""

    exit_code = EXIT_FAILED


class ProcessError(UserError):
    """One of the processes that run a program together is missing, or runs something else."""

    exit_code = EXIT_FAILED


class MetricError(UserError):
    """A metric that another program computes failed; the scores that it gave before are kept."""

    exit_code = EXIT_FAILED


class Preempted(Exception):
    """The process was asked to stop (SIGTERM); what was done is saved and the same command continues it."""


INTERRUPTED = "interrupted: run the same command again to go on from the last checkpoint"


@contextlib.contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Turns a UserError into one clear line on stderr and its exit code; Ctrl-C and preemption into theirs."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
    except Preempted as notice:
        print(f"preempted: {notice}", file=sys.stderr, flush=True)
        sys.exit(EXIT_PREEMPTED)
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr, flush=True)
        sys.exit(EXIT_INTERRUPTED)
