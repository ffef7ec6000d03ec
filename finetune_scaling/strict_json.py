"""Strict JSON (RFC 8259): what Python's parser decides silently or accepts in addition is an error here.

Errors: repeated keys, NaN and Infinity, numbers beyond the range of float64, lone surrogates, very deep nesting.
"""

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn

_MAX_DIGITS = 300  # of an integer; longer ones may exceed the range of float64


class JsonError(ValueError):
    """Text that is not strict JSON; the message says why and at which line and column."""


def parse_json(text: str) -> Any:
    """Parse strict JSON. Raises JsonError."""
    try:
        value = _DECODER.decode(text.removeprefix("\ufeff"))
        if "\\ud" in text or "\\uD" in text:  # escapes of surrogates, which are valid in pairs
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise JsonError(_syntax_error(text, error)) from None
    except RecursionError:
        raise JsonError("it is nested too deeply") from None
    except UnicodeEncodeError:
        raise JsonError("a text has a lone surrogate (\\ud800 to \\udfff), which is not valid Unicode") from None
    return value


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
    """Return what a file is whose first line is no object, and the command that converts it; None for other faults."""
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
    place = f"line {error.lineno}, column {error.colno}" if "\n" in text.strip() else f"column {error.colno}"
    reason = error.msg
    if reason == "Extra data":
        is_value = text[error.pos :].startswith(("{", "["))
        joined = "another value follows; files that were joined without a line feed between them look like this"
        reason = joined if is_value else "other text follows the value"
    return f"{place}: {reason}"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise JsonError(f"the key {repeated!r} occurs twice in one object")
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
