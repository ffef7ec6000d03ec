"""What a run wrote about the examples of a test set, example by example: evaluation/SPLIT.jsonl."""

import json
import logging
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from finetune_scaling.errors import DataError
from finetune_scaling.files import location
from finetune_scaling.metrics.corpus import Corpus
from finetune_scaling.metrics.languages import base_language

log = logging.getLogger(__name__)

EVALUATION = "evaluation"  # folder of a run that holds what was scored, example by example
_FIELDS = ("source", "reference", "loss_sum", "tokens")


def read_rows(path: str | os.PathLike, fields: Collection[str] = _FIELDS) -> list[dict[str, Any]]:
    """The rows of a file, each with these fields at least; DataError names it, and the line where one is damaged."""
    place = location(path)
    try:
        lines = place.read_bytes().removesuffix(b"\n").split(b"\n")
    except OSError as error:
        others = sorted(p.stem for p in place.parent.glob("*.jsonl")) if place.parent.is_dir() else []
        hint = f"beside it are rows of {', '.join(others)}" if others else "score the run first, by `evaluate`"
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); {hint}") from None
    return [_read_row(path, number, line, fields) for number, line in enumerate(lines, start=1)]


def decoded_corpus(path: str | os.PathLike, rows: Sequence[Mapping[str, Any]], target_language: str) -> Corpus | None:
    """The rows that have a hypothesis and are of the language, as far as they tell one; None without a hypothesis.

    Raises DataError: as Corpus does, or no row is of the language; it names the file.
    """
    written = _written(path, rows, target_language)
    if not written:
        return None
    texts, references, sources = ([row[name] for row in written] for name in ("hypothesis", "reference", "source"))
    try:
        return Corpus(texts, [[text] for text in references], target_language, sources)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def decoded_examples(
    path: str | os.PathLike, rows: Sequence[Mapping[str, Any]], target_language: str
) -> tuple[list[dict[str, str]], list[str]]:
    """Examples and hypotheses of such rows; of every language, each in its own, where `target_language` is empty.

    Raises DataError where none was decoded, none is of the language, or nothing tells a row's.
    """
    written = _written(path, rows, target_language)
    if not written:
        raise DataError(f"{path}: no row has a hypothesis; score the run with --generate=N")
    languages = [row.get("target_language") or target_language for row in written]
    if not all(languages):
        raise DataError(f"{path}: its rows do not tell their language; give it as --target-language")
    examples = [
        {"source": row["source"], "target": row["reference"], "target_language": language}
        for row, language in zip(written, languages, strict=True)
    ]
    return examples, [row["hypothesis"] for row in written]


def _written(path: str | os.PathLike, rows: Sequence[Mapping[str, Any]], language: str) -> list[Mapping[str, Any]]:
    """The rows that have a hypothesis and are of the language, as far as they tell one; of all where it is empty."""
    every = [row for row in rows if "hypothesis" in row]
    if not language:
        return every
    written = [row for row in every if _is_of(row.get("target_language", language), language)]
    if len(written) < len(every):
        others = ", ".join(sorted({row["target_language"] for row in every if "target_language" in row} - {language}))
        if not written:
            raise DataError(f"{path}: no row is of target language {language!r}; they are of {others}")
        log.info("%s: %d rows; those of other languages (%s) are left out", path, len(written), others)
    return written


def _is_of(language: str, other: str) -> bool:
    return base_language(language) == base_language(other)


def _read_row(path: str | os.PathLike, number: int, line: bytes, fields: Collection[str]) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{path}, line {number}: not JSON ({error}); score the run again") from None
    if not isinstance(row, dict) or not row.keys() >= set(fields):
        raise DataError(f"{path}, line {number}: not a row of an evaluation; score the run again")
    return row
