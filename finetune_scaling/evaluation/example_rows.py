"""Rows of scored examples: evaluation/SPLIT.jsonl in a run directory, one JSON object per example."""

import logging
import math
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from finetune_scaling.errors import DataError
from finetune_scaling.files import Location, location, write_atomically
from finetune_scaling.metrics.languages import language_of
from finetune_scaling.strict_json import format_json
from finetune_scaling.text_lines import BYTE_ORDER_MARK, decode_line, parse_json_line

log = logging.getLogger(__name__)

EVALUATION = "evaluation"  # the subdirectory of a run with records and rows
_REQUIRED = ("source", "reference", "loss_sum", "tokens")
_TYPES: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("source", "reference", "hypothesis", "source_language", "target_language"), str),
    **dict.fromkeys(("index", "tokens", "bytes"), int),
    "loss_sum": (int, float),
    "at_limit": bool,
}


def write_rows(path: Location, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as JSONL."""
    write_atomically(path, "".join(format_json(row) + "\n" for row in rows))


def read_rows(path: str | os.PathLike, required: Collection[str] = _REQUIRED) -> list[dict[str, Any]]:
    """Return the rows of a file. Raises DataError if it is missing, or names the line of an invalid row."""
    file = location(path)
    try:
        # Not splitlines(): U+2028 and similar characters inside a text do not end a row.
        lines = file.read_bytes().removeprefix(BYTE_ORDER_MARK.encode()).rstrip(b"\r\n").split(b"\n")
    except OSError as error:
        files = file.parent.glob("*.jsonl") if file.parent.is_dir() else ()
        splits = ", ".join(sorted(other.name.removesuffix(".jsonl") for other in files))
        fix = f"available splits: {splits}" if splits else "score the run first with finetune_scaling.evaluate"
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); {fix}") from None
    return [_read_row(f"{path}, line {number}", line, required) for number, line in enumerate(lines, start=1)]


def _read_row(where: str, line: bytes, required: Collection[str]) -> dict[str, Any]:
    fix = "score the run again"
    row = parse_json_line(decode_line(line, where, fix=fix), where, fix=fix)
    missing = [name for name in required if name not in row]
    if missing:
        raise DataError(
            f"{where}: the field {missing[0]!r} is missing; rows of text evaluators have no source and reference, "
            "other rows must be scored again"
        )
    if row.get("loss_sum", 0.0) is None:  # JSON has no NaN, the loss of a diverged model
        row["loss_sum"] = math.nan
    for name, kind in _TYPES.items():
        if name in row and not isinstance(row[name], kind):
            raise DataError(f"{where}: {name} is {row[name]!r}, which has the wrong type; score the run again")
    return row


def check_same_examples(
    path: str | os.PathLike,
    rows: Sequence[Mapping[str, Any]],
    first_path: str | os.PathLike,
    first_rows: Sequence[Mapping[str, Any]],
) -> None:
    """Raise DataError if two files have rows of different examples; the message names the first difference."""
    for line, (row, first) in enumerate(zip(rows, first_rows, strict=False), start=1):
        for name in ("source", "reference"):
            if row[name] != first[name]:
                raise DataError(
                    f"{path}, line {line}: {name} {_shorten(row[name])} differs from {_shorten(first[name])} in "
                    f"{first_path}; score the runs on the same examples"
                )
    if len(rows) != len(first_rows):
        raise DataError(
            f"{path}: {len(rows)} rows, but {first_path} has {len(first_rows)}; score the runs on the same examples"
        )


def decoded_examples(
    path: str | os.PathLike, rows: Sequence[Mapping[str, Any]], target_language: str
) -> tuple[list[dict[str, str]], list[str]]:
    """Return examples and hypotheses of the decoded rows in a language, or in all languages if it is "".

    Raises DataError if no row was decoded, no row is in the language, or the language of a row is unknown.
    """
    decoded = decoded_rows(path, rows, target_language)
    if not decoded:
        raise DataError(f"{path}: no row has a hypothesis; score the run with --generate=N")
    languages = [row.get("target_language") or target_language for row in decoded]
    if not all(languages):
        raise DataError(f"{path}: the rows have no target_language; give --target-language")
    examples = [
        {"source": row["source"], "target": row["reference"], "target_language": language}
        for row, language in zip(decoded, languages, strict=True)
    ]
    return examples, [row["hypothesis"] for row in decoded]


def decoded_rows(path: str | os.PathLike, rows: Sequence[Mapping[str, Any]], language: str) -> list[Mapping[str, Any]]:
    """Return the rows with a hypothesis whose language, if known, is `language` ("" for any).

    Raises DataError if rows have hypotheses, but none is in the language.
    """
    every = [row for row in rows if "hypothesis" in row]
    if not language:
        return every
    decoded = [row for row in every if language_of(row.get("target_language", language)) == language_of(language)]
    if len(decoded) < len(every):
        codes = {row["target_language"] for row in every if "target_language" in row}
        others = ", ".join(sorted(code for code in codes if language_of(code) != language_of(language)))
        if not decoded:
            raise DataError(f"{path}: no row has target language {language!r}; give one of {others}")
        log.info("%s: %d rows; rows in other languages (%s) are skipped", path, len(decoded), others)
    return decoded


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
