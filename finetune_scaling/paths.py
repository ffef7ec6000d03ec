"""Paths that users give, on the command line, in configs and in calls."""

import os
from typing import Annotated

from finetune_scaling.errors import ConfigError

_MAX_NAME = 255  # bytes of one file's name, on all common file systems


def user_path(path: str | os.PathLike) -> str:
    """Return a path with ~ and ~USER expanded; URLs and other paths are unchanged, and so is the result if given again.

    Raises ConfigError if there is no such user, or for a path that no file system can have.
    """
    text = os.fspath(path)
    if "\0" in text:
        raise ConfigError(f"{text!r}: a path cannot contain a NUL character. Fix: give another path")
    longest = max(text.split("/"), key=len)
    if "://" not in text and len(os.fsencode(longest)) > _MAX_NAME:
        raise ConfigError(
            f"{longest[:40]}...: the name of a file or directory has {len(os.fsencode(longest))} bytes, more than "
            f"{_MAX_NAME}. Fix: give another path"
        )
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        user = text.partition("/")[0][1:]
        raise ConfigError(f"{text}: there is no user {user!r}. Fix: write the directory, or ./{text} for a local name")
    if os.path.normpath(expanded).startswith("~"):  # pathlib would make ~x of ./~x
        return os.path.abspath(expanded)
    return expanded


UserPath = Annotated[str, user_path]  # a field of a config that names a file or directory
