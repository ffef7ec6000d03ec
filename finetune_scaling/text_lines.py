"""Lines of text files: what is blank, which characters they may not have, and the objects of JSON Lines.

Every reader of lines drops one byte order mark at the start of a file; at the start of another line it is an error.
"""

import logging
import os
import re
from typing import Any

from finetune_scaling.errors import DataError
from finetune_scaling.strict_json import JsonError, parse_json

log = logging.getLogger(__name__)

BYTE_ORDER_MARK = "\ufeff"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_NO_TEXT = {b"\0": ("NUL (U+0000)", "000"), b"\x1a": ("Ctrl-Z (U+001A)", "032")}  # name and octal number
_ESCAPES = re.compile(rb"(\\+)u00(00|1[aA])")  # in JSON, of the same characters
_ESCAPE_ENDS = (b"u0000", b"u001a", b"u001A")
# Whitespace, the blank of Braille, and Default_Ignorable_Code_Point of Unicode: marks of direction, joiners, fillers,
# and variation selectors, which stay when texts are copied from web pages.
_BLANK = "".join(filter(str.isspace, map(chr, range(0x3001)))) + "\u2800\u00ad\u034f\u061c" + "".join(
    chr(i)
    for first, last in (
        (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F), (0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F),
        (0x3164, 0x3164), (0xFE00, 0xFE0F), (0xFEFF, 0xFEFF), (0xFFA0, 0xFFA0), (0xFFF0, 0xFFF8), (0x1BCA0, 0x1BCA3),
        (0x1D173, 0x1D17A), (0xE0000, 0xE0FFF),
    )
    for i in range(first, last + 1)
)  # fmt: skip
_BLANK_CHARACTERS = frozenset(_BLANK)


def is_blank(text: str) -> bool:
    """Return whether a text has nothing but whitespace and invisible characters."""
    return all(character in _BLANK_CHARACTERS for character in text)


def strip_blank(text: str) -> str:
    """Return a text without the whitespace and the invisible characters at its ends."""
    return text.strip(_BLANK)


def check_text(data: bytes, path: str | os.PathLike) -> None:
    """Raise DataError if a file is UTF-16, ends its lines with carriage returns, or has a character that no text has.

    Log a warning if a byte order mark within a line shows that files were joined without a line feed between them.
    """
    if data.startswith(_UTF_16):
        raise DataError(f"{path} is not a text file in UTF-8: it is UTF-16; convert it with `iconv -f UTF-16 -t UTF-8`")
    if b"\n" not in data and b"\r" in data.rstrip(b"\r\n"):
        raise DataError(
            f"{path}: carriage returns end its lines; convert it, e.g. with `tr '\\r' '\\n' < {path} > converted`"
        )
    for character, (name, number) in _NO_TEXT.items():
        if (position := data.find(character)) >= 0:
            raise DataError(
                f"{path}, line {_line(data, position)}: has the character {name}; convert the file to UTF-8 if it has "
                f"another encoding, or remove the character, e.g. with `tr -d '\\{number}' < {path} > cleaned`"
            )
    mark = BYTE_ORDER_MARK.encode()
    if mark in data and (found := re.search(b"[^\n]" + mark, data)):
        log.warning(
            "%s, line %d: has a byte order mark (U+FEFF) within the line. Fix: if files were joined there, separate "
            "the two lines.",
            path,
            _line(data, found.start()),
        )


def check_escapes(data: bytes, path: str | os.PathLike) -> None:
    """Raise DataError if a JSON text has an escape of a character that no text has."""
    if not any(escape in data for escape in _ESCAPE_ENDS):  # ten times as fast as the expression
        return
    for match in _ESCAPES.finditer(data):
        if len(match[1]) % 2:  # else the backslash is escaped itself
            name, _ = _NO_TEXT[bytes([int(match[2], 16)])]
            escape = rf"\\u00{match[2].decode()}"
            raise DataError(
                f"{path}, line {_line(data, match.start())}: has the character {name} as an escape; remove it, e.g. "
                f"with `sed 's/{escape}//g' {path} > cleaned`"
            )


def _line(data: bytes, position: int) -> int:
    return data.count(b"\n", 0, position) + 1


def decode_line(line: bytes, where: str, *, fix: str = "convert the file, e.g. with iconv") -> str:
    """Return the text of a line. Raises DataError, which begins with `where`, if it is not UTF-8."""
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{where}, byte {error.start + 1}: not UTF-8 ({error.reason}); {fix}") from None


def check_start(line: str, where: str) -> None:
    """Raise DataError, which begins with `where`, if a line begins with a byte order mark."""
    if line.startswith(BYTE_ORDER_MARK):
        raise DataError(
            f"{where} begins with a byte order mark (U+FEFF), which joining files leaves; remove it, for example with "
            "`sed 's/^\\xEF\\xBB\\xBF//' FILE > joined`"
        )


def parse_json_line(line: str, where: str, *, fix: str = "fix or remove it") -> dict[str, Any]:
    """Return the object on a line of JSON Lines. Raises DataError, which begins with `where`, if it is none."""
    check_start(line, where)
    if is_blank(line):
        raise DataError(f"{where} is empty; remove it")
    try:
        value = parse_json(line)
    except JsonError as error:
        raise DataError(f"{where}: invalid JSON ({error}); {fix}") from None
    if not isinstance(value, dict):
        raise DataError(f'{where}: expected a JSON object such as {{"key": "value"}}, got {line.strip()[:40]}; {fix}')
    return value
