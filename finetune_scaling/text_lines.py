"""Lines of text files: what is blank, where a byte order mark may be, and the objects of JSON Lines.

Every reader of lines drops one byte order mark at the start of a file; at the start of another line it is an error.
"""

from typing import Any

from finetune_scaling.errors import DataError
from finetune_scaling.strict_json import JsonError, parse_json

BYTE_ORDER_MARK = "\ufeff"
# Whitespace, and characters without width, which stay when texts are copied from web pages and which str.strip() keeps.
_BLANK = "".join(filter(str.isspace, map(chr, range(0x3001)))) + "\u200b\u200c\u200d\u2060\ufeff\u00ad"


def is_blank(text: str) -> bool:
    """Return whether a text has nothing but whitespace and characters without width."""
    return not strip_blank(text)


def strip_blank(text: str) -> str:
    """Return a text without the whitespace and the characters without width at its ends."""
    return text.strip(_BLANK)


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
