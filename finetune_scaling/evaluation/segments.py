"""Files of segments: plain UTF-8 text, one segment a line, where only a line feed ends a line."""

import os
from collections.abc import Sequence
from pathlib import Path

from finetune_scaling.errors import DataError


def read_segments(path: str | os.PathLike) -> list[str]:
    """The segments of a file, in order; an empty line is an empty segment.

    Only "\\n" ends a segment. U+2028, U+0085, vertical tab, carriage return and the like are text: a reader that splits
    at them too shifts every later line against its reference. A byte order mark at the start is not text.

    Raises:
      DataError: the file is missing, unreadable, empty, or not UTF-8 (the line is named).
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); give a text file with one segment a line"
        ) from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: not UTF-8 ({error.reason}); convert the file to UTF-8") from None
    if not text:
        raise DataError(f"{path}: the file is empty; give a text file with one segment a line")
    return text.removesuffix("\n").split("\n")


def read_parallel_segments(paths: Sequence[str | os.PathLike]) -> list[list[str]]:
    """Reads files of equally many segments, one list for each file.

    Raises:
      DataError: a file has not as many segments as the first.
    """
    files = [read_segments(path) for path in paths]
    for path, segments in zip(paths, files, strict=True):
        if len(segments) != len(files[0]):
            raise DataError(
                f"{path}: {len(segments)} segments, but {paths[0]} has {len(files[0])}; "
                "line k of every file must belong to the same example"
            )
    return files
