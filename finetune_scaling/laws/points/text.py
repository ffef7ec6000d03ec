"""A table as text, read from CSV, JSONL or a pandas frame, with the location of every row for error messages."""

import csv
import io
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, TypeAlias

import pandas as pd

from finetune_scaling.configuration import suggestion
from finetune_scaling.errors import DataError, EmptyTableError
from finetune_scaling.files import Location, disk_errors, location
from finetune_scaling.messages import first_names
from finetune_scaling.runs.run_directory import CONFIG, is_public_model, public_model_error
from finetune_scaling.strict_json import check_json_lines
from finetune_scaling.text_lines import check_start, is_blank, parse_json_line, strip_blank

Source: TypeAlias = str | Location | pd.DataFrame

POINTS = "points.csv"  # in the directory of a study
FRAME = "DataFrame"
JSON_LINES = (".jsonl", ".ndjson", ".json")
OTHER_SEPARATORS = (";", "\t", "|")  # between columns, as some programs write them
MAX_BITS = 1024  # of a float's largest integer
NAMED_ROWS = 5  # in one message
_OTHER_FILES = {
    b"PK\x03\x04": "a spreadsheet or a zip archive",
    b"\x1f\x8b": "compressed",
    b"PAR1": "Parquet",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}


class NotText(str):
    """What a cell of JSON or of a frame holds that is neither text, nor a number, a bool or missing."""


@dataclass(frozen=True)
class TextTable:
    """A table of text cells.

    name: the file's name, or DataFrame; header: the location of the column names; cells: indexed by line number, or by
    position in a frame; path: the file; labels: position -> label of a frame's row.
    """

    name: str
    header: str
    cells: pd.DataFrame
    path: Location | None = None
    labels: Mapping[int, Any] = field(default_factory=dict)

    def rows(self, rows: Sequence[int]) -> str:
        """Return the names of rows, the first few of many: line 7, or rows 'a', 'b' and 6 more."""
        names = [repr(self.labels[row]) if self.labels else str(row) for row in rows]
        return f"{'row' if self.labels else 'line'}{'s' if len(rows) > 1 else ''} {first_names(names, NAMED_ROWS)}"

    def at(self, row: int, column: str) -> str:
        """Return the location of a cell, with which messages begin."""
        return f"{self.name} {self.rows([row])}, column {column!r}"

    def error(self, row: int, column: str, problem: str) -> DataError:
        """Return the error about a cell: location, value, the problem and its fix."""
        cell = printable(self.cells.at[row, column][:80]) or "empty"
        return DataError(f"{self.at(row, column)} is {cell}: {problem}")

    def reject(self, wrong: pd.Series, column: str, problem: str) -> None:
        """Raise DataError at the first row that is marked as wrong."""
        if wrong.any():
            raise self.error(wrong.idxmax(), column, problem)


def clean(text: str) -> str:
    """Return text in Unicode's composed form (NFC), without blanks at its ends and with single ones inside.

    Texts that look alike thus compare as equal, and none has a line break.
    """
    return " ".join(strip_blank(unicodedata.normalize("NFC", text)).split())


def has_control_characters(text: str) -> bool:
    """Return whether text has a control character or a lone surrogate, which XML or UTF-8 cannot hold."""
    return any(unicodedata.category(character) in ("Cc", "Cs") for character in text)


