"""The kind of a directory, from the files that each kind has. Imports neither JAX nor SciPy."""

from typing import Literal

from finetune_scaling.data.preparation.settings import SETTINGS
from finetune_scaling.data.tokenizers.sentencepiece_tokenizer import MODEL_FILE
from finetune_scaling.errors import WorkdirError
from finetune_scaling.files import Location, call_with_timeout
from finetune_scaling.laws.points.text import POINTS
from finetune_scaling.runs.run_directory import CONFIG, RunDirectory

Kind = Literal["study", "run", "public model", "checkpoint", "corpus", "tokenizer", "tables"]

HOW_TO_READ: dict[Kind, str] = {
    "study": "is a study. Fix: read it with load_study, and a run of it with its run(key)",
    "run": "is a run. Fix: read it with load_run",
    "public model": "is a public model. Fix: convert it with python -m finetune_scaling.convert --from-hf",
    "checkpoint": "is a checkpoint. Fix: give the directory of its run, two levels up",
    "corpus": "is a prepared corpus. Fix: read it with python -m finetune_scaling.inspect",
    "tokenizer": "is a tokenizer. Fix: read it with python -m finetune_scaling.inspect",
    "tables": "holds the tables of a study without its runs. Fix: read them with load_study",
}


def directory_kind(where: Location) -> Kind:
    """Return the kind of a directory; "tables" are the points of a study without its runs.

    Raises WorkdirError if it does not exist, is none of these, or its object store does not answer.
    """
    names = call_with_timeout(where, lambda: _names(where))
    if CONFIG in names:
        return _kind_by_config(where)
    if {"state", "facts"} <= names:
        return "checkpoint"
    if SETTINGS in names:
        return "corpus"
    if MODEL_FILE in names:
        return "tokenizer"
    if POINTS in names:
        return "tables"
    raise WorkdirError(
        f"{where}: is not a checkpoint (state/ and facts/), run or study ({CONFIG}), prepared corpus ({SETTINGS}) or "
        f"tokenizer ({MODEL_FILE})" + _content(names)
    )


def _kind_by_config(where: Location) -> Kind:
    """Distinguish studies, runs and public models, which all have a config.json."""
    config = RunDirectory(where).config
    if "families" in config:
        return "study"
    return "public model" if "model_type" in config or "architectures" in config else "run"


def _names(where: Location) -> set[str]:
    if not where.is_dir():
        raise WorkdirError(f"{where}: {'is a file; give a directory' if where.exists() else 'no such directory'}")
    return {entry.name for entry in where.iterdir()}


def _content(names: set[str]) -> str:
    shown = sorted(name for name in names if not name.startswith("."))[:8]
    return f"; it holds {', '.join(shown)}" if shown else "; it is empty"
