"""The kind of a directory, from the files that each kind has. Imports neither JAX nor SciPy."""

import os
from typing import Literal

from finetune_scaling.data.preparation.settings import SETTINGS
from finetune_scaling.data.tokenizers.sentencepiece_tokenizer import MODEL_FILE
from finetune_scaling.errors import WorkdirError
from finetune_scaling.files import Location, call_with_timeout, disk_errors, location
from finetune_scaling.laws.points.text import POINTS
from finetune_scaling.runs.run_directory import (
    ADAPTER_CONFIG,
    CONFIG,
    RunDirectory,
    adapter_error,
    is_public_model,
    public_model_error,
)

Kind = Literal["study", "run", "public model", "checkpoint", "corpus", "tokenizer", "tables"]

HOW_TO_READ: dict[Kind, str] = {
    "study": "is a study. Fix: read it with load_study, and a run of it with its run(key)",
    "run": "is a run. Fix: read it with load_run",
    "checkpoint": "is a checkpoint. Fix: give the directory of its run, two levels up",
    "corpus": "is a prepared corpus. Fix: read it with python -m finetune_scaling.inspect",
    "tokenizer": "is a tokenizer. Fix: read it with python -m finetune_scaling.inspect",
    "tables": "holds the tables of a study without its runs. Fix: read them with load_study",
}


def find_directory(path: str | os.PathLike, *kinds: Kind) -> tuple[Location, Kind]:
    """Return a path, with ~ expanded, and its kind. Raises WorkdirError if it is not one of `kinds`."""
    where = location(path)
    with disk_errors(where, reading=True):
        kind = directory_kind(where)
    if kind == "public model" and kind not in kinds:
        raise public_model_error(where)
    if kind not in kinds:
        raise WorkdirError(f"{where}: {HOW_TO_READ[kind]}")
    return where, kind


def directory_kind(where: Location) -> Kind:
    """Return the kind of a directory; "tables" are the points of a study without its runs.

    Raises WorkdirError if it does not exist, is none of these, or its object store does not answer.
    """
    names = call_with_timeout(where, lambda: _names(where))
    if CONFIG in names:
        if is_public_model(where):
            return "public model"
        return "study" if "families" in RunDirectory(where).config else "run"
    if ADAPTER_CONFIG in names:
        raise adapter_error(where)
    if {"state", "facts"} <= names:
        return "checkpoint"
    kinds: dict[str, Kind] = {SETTINGS: "corpus", MODEL_FILE: "tokenizer", POINTS: "tables"}
    for name, kind in kinds.items():
        if name in names:
            return kind
    shown = sorted(name for name in names if not name.startswith("."))[:8]
    content = f"holds {', '.join(shown)}" if shown else "is empty"
    raise WorkdirError(
        f"{where}: is not a checkpoint (state/ and facts/), run or study ({CONFIG}), prepared corpus ({SETTINGS}) or "
        f"tokenizer ({MODEL_FILE}); it {content}. Fix: give one of those"
    )


def _names(where: Location) -> set[str]:
    if not where.is_dir():
        raise WorkdirError(f"{where}: {'is a file; give a directory' if where.exists() else 'no such directory'}")
    return {entry.name for entry in where.iterdir()}
