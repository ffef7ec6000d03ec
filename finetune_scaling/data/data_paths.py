"""Paths of data in configs: made independent of the working directory, and left out of comparisons."""

import contextlib
import os
from collections.abc import Mapping
from typing import Any

from finetune_scaling import configuration
from finetune_scaling.data.sources import SOURCE_KINDS
from finetune_scaling.data.task import complete_task
from finetune_scaling.errors import ConfigError
from finetune_scaling.files import absolute
from finetune_scaling.paths import user_path

_SPLITS = ("train", "dev", "test")
_PATHS = ("path", "data_dir", "prepared")  # fields that locate data; digests show whether it is the same


def absolute_path(value: Any) -> Any:
    """Return a path as an absolute one; a URL, an empty text and another value as it is."""
    is_local = isinstance(value, str) and value and "://" not in value
    return str(absolute(value, keep_links=True)) if is_local else value


def with_absolute_data(config: Any) -> Any:
    """Return plain data with every source and task in it independent of the working directory.

    A relative `path` stays, so that another `data_dir` can replace the one that is added.
    """
    if isinstance(config, list):
        return [with_absolute_data(entry) for entry in config]
    if not isinstance(config, Mapping):
        return config
    if config.get("kind") in tuple(SOURCE_KINDS):
        return _absolute_source(config)
    return {
        name: _absolute_task(entry) if name == "task" and isinstance(entry, Mapping) else with_absolute_data(entry)
        for name, entry in config.items()
    }


def without_data_paths(config: Any) -> Any:
    """Return plain data without the fields that locate data."""
    if isinstance(config, list):
        return [without_data_paths(entry) for entry in config]
    if not isinstance(config, Mapping):
        return config
    return {name: without_data_paths(entry) for name, entry in config.items() if name not in _PATHS}


def _absolute_source(source: Mapping[str, Any]) -> dict[str, Any]:
    path, folder = source.get("path"), source.get("data_dir")
    found = {**source, **({"path": user_path(path)} if isinstance(path, str) else {})}
    is_relative = isinstance(path, str) and "://" not in path and not os.path.isabs(found["path"])
    return {**found, "data_dir": absolute_path(folder or ".")} if folder or is_relative else found


def _absolute_task(task: Mapping[str, Any]) -> dict[str, Any]:
    """Return a task with absolute data directories, also in the splits of a named task that it does not list.

    A task that cannot be read is returned as it is: the error is raised where it is read.
    """
    changes = task.get("sources") or {}
    if changes.get("data_dir"):
        return {**task, "sources": _absolute_source(changes)}
    with contextlib.suppress(ConfigError):
        complete = configuration.plain(complete_task(task))
        splits = {name: with_absolute_data(complete[name]) for name in _SPLITS if name in complete}
        return {**task, **{name: parts for name, parts in splits.items() if parts != complete[name]}}
    return dict(task)