def printable(text: str) -> str:
    """Return text with escapes for characters that a terminal would interpret or could not print."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def read_text(source: Source, required: Sequence[str]) -> TextTable:
    """Read a table as text from CSV, JSONL (one object per line), a study's directory (its points.csv), or a frame.

    Blank rows are dropped. Raises DataError where it is none of them, lacks a required column, or has no rows.
    """
    if isinstance(source, pd.DataFrame):
        table = TextTable(FRAME, FRAME, _frame_cells(source), labels=_labels(source.index))
    else:
        with disk_errors(given := location(source), reading=True):
            path = _find_file(given)
            text = _read(path, required)
        if path.suffix.lower() in JSON_LINES:
            table = TextTable(name := printable(str(path)), name, _json_cells(path, text), path)
        else:
            table = TextTable(name := printable(str(path)), f"{name} line 1", _csv_cells(path, text), path)
    names = list(table.cells.columns)
    missing = [column for column in required if column not in names]
    if missing:
        similar = suggestion(missing[0], names) if names else ""
        raise DataError(
            f"{table.header}: column {missing[0]!r} is missing{similar}; the table needs {', '.join(required)}"
        )
    table = replace(table, cells=table.cells[(table.cells != "").any(axis=1)])
    if table.cells.empty:
        raise EmptyTableError(f"{table.name}: has a header but no rows; add one row for each run")
    return table


def _find_file(path: Location) -> Location:
    """Return the file itself, or the points of the study in a directory."""
    if not path.is_dir():
        return path
    if (path / POINTS).is_file():
        return path / POINTS
    if is_public_model(path):
        raise public_model_error(path)
    if (path / CONFIG).is_file():
        raise DataError(
            f"{path}: its study has written no {POINTS} yet; python -m finetune_scaling.study --config=... "
            f"--workdir={path} writes it, also for a part of the runs with --index and --of"
        )
    raise DataError(f"{path}: is a directory without {POINTS}; give a study's directory, or a table itself")


def _read(path: Location, required: Sequence[str]) -> str:
    try:
        data = path.read_bytes()
        if kind := next((kind for start, kind in _OTHER_FILES.items() if data.startswith(start)), None):
            raise DataError(f"{path}: is {kind}; save the table as CSV in UTF-8")
        text = data.decode("utf-8-sig")  # spreadsheets begin CSV with a byte order mark
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; give a study's table ({POINTS}), or your own") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8") from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise DataError(f"{path}: cannot be read ({error}); give a readable file") from None
    if is_blank(text):
        raise DataError(f"{path}: the file is empty; it needs the columns {', '.join(required)}")
    return text


def _csv_cells(path: Location, text: str) -> pd.DataFrame:
    """Return the rows of a CSV, indexed by the line on which each begins."""
    for number, content in enumerate(text.split("\n"), 1):
        check_start(content, f"{path} line {number}")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    lines: dict[int, list[str]] = {}
    first_line = 1
    header_line = text.lstrip().partition("\n")[0]
    try:
        for values in reader:
            if not all(map(is_blank, values)):
                lines[first_line] = [clean(value) for value in values]
            first_line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path} line {first_line}: not a row of CSV ({error}); fix or remove it") from None
    header = lines.pop(1, [])
    if not header:
        raise DataError(f"{path} line 1: is blank; the first line must name the columns")
    other = next((mark for mark in OTHER_SEPARATORS if len(header) == 1 and mark in header_line), None)
    if other:
        raise DataError(f"{path} line 1: columns are separated by {other!r}; save the table with commas")
    names = [name or f"(column {number})" for number, name in enumerate(header, 1)]
    _check_unique(f"{path} line 1", names)
    for line, values in lines.items():
        if values == header:
            raise DataError(f"{path} line {line}: repeats the header, as concatenated files do; remove this line")
        if any(values[len(names) :]):
            raise DataError(
                f"{path} line {line}: {len(values)} values for {len(names)} columns; quote a value that has a comma, "
                "or remove the row"
            )
    rows = [[*values[: len(names)], *[""] * (len(names) - len(values))] for values in lines.values()]
    return pd.DataFrame(rows, index=list(lines), columns=names, dtype=object)


def _json_cells(path: Location, text: str) -> pd.DataFrame:
    """Return the objects of a JSONL file, indexed by line; a missing key is an empty cell."""
    lines: dict[int, dict[str, str]] = {}
    contents = text.rstrip("\r\n").split("\n")
    try:
        check_json_lines(path, text.lstrip().partition("\n")[0])
    except ValueError as error:
        raise DataError(str(error)) from None
    for line, content in enumerate(contents, 1):
        where = f"{path} line {line}"
        pairs = [(clean(key), _as_text(value)) for key, value in parse_json_line(content, where).items()]
        _check_unique(where, [key for key, _ in pairs])
        lines[line] = dict(pairs)
    names = list(dict.fromkeys(key for values in lines.values() for key in values))
    rows = [[values.get(name, "") for name in names] for values in lines.values()]
    return pd.DataFrame(rows, index=list(lines), columns=names, dtype=object)


def _frame_cells(frame: pd.DataFrame) -> pd.DataFrame:
    names = [clean(str(name)) for name in frame.columns]
    _check_unique(FRAME, names)
    columns = [[_as_text(value) for value in frame.iloc[:, i]] for i in range(len(names))]
    return pd.DataFrame(dict(zip(names, columns, strict=True)), index=range(len(frame)), dtype=object)


def _labels(index: pd.Index) -> dict[int, Any]:
    """Return position -> label of a frame's rows; labels that repeat are followed by the position."""
    if index.is_unique:
        return dict(enumerate(index))
    return {position: f"{label} (iloc {position})" for position, label in enumerate(index)}


def _as_text(value: Any) -> str:
    """Format a value of JSON or of a frame as CSV does: empty where missing, integers without a decimal point."""
    if isinstance(value, str):
        return clean(value)
    if value is None or (pd.api.types.is_scalar(value) and pd.isna(value)):
        return ""
    if pd.api.types.is_float(value):
        value = float(value)
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    if pd.api.types.is_integer(value) and int(value).bit_length() > MAX_BITS:
        return NotText(f"an integer of {int(value).bit_length()} bits")  # Python refuses to print it
    if pd.api.types.is_bool(value) or pd.api.types.is_integer(value) or isinstance(value, Decimal):
        return str(value)
    return NotText(clean(str(value)))


def _check_unique(where: str, names: Sequence[str]) -> None:
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise DataError(f"{where}: column {repeated[0]!r} appears twice; remove or rename one of them")
