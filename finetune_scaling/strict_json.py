"""Strict JSON (RFC 8259): what Python's parser decides silently or accepts in addition is an error here.

Errors: repeated keys, NaN and Infinity, numbers beyond the range of float64, lone surrogates, very deep nesting.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

_MAX_DIGITS = 300  # of an integer; longer ones may exceed the range of float64
_STRING = r'"[^"\\]*(?:\\.[^"\\]*)*"'
_TOKEN = re.compile(
    rf'(?P<key>{_STRING}(?=\s*:))|(?P<open>[{{\[])|(?P<close>[}}\]])|(?P<value>{_STRING}|[^\s"{{}}\[\]:,]+)'
)


class JsonError(ValueError):
    """Text that is not strict JSON; the message says at which line and column, unless it is nested too deeply."""


def parse_json(text: str) -> Any:
    """Parse strict JSON. Raises JsonError."""
    try:
        value = _DECODER.decode(text)
        if "\\ud" in text or "\\uD" in text:  # escapes of surrogates, which are valid in pairs
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise JsonError(_syntax_error(text, error)) from None
    except RecursionError:
        raise JsonError("it is nested too deeply") from None
    except (JsonError, UnicodeEncodeError):
        raise next(_rejections(text)) from None
    return value


def check_shape(value: Any, shape: Any, where: str = "") -> None:
    """Raise JsonError that names the field if a parsed value does not have the shape that its readers need.

    shape: a type, a tuple of types, or a mapping from fields to shapes. A field whose name ends in ! must exist; the
    shape of "*" is that of all fields. Values of types may be null.
    """
    if not isinstance(shape, Mapping):
        if not isinstance(value, shape):
            raise JsonError(f"{where} is {str(value)[:40]!r}, which has the wrong type")
        return
    if not isinstance(value, Mapping):
        raise JsonError(f"{where or 'it'} is not an object")
    for name, inner in shape.items():
        field = name.removesuffix("!")
        if name != field and field not in value:
            raise JsonError(f"{where}.{field} is missing".lstrip("."))
        for key in value if field == "*" else (field,):
            if value.get(key) is not None or (key in value and isinstance(inner, Mapping)):
                check_shape(value[key], inner, f"{where}.{key}".lstrip("."))


def check_json_lines(path: Any, first_line: str) -> None:
    """Raise JsonError with the fix if the first line shows that a file of JSON Lines has another layout or encoding."""
    begin = first_line.strip()
    if begin[:1] in ("{", "[", "\0") and "\0" in begin[:4]:
        encoding = ("UTF-32" if "\0\0" in begin[:4] else "UTF-16") + ("BE" if begin[0] == "\0" else "LE")
        what, command = encoding, f"iconv -f {encoding} -t UTF-8"
    elif begin.startswith("["):
        what, command = "one JSON array", "jq -c '.[]'"
    elif begin.startswith("{") and (layout := _wrong_layout(begin)):
        what, command = layout
    else:
        return
    raise JsonError(
        f"{path} is {what}, not JSON Lines (one object per line). Fix: convert it, for example with "
        f"`{command} {path} > converted.jsonl`"
    )


def _wrong_layout(begin: str) -> tuple[str, str] | None:
    """Return the layout of a file whose first line is not an object, and the command that converts it, if known."""
    try:
        _, end = json.JSONDecoder().raw_decode(begin)
    except (ValueError, RecursionError) as error:
        is_continued = begin.endswith(("{", "[", ",", ":")) and not str(error).startswith("Unterminated string")
        return ("JSON over several lines", "jq -c '.'") if is_continued else None
    rest = begin[end:].strip()
    if rest == ",":
        return "JSON with a comma after each object", "sed 's/,[[:space:]]*$//'"
    return ("JSON with several objects in a line", "jq -c '.'") if rest.startswith("{") else None


def format_json(value: Any, *, indent: int | None = None) -> str:
    """Format a value as strict JSON; numbers that are not finite, which JSON lacks, become null."""
    try:
        return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return json.dumps(json_value(value), indent=indent, ensure_ascii=False, allow_nan=False)


def json_value(value: Any) -> Any:
    """Return a value of mappings, sequences and scalars with None in place of numbers that are not finite."""
    if isinstance(value, Mapping):
        return {key: json_value(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _syntax_error(text: str, error: json.JSONDecodeError) -> str:
    reason = "it begins with a byte order mark" if text.startswith("\ufeff") else error.msg
    if reason == "Extra data":
        is_value = text[error.pos :].startswith(("{", "["))
        joined = "another value follows; files that were joined without a line feed between them look like this"
        reason = joined if is_value else "other text follows the value"
    return f"{_position_text(text, error.pos)}: {reason}"


def _position_text(text: str, position: int) -> str:
    found = json.JSONDecodeError("", text, position)
    return f"line {found.lineno}, column {found.colno}" if "\n" in text.strip() else f"column {found.colno}"


def _rejections(text: str) -> Iterator[JsonError]:
    """Yield the errors about keys and values that the grammar allows and this module does not, with their places."""
    keys: list[set[str]] = []  # of each open object or array
    for token in _TOKEN.finditer(text):
        if token.lastgroup == "open":
            keys.append(set())
        elif token.lastgroup == "close":
            keys.pop()
        elif reason := _rejection(token[0]):
            yield JsonError(f"{_position_text(text, token.start())}: {reason}")
        elif token.lastgroup == "key":
            if (key := json.loads(token[0])) in keys[-1]:
                yield JsonError(f"{_position_text(text, token.start())}: {_repeated(key)}")
            keys[-1].add(key)


def _rejection(token: str) -> str | None:
    """Return what is wrong with a number, a text or a name that the grammar allows; None if nothing is."""
    try:
        value = _DECODER.decode(token)
        if isinstance(value, str):
            value.encode()
    except JsonError as error:
        return str(error)
    except UnicodeEncodeError:
        return "a text has a lone surrogate (\\ud800 to \\udfff), which is not valid Unicode"
    return None


def _repeated(key: str) -> str:
    return f"the key {key!r} occurs twice in one object"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise JsonError(_repeated(repeated))
    return found


def _integer(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise JsonError(f"the integer {text[:20]}... has {len(text)} digits, too many for a number")
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise JsonError(f"the number {text[:40]} is out of range")
    return value


def _reject_constant(text: str) -> NoReturn:
    raise JsonError(f"{text} is not a number of JSON; write null or a number")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_int=_integer, parse_float=_float, parse_constant=_reject_constant
)
