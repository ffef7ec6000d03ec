"""What is in a directory, whichever kind it is of."""

import os
from collections.abc import Callable
from typing import Any

from finetune_scaling.errors import WorkdirError
from finetune_scaling.files import Location, disk_errors, location
from finetune_scaling.inspection.checkpoint import inspect_checkpoint
from finetune_scaling.inspection.directory_kind import Kind, directory_kind
from finetune_scaling.inspection.run import inspect_run
from finetune_scaling.inspection.study import inspect_study
from finetune_scaling.inspection.text import inspect_corpus, inspect_tokenizer
from finetune_scaling.runs.run_directory import RunDirectory

_INSPECT: dict[Kind, Callable[[Location], dict[str, Any]]] = {
    "study": lambda where: inspect_study(where, RunDirectory(where).config),
    "run": inspect_run,
    "checkpoint": inspect_checkpoint,
    "corpus": inspect_corpus,
    "tokenizer": inspect_tokenizer,
}
_MENDS: dict[Kind, str] = {
    "public model": "is a public model; python -m finetune_scaling.convert --from-hf makes a base of it",
    "tables": "holds a study's tables without its runs; finetune_scaling.reading.load_study reads them",
}


def inspect(path: str | os.PathLike) -> dict[str, Any]:
    """What is at a path, local or in an object store, as plain data with its `kind`; no array is read.

    Raises WorkdirError where there is nothing, or nothing that this project wrote; and what the kinds raise where
    something is damaged.
    """
    where = location(path)
    with disk_errors(where):
        kind = directory_kind(where)
        if kind in _MENDS:
            raise WorkdirError(f"{where}: {_MENDS[kind]}")
        return _INSPECT[kind](where)
