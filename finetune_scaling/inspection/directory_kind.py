"""Which kind of directory a path is, told by the files that each kind has; nothing heavy is imported for it."""

from typing import Literal

from finetune_scaling.data.preparation.settings import SETTINGS
from finetune_scaling.data.tokenizers.sentencepiece_tokenizer import MODEL_FILE
from finetune_scaling.errors import WorkdirError
from finetune_scaling.files import Location, call_with_timeout
from finetune_scaling.laws.points.text import POINTS
from finetune_scaling.runs.run_directory import CONFIG, RunDirectory

Kind = Literal["study", "run", "public model", "checkpoint", "corpus", "tokenizer", "tables"]


def directory_kind(where: Location) -> Kind:
    """The kind of a directory; "tables" are a study's points without its runs, as they are published.

    Raises WorkdirError where there is nothing, or nothing that this project wrote or reads, or a store that does not
    answer.
    """
    names = call_with_timeout(where, lambda: _names(where))
    if CONFIG in names:
        return _of_config(where)
    if {"state", "facts"} <= names:
        return "checkpoint"
    if SETTINGS in names:
        return "corpus"
    if MODEL_FILE in names:
        return "tokenizer"
    if POINTS in names:
        return "tables"
    raise WorkdirError(
        f"{where}: is no checkpoint (state/ and facts/), run or study ({CONFIG}), prepared corpus ({SETTINGS}) or "
        f"tokenizer ({MODEL_FILE}); give the directory of one" + _hint(names)
    )


def _of_config(where: Location) -> Kind:
    """Studies, runs and public models have a file of the same name."""
    config = RunDirectory(where).config
    if "families" in config:
        return "study"
    return "public model" if "model_type" in config or "architectures" in config else "run"


def _names(where: Location) -> set[str]:
    if not where.is_dir():
        raise WorkdirError(f"{where}: {'is a file; give a directory' if where.exists() else 'no such directory'}")
    return {entry.name for entry in where.iterdir()}


def _hint(names: set[str]) -> str:
    shown = sorted(name for name in names if not name.startswith("."))[:8]
    return f"; it holds {', '.join(shown)}" if shown else "; it is empty"
