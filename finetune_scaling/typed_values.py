"""Values of declared types as texts: how they are parsed, and how a message says that they are written.

A declared type is a type hint of a dataclass's field, which may be a union and have annotations.
"""

import ast
import contextlib
import dataclasses
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Literal

from finetune_scaling.configuration import ESCAPES
from finetune_scaling.errors import ConfigError

# Entries of a list: 'quoted' or plain, up to the next comma
_ENTRY = re.compile(r"""\s*(?P<entry>'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|[^,'"()\[\]]*)\s*(?:,|$)""")
_ESCAPE = re.compile(r"\\(.?)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "\\": "\\"}
_BOOLS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
_BRACKETS = {"(": ")", "[": "]"}
_LARGEST_EXPONENT = 18  # of integers such as 1e9


def kinds(hint: Any, annotations: tuple[Any, ...] = ()) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Yield the members of a union, each with its annotations."""
    origin = typing.get_origin(hint)
    if origin is Annotated:
        kind, *own = typing.get_args(hint)
        yield from kinds(kind, (*annotations, *own))
    elif origin in (typing.Union, types.UnionType):
        for option in typing.get_args(hint):
            yield from kinds(option, annotations)
    else:
        yield hint, annotations


def is_mapping(kind: Any) -> bool:
    """Return whether a member of a union is a mapping."""
    origin = typing.get_origin(kind) or kind
    return isinstance(origin, type) and issubclass(origin, Mapping)


def has_fields(hint: Any) -> bool:
    """Return whether values of a declared type are groups of fields."""
    return any(dataclasses.is_dataclass(kind) or is_mapping(kind) for kind, _ in kinds(hint))


def entry_hint(hint: Any) -> Any:
    """Return the declared type of the entries of a list; Any if it is not known."""
    entries = [typing.get_args(kind)[0] for kind, _ in kinds(hint) if typing.get_origin(kind) is tuple]
    return entries[0] if entries else Any


def parse(text: str, kind: Any, annotations: Sequence[Any]) -> Any:
    """Return the value of this type that a text spells. Raises ValueError or SyntaxError if it spells none."""
    if kind is str:
        return _parse_text(text, annotations)
    if kind in _PARSERS:
        return _PARSERS[kind](text)
    if typing.get_origin(kind) is Literal:
        options = {str(option): option for option in typing.get_args(kind)}
        return options[text] if text in options else _fail(text)
    if typing.get_origin(kind) is tuple or kind in (tuple, list):
        return _parse_list(text, kind)
    if dataclasses.is_dataclass(kind) or is_mapping(kind):
        value = ast.literal_eval(text)
        return value if isinstance(value, dict) else _fail(text)
    return _parse_literal(text)


def _parse_text(text: str, annotations: Sequence[Any]) -> Any:
    value: Any = _ESCAPE.sub(_unescape, text) if ESCAPES in annotations else text
    for function in filter(callable, annotations):
        value = function(value)
    return value


def _unescape(match: re.Match[str]) -> str:
    if match[1] not in _ESCAPED:
        raise ConfigError(
            rf"{match[0]!s} is not an escape; write \n for a newline, \t for a tab, and \\ for a backslash"
        )
    return _ESCAPED[match[1]]


def _parse_none(text: str) -> None:
    return None if text == "None" else _fail(text)


def _parse_bool(text: str) -> bool:
    return _BOOLS[text.lower()] if text.lower() in _BOOLS else _fail(text)


def _parse_int(text: str) -> int:
    with contextlib.suppress(ValueError):
        return int(text, 0)
    number = Decimal(text)  # 1e6 is how people write a million steps
    if not number.is_finite() or number.adjusted() > _LARGEST_EXPONENT or number != number.to_integral_value():
        _fail(text)
    return int(number)


def _parse_literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


_PARSERS: dict[Any, Callable[[str], Any]] = {
    type(None): _parse_none,
    bool: _parse_bool,
    int: _parse_int,
    float: float,
    Any: _parse_literal,
}


def _parse_list(text: str, kind: Any) -> tuple[Any, ...]:
    """Parse 0,1,2 or (0,1,2) or ('a','b'): entries of one declared type, or Python literals."""
    hint = entry_hint(kind) if typing.get_origin(kind) is tuple else Any
    if hint is Any or has_fields(hint) or _has_lists(hint):
        value = ast.literal_eval(text)
        return tuple(value) if isinstance(value, list | tuple) else _fail(text)
    inside = text.strip()
    if inside[:1] in _BRACKETS:
        inside = inside[1:-1] if inside.endswith(_BRACKETS[inside[0]]) else _fail(text)
    return tuple(_parse_entry(entry, hint) for entry in _split_entries(inside.strip()))


def _has_lists(hint: Any) -> bool:
    return any(typing.get_origin(kind) is tuple for kind, _ in kinds(hint))


def _split_entries(text: str) -> Iterator[str]:
    end = 0
    while end < len(text):
        match = _ENTRY.match(text, end)
        if match is None or not match["entry"].strip():
            _fail(text)
        yield match["entry"].strip()
        end = match.end()


def _parse_entry(text: str, hint: Any) -> Any:
    for kind, annotations in kinds(hint):
        with contextlib.suppress(ValueError, InvalidOperation):
            if text[0] in "'\"":
                value = ast.literal_eval(text)
                return parse(value, kind, [note for note in annotations if note != ESCAPES])
            return parse(text, kind, annotations)
    return _fail(text)


def _fail(text: str) -> typing.NoReturn:
    raise ValueError(text)


_FORMS = {
    type(None): "None",
    bool: "True or False",
    int: "an integer such as 10 or 1e6",
    float: "a number such as 0.1 or 1e-3",
    str: "a text",
    Any: "a Python literal or a text",
}


def form(hint: Any) -> str:
    """Return how values of a declared type are written."""
    ordered = sorted(kinds(hint), key=lambda kind: kind[0] is type(None))
    return ", or ".join(dict.fromkeys(_form_of_kind(kind) for kind, _ in ordered))


def _form_of_kind(kind: Any) -> str:
    if kind in _FORMS:
        return _FORMS[kind]
    if typing.get_origin(kind) is Literal:
        return ", ".join(option or "an empty text" for option in map(str, typing.get_args(kind)))
    if typing.get_origin(kind) is tuple:
        hint = entry_hint(kind)
        if _has_lists(hint):
            return "a list such as \"[('a', 0.5)]\""
        group = "\"[{'field': 1}]\"" if has_fields(hint) else "a,b"
        return f"a list such as {({int: '0,1,2', float: '0.1,0.2'}).get(hint, group)}"
    return "a group such as \"{'field': 1}\""
