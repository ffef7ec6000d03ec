"""What a run wrote about the examples of a test set, example by example: evaluation/SPLIT.jsonl."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from finetune_scaling.errors import DataError
from finetune_scaling.evaluation.languages import base_language
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


def written_examples(
    path: str | os.PathLike, rows: Sequence[Mapping[str, Any]], language: str
) -> tuple[list[dict[str, str]], list[str]]:
    """Examples and hypotheses of the rows that were decoded, in their own language, or `language` where they tell none.

    Raises DataError where none was decoded, a row is in another language than the given one, or nothing tells it.
    """
    examples, texts = [], []
    for number, row in enumerate(rows, start=1):
        if "hypothesis" not in row:
            continue
        own = row.get("target_language") or language
        if not own:
            raise DataError(f"{path}, line {number}: does not tell its language; give it as --target-language")
        if language and base_language(own) != base_language(language):
            raise DataError(
                f"{path}, line {number}: is in {own!r}, not in {language!r}; correct --target-language or leave it out"
            )
        examples.append({"source": row["source"], "target": row["reference"], "target_language": own})
        texts.append(row["hypothesis"])
    if not texts:
        raise DataError(f"{path}: no row has a hypothesis; score the run with --generate=N")
    return examples, texts


def _read_row(path: str | os.PathLike, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{path}, line {number}: not JSON ({error}); score the run again") from None
    if not isinstance(row, dict) or not row.keys() >= _FIELDS:
        raise DataError(f"{path}, line {number}: not a row of an evaluation; score the run again")
    return row
