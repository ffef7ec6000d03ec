"""What a run wrote about the examples of a test set, example by example: evaluation/SPLIT.jsonl."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from finetune_scaling.errors import DataError
from finetune_scaling.evaluation.metric import Corpus
from finetune_scaling.files import location

_FIELDS = {"source", "reference", "loss_sum", "tokens"}


def read_rows(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The rows of a file; DataError names it, and the line where one is damaged."""
    place = location(path)
    try:
        lines = place.read_bytes().removesuffix(b"\n").split(b"\n")
    except OSError as error:
        others = sorted(p.stem for p in place.parent.glob("*.jsonl")) if place.parent.is_dir() else []
        hint = f"beside it are rows of {', '.join(others)}" if others else "score the run first, by `evaluate`"
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); {hint}") from None
    return [_read_row(path, number, line) for number, line in enumerate(lines, start=1)]


def written_corpus(path: str | os.PathLike, rows: Sequence[Mapping[str, Any]], target_language: str) -> Corpus | None:
    """The rows that have a hypothesis; None where none has. Raises DataError as Corpus does, naming the file."""
    written = [row for row in rows if "hypothesis" in row]
    if not written:
        return None
    texts, references, sources = ([row[name] for row in written] for name in ("hypothesis", "reference", "source"))
    try:
        return Corpus(texts, [[text] for text in references], target_language, sources)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _read_row(path: str | os.PathLike, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{path}, line {number}: not JSON ({error}); score the run again") from None
    if not isinstance(row, dict) or not row.keys() >= _FIELDS:
        raise DataError(f"{path}, line {number}: not a row of an evaluation; score the run again")
    return row
