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
    """Raise JsonError if a file of JSON Lines begins as one JSON array or one indented object does."""
    begin = first_line.strip()
    if begin.startswith("["):
        what, query = "one JSON array", ".[]"
    elif begin == "{":
        what, query = "JSON over several lines", "."
    else:
        return
    raise JsonError(
        f"{path} is {what}, not JSON Lines (one object per line). Fix: convert it, for example with "
        f"`jq -c '{query}' {path} > converted.jsonl`"
    )


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
