"""Where a thing to read is, and what to do where something else is there."""

import os

from finetune_scaling.errors import WorkdirError
from finetune_scaling.files import Location, absolute, disk_errors, location
from finetune_scaling.inspection.directory_kind import Kind, directory_kind

_MENDS: dict[Kind, str] = {
    "study": "is a study: read it with load_study, whose run(key) is one of its runs",
    "run": "is a run: read it with load_run",
    "public model": "is a public model: make a base of it with python -m finetune_scaling.convert --from-hf",
    "checkpoint": "is a checkpoint: give the directory of its run, two levels up",
    "corpus": "is a prepared corpus: python -m finetune_scaling.inspect tells of it",
    "tokenizer": "is a tokenizer: python -m finetune_scaling.inspect tells of it",
    "tables": "holds the tables of a study without its runs: read them with load_study",
}


def resolve_path(path: str | os.PathLike, *wanted: Kind) -> tuple[Location, Kind]:
    """The place of a path, from wherever it is read later, and which of the wanted kinds is there.

    ~ is the home directory. Raises WorkdirError where none of the kinds is there.
    """
    where = location(os.path.expanduser(path))
    with disk_errors(where):
        kind = directory_kind(where)
    if kind not in wanted:
        raise WorkdirError(f"{where}: {_MENDS[kind]}")
    return absolute(where), kind
