"""JSONL and TSV files as a source: every line is checked when the file is opened; records are read at random.

The decompressed bytes stay in memory with the offset of each line; a record is parsed on access.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from finetune_scaling.configuration import suggestion
from finetune_scaling.data.file_identity import file_identity
from finetune_scaling.data.sources.decompression import read_bytes, without_compression_suffix
from finetune_scaling.data.sources.records import OnEmpty, Record, Records
from finetune_scaling.errors import ConfigError, DataError
from finetune_scaling.paths import UserPath
from finetune_scaling.strict_json import JsonError, check_json_lines
from finetune_scaling.text_lines import check_escapes, check_start, check_text, decode_line, is_blank, parse_json_line

_FORMATS = {".jsonl": "jsonl", ".json": "jsonl", ".ndjson": "jsonl", ".tsv": "tsv"}


@dataclass(frozen=True)
class FilesSource:
    """One JSONL or TSV file, plain or compressed (.gz, .xz, .zst), local or an fsspec URL (gs://, https://, ...)."""

    path: UserPath
    format: Literal["jsonl", "tsv"] | None = None  # None: determined by the file's suffix
    columns: tuple[str, ...] = ()  # names of a TSV file's columns; empty: in its first line
    data_dir: UserPath | None = None  # directory or URL that a relative path starts at
    on_empty: OnEmpty = "error"  # what to do with records that have an empty or blank text
    kind: Literal["files"] = "files"

    def __str__(self) -> str:
        relative = self.data_dir is not None and "://" not in self.path and not os.path.isabs(self.path)
        return os.path.join(self.data_dir or "", self.path) if relative else self.path


class Lines:
    """The lines of a file: record i is parsed from line `first_line + i`."""

    def __init__(self, path: str, data: bytes, first_line: int, parse: Callable[[str, str], Record]) -> None:
        self.path = path
        self._data, self._first_line, self._parse = data, first_line, parse
        self._offsets = _line_offsets(data)

    def __len__(self) -> int:
        return len(self._offsets) - self._first_line

    def record(self, index: int) -> Record:
        """Parse a record."""
        line = self._first_line + index
        raw = self._data[self._offsets[line - 1] : self._offsets[line]]
        where = self.where(index)
        return self._parse(decode_line(raw, where), where)

    def where(self, index: int) -> str:
        """Return the file and line of a record for error messages."""
        return f"{self.path}, line {self._first_line + index}"


def open_files(source: FilesSource, fields: Sequence[str] = ()) -> Records:
    """Read a file; its records are parsed when they are read.

    Raises DataError if the file is missing, empty or has another format; reading a record, if its line is not UTF-8 or
    not a record.
    """
    path = str(source)
    format_ = source.format or _format_of(path)
    identity = file_identity(path)  # before reading, so that a later change is noticed
    data = read_bytes(path).rstrip(b"\r\n")
    check_text(data, path)
    lines = _open_json(path, data) if format_ == "jsonl" else _open_tsv(path, data, source.columns, fields)
    if identity is not None:
        identity |= {"format": format_, "columns": source.columns}
    return Records(len(lines), lines.record, lines.where, identity=identity)


def _format_of(path: str) -> str:
    suffix = os.path.splitext(without_compression_suffix(path))[1]
    if suffix == ".csv":
        raise _csv_error(path)
    if suffix not in _FORMATS:
        raise ConfigError(f"{path}: the format is not known by the suffix; set format to 'jsonl' or 'tsv'")
    return _FORMATS[suffix]


def _csv_error(path: str) -> DataError:
    return DataError(
        f'{path} is comma-separated, which is not read; convert it, for example with `python -c "import pandas; '
        f"pandas.read_csv('{path}', dtype=str, keep_default_na=False).to_json('converted.jsonl', orient='records', "
        'lines=True, force_ascii=False)"`'
    )


def _line_offsets(data: bytes) -> np.ndarray:
    """Return the start of each line and the end of the data, int64[lines + 1]."""
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n")) + 1
    return np.concatenate([[0], ends, [len(data)]]).astype(np.int64)


def _open_json(path: str, data: bytes) -> Lines:
    check_escapes(data, path)
    first_line = data.lstrip().split(b"\n", 1)[0]
    try:
        check_json_lines(path, first_line.decode(errors="replace"))
    except JsonError as error:
        raise DataError(str(error)) from None
    return Lines(path, data, 1, parse_json_line)


def _open_tsv(path: str, data: bytes, columns: tuple[str, ...], fields: Sequence[str]) -> Lines:
    header = decode_line(data.split(b"\n", 1)[0], f"{path}, line 1").rstrip("\r").split("\t")
    names = columns or tuple(header)
    if repeated := [name for name in names if names.count(name) > 1]:
        raise DataError(f"{path}, line 1: column {repeated[0]!r} occurs twice; rename or remove one")
    for field in fields:
        if field not in names:
            if len(names) == 1 and field in (name.strip('" ') for name in names[0].split(",")):
                raise _csv_error(path)
            where = "in the config's columns" if columns else "in the first line; if that is not a header, set columns"
            raise DataError(f"{path}, line 1: no column {field!r} {where}{suggestion(field, names)}")
    if not columns and b"\n" not in data:
        raise DataError(f"{path} has no line after its header; add records")
    return Lines(path, data, 1 if columns else 2, partial(_parse_tsv, names))


def _parse_tsv(names: tuple[str, ...], text: str, where: str) -> Record:
    check_start(text, where)
    cells = text.rstrip("\r\n").split("\t")
    if len(names) > 1 and len(cells) == 1 and is_blank(text):
        raise DataError(f"{where} is empty; remove it")
    if len(cells) != len(names):
        raise DataError(
            f"{where}: {len(cells)} columns, expected {len(names)} ({', '.join(names)}); replace tabs inside texts by "
            "spaces, and separate lines that joining files without a last line feed has merged"
        )
    if sorted(map(str.casefold, cells)) == sorted(map(str.casefold, names)):
        reorder = "" if tuple(cells) == names else f" and give the columns below it the order {', '.join(names)}"
        raise DataError(
            f"{where} has the names of the columns, as where files with headers were joined; remove the line{reorder} "
            "(if the file has a header, omit the source's columns)"
        )
    return dict(zip(names, cells, strict=True))
