"""What kind of directory a path is, told by the file that each kind has."""

import os
from typing import Any

from finetune_scaling.data.preparation.settings import SETTINGS
from finetune_scaling.data.tokenizer import MODEL_FILE
from finetune_scaling.errors import WorkdirError
from finetune_scaling.files import Location, disk_errors, first_contact, location
from finetune_scaling.inspection.checkpoint import inspect_checkpoint
from finetune_scaling.inspection.run import inspect_run
from finetune_scaling.inspection.study import inspect_study
from finetune_scaling.inspection.text import inspect_corpus, inspect_tokenizer
from finetune_scaling.training.run_directory import CONFIG, RunDirectory


def inspect(path: str | os.PathLike) -> dict[str, Any]:
    """What is at a path, local or in an object store, as plain data with its `kind`; no array is read.

    Raises WorkdirError where there is nothing, or nothing that this project wrote; and what the kinds raise where
    something is damaged.
    """
    where = location(path)
    names = first_contact(where, lambda: _names(where))
    with disk_errors(where):
        if CONFIG in names:
            config = RunDirectory(where).config
            return inspect_study(where, config) if "families" in config else inspect_run(where)
        if {"state", "facts"} <= names:
            return inspect_checkpoint(where)
        if SETTINGS in names:
            return inspect_corpus(where)
        if MODEL_FILE in names:
            return inspect_tokenizer(where)
    raise WorkdirError(
        f"{where}: is no checkpoint (state/ and facts/), run or study ({CONFIG}), prepared corpus ({SETTINGS}) or "
        f"tokenizer ({MODEL_FILE}); give the directory of one" + _hint(names)
    )


def _names(where: Location) -> set[str]:
    if not where.is_dir():
        raise WorkdirError(f"{where}: {'is a file; give a directory' if where.exists() else 'no such directory'}")
    return {entry.name for entry in where.iterdir()}


def _hint(names: set[str]) -> str:
    shown = sorted(name for name in names if not name.startswith("."))[:8]
    return f"; it holds {', '.join(shown)}" if shown else "; it is empty"
