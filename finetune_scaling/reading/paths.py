"""Resolve the path of a run or study that is to be read."""

import os

from finetune_scaling.errors import WorkdirError
from finetune_scaling.files import Location, absolute, disk_errors, location
from finetune_scaling.inspection.directory_kind import HOW_TO_READ, Kind, directory_kind


def resolve_path(path: str | os.PathLike, *kinds: Kind) -> tuple[Location, Kind]:
    """Return the absolute path, with ~ expanded, and its kind. Raises WorkdirError if it is not one of `kinds`."""
    where = location(os.path.expanduser(path))
    with disk_errors(where):
        kind = directory_kind(where)
    if kind not in kinds:
        raise WorkdirError(f"{where}: {HOW_TO_READ[kind]}")
    return absolute(where), kind
