"""A table as text, from CSV, JSONL or a pandas frame, with every row's place for messages that name it."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import pandas as pd

from finetune_scaling.configuration import suggestion
from finetune_scaling.errors import DataError
from finetune_scaling.files import Location, disk_errors, location

Source: TypeAlias = str | Location | pd.DataFrame

POINTS = "points.csv"  # in the directory of a study
FRAME = "DataFrame"
JSON_LINES = (".jsonl", ".ndjson", ".json")
OTHER_MARKS = (";", "\t", "|")  # between columns, as some programs write them
NAMED_ROWS = 5  # in one message


@dataclass(frozen=True)
class TextTable:
    """Cells as text.

    name: of the file, or DataFrame; path: the file; cells: index = line numbers, or positions in a frame; labels: of a
    frame's rows.
    """

    name: str
    path: Location | None
    cells: pd.DataFrame
    labels: Mapping[int, Any] = field(default_factory=dict)

    @property
    def header(self) -> str:
        """Where the columns are named."""
        return f"{self.name} line 1" if self.path is not None and not _is_json(self.path) else self.name

    def row(self, row: int) -> str:
        """One row by name: line 7, or row 'a' of a frame."""
        return f"line {row}" if self.path is not None else f"row {self.labels[row]!r}"

    def rows(self, rows: Sequence[int]) -> str:
        """Several rows by name, the first few of many."""
        named = [str(r) if self.path is not None else repr(self.labels[r]) for r in rows[:NAMED_ROWS]]
        more = f" and {len(rows) - NAMED_ROWS} more" if len(rows) > NAMED_ROWS else ""
        unit = "line" if self.path is not None else "row"
        return f"{unit}{'s' if len(rows) > 1 else ''} {', '.join(named)}{more}"

    def at(self, row: int, column: str) -> str:
        """A cell's place, as messages begin."""
        return f"{self.name} {self.row(row)}, column {column!r}"


def read_text(source: Source, required: Sequence[str]) -> TextTable:
    """Reads a table as text. source: CSV, JSONL (one object a line), a study's directory (its points.csv), or a frame.

    Raises DataError where it is none of them, or lacks a required column.
    """
    if isinstance(source, pd.DataFrame):
        table = _of_frame(source)
    else:
        given = location(source)
        with disk_errors(given):
            path = _file(given)
            text = _read(path, required)
        table = TextTable(str(path), path, (_json_lines if _is_json(path) else _commas)(path, text))
    return _checked(table, required)


def _file(path: Location) -> Location:
    """The file itself, or the points of the study that a directory holds."""
    if not path.is_dir():
        return path
    if (path / POINTS).is_file():
        return path / POINTS
    if (path / "config.json").is_file():
        raise DataError(
            f"{path}: its study has written no {POINTS} yet; python -m finetune_scaling.study --config=... "
            f"--workdir={path} writes it, also of a part of the runs with --index and --of"
        )
    raise DataError(f"{path}: is a directory without {POINTS}; give a study's directory, or a table itself")


def _is_json(path: Location) -> bool:
    return path.suffix.lower() in JSON_LINES


def _read(path: Location, required: Sequence[str]) -> str:
    try:
        text = path.read_bytes().decode("utf-8-sig")  # spreadsheets begin CSV with a byte order mark
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; give a study's table ({POINTS}), or one of yours") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8") from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise DataError(f"{path}: cannot be read ({error}); give a file of yours") from None
    if not text.strip():
        raise DataError(f"{path}: the file is empty; it needs the columns {', '.join(required)}")
    return text


def _commas(path: Location, text: str) -> pd.DataFrame:
    """Rows of a CSV by the line that each begins on."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    lines: dict[int, list[str]] = {}
    begins = 1
    try:
        for values in reader:
            if any(value.strip() for value in values):
                lines[begins] = [value.strip() for value in values]
            begins = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path} line {begins}: not a row of commas ({error}); mend or drop it") from None
    header = lines.pop(1, [])
    if not header:
        raise DataError(f"{path} line 1: is blank; the first line must name the columns")
    other = next((mark for mark in OTHER_MARKS if len(header) == 1 and mark in header[0]), None)
    if other:
        raise DataError(f"{path} line 1: its columns are parted by {other!r}; save it with commas")
    names = [name or f"(column {place + 1})" for place, name in enumerate(header)]
    _refuse_repeated(f"{path} line 1", names)
    for line, values in lines.items():
        if any(values[len(names) :]):
            raise DataError(
                f"{path} line {line}: {len(values)} values for {len(names)} columns; quote a value that has a comma, "
                "or drop the row"
            )
    rows = [[*values[: len(names)], *[""] * (len(names) - len(values))] for values in lines.values()]
    return pd.DataFrame(rows, index=list(lines), columns=names, dtype=object)


def _json_lines(path: Location, text: str) -> pd.DataFrame:
    """Objects of a JSONL file by line; a key that an object lacks is an empty cell."""
    lines: dict[int, dict[str, str]] = {}
    for line, content in enumerate(text.split("\n"), 1):
        if content.strip():
            lines[line] = {key.strip(): _as_text(value) for key, value in _object(path, line, content).items()}
    names = list(dict.fromkeys(key for values in lines.values() for key in values))
    rows = [[values.get(name, "") for name in names] for values in lines.values()]
    return pd.DataFrame(rows, index=list(lines), columns=names, dtype=object)


def _object(path: Location, line: int, content: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        _refuse_repeated(f"{path} line {line}", [key for key, _ in pairs])
        return dict(pairs)

    try:
        value = json.loads(content, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:  # ValueError: not JSON, or an integer of thousands of digits
        raise DataError(f"{path} line {line}: not JSON ({error}); write one object a line") from None
    if not isinstance(value, dict):
        raise DataError(f"{path} line {line}: is no JSON object; write one object a line, its keys the columns")
    return value


def _of_frame(frame: pd.DataFrame) -> TextTable:
    names = [str(name).strip() for name in frame.columns]
    _refuse_repeated(FRAME, names)
    columns = [[_as_text(value) for value in frame.iloc[:, place]] for place in range(len(names))]
    cells = pd.DataFrame(dict(zip(names, columns, strict=True)), index=range(len(frame)), dtype=object)
    return TextTable(FRAME, None, cells, dict(enumerate(frame.index)))


def _as_text(value: Any) -> str:
    """A value of JSON or of a frame as a CSV has it: nothing where it is missing, whole numbers without point."""
    if isinstance(value, str):
        return value.strip()
    if value is None or (pd.api.types.is_scalar(value) and pd.isna(value)):
        return ""
    if pd.api.types.is_bool(value):
        return str(int(value))
    if pd.api.types.is_float(value):
        value = float(value)
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    try:
        return str(value)
    except ValueError:  # an integer of thousands of digits
        return "a number without end"


def _refuse_repeated(where: str, names: Sequence[str]) -> None:
    repeated = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if repeated:
        raise DataError(f"{where}: column {repeated[0]!r} stands twice; drop or rename one of them")


def _checked(table: TextTable, required: Sequence[str]) -> TextTable:
    """The table with its blank rows dropped; DataError where a required column, or every row, is missing."""
    names = list(table.cells.columns)
    missing = [name for name in required if name not in names]
    if missing:
        near = suggestion(missing[0], names) if names else ""
        raise DataError(
            f"{table.header}: column {missing[0]!r} is missing{near}; the table needs {', '.join(required)}"
        )
    cells = table.cells[(table.cells != "").any(axis=1)]
    if cells.empty:
        raise DataError(f"{table.name}: has a header but no rows; add one row for each run")
    return replace(table, cells=cells)
