"""Values of declared types as texts: how they are parsed, and how a message says that they are written.

A declared type is a type hint of a dataclass's field, which may be a union and have annotations.
"""

import ast
import contextlib
import dataclasses
import re
import types
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Literal

from finetune_scaling.configuration import ESCAPES, convert
from finetune_scaling.errors import ConfigError

_ESCAPE = re.compile(r"\\(.?)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}
_NONE = ("None", "none")
_LITERALS = {"true": "True", "false": "False", "none": "None"}  # by other spellings
_BOOLS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
_QUOTES_AND_BRACKETS = set("'\"()[]")  # of Python lists; plain lists have none
_LARGEST_EXPONENT = 18  # of integers such as 1e9


def union_members(hint: Any, annotations: tuple[Any, ...] = ()) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Yield the members of a union, each with its annotations."""
    origin = typing.get_origin(hint)
    if origin is Annotated:
        member, *own = typing.get_args(hint)
        yield from union_members(member, (*annotations, *own))
    elif origin in (typing.Union, types.UnionType):
        for option in typing.get_args(hint):
            yield from union_members(option, annotations)
    else:
        yield hint, annotations


def is_mapping(member: Any) -> bool:
    """Return whether a member of a union is a mapping."""
    origin = typing.get_origin(member) or member
    return isinstance(origin, type) and issubclass(origin, Mapping)


def has_fields(hint: Any) -> bool:
    """Return whether values of a declared type are groups of fields."""
    return any(dataclasses.is_dataclass(member) or is_mapping(member) for member, _ in union_members(hint))


def entry_hint(hint: Any) -> Any:
    """Return the declared type of the entries of a list; Any if it is not known."""
    entries = [typing.get_args(member)[0] for member, _ in union_members(hint) if typing.get_origin(member) is tuple]
    return entries[0] if entries else Any


def parse(text: str, hint: Any) -> Any:
    """Parse a text as a value of a declared type. Raises ConfigError that says how values of the type are written."""
    try:
        return _parse_union(text, hint)
    except ValueError:
        pass
    if text in _NONE:
        is_text = any(member is str for member, _ in union_members(hint))
        name = f"; a file of this name is ./{text}" if is_text else ""
        raise ConfigError(f"None is for optional fields, and this one needs a value. Fix: write {form(hint)}{name}")
    raise ConfigError(f"expected {form(hint)}")


def _parse_union(text: str, hint: Any) -> Any:
    """Parse a text as the first member of a union that accepts it. Raises ValueError if none does."""
    for member, annotations in sorted(union_members(hint), key=_precedence):
        with contextlib.suppress(ValueError):
            return _parse_member(text, member, annotations)
    return _fail(text)


def _precedence(member: tuple[Any, tuple[Any, ...]]) -> int:
    """Return when a member of a union is tried: "none" can be an option, and every text is a str."""
    declared, _ = member
    is_option = typing.get_origin(declared) is Literal
    return 0 if is_option else 1 if declared is type(None) else 3 if declared is str else 2


def _parse_member(text: str, member: Any, annotations: Sequence[Any]) -> Any:
    if member in _PARSERS:
        return _PARSERS[member](text)
    origin = typing.get_origin(member)
    if origin is Literal:
        options = {str(option): option for option in typing.get_args(member)}
        return options[text] if text in options else _fail(text)
    if text in _NONE:  # is no text and no list
        _fail(text)
    if member is str:
        return _parse_text(text, annotations)
    if origin is tuple:
        return _parse_list(text, member)
    value = _python_value(text)
    return value if isinstance(value, dict) else _fail(text)


def _parse_text(text: str, annotations: Sequence[Any]) -> Any:
    value: Any = _ESCAPE.sub(_unescape, text) if ESCAPES in annotations else text
    for function in filter(callable, annotations):
        value = function(value)
    return value


def _unescape(match: re.Match[str]) -> str:
    if match[1] not in _ESCAPED:
        raise ConfigError(rf"{match[0]} is not an escape; there are \n, \t, \r, and \\ for a backslash")
    return _ESCAPED[match[1]]


def _parse_none(text: str) -> None:
    return None if text in _NONE else _fail(text)


def _parse_bool(text: str) -> bool:
    return _BOOLS[text.lower()] if text.lower() in _BOOLS else _fail(text)


def _parse_int(text: str) -> int:
    with contextlib.suppress(ValueError):
        return int(text, 0)
    try:
        number = Decimal(text)  # 1e6 is how people write a million steps
    except InvalidOperation:
        return _fail(text)
    if not number.is_finite() or number.adjusted() > _LARGEST_EXPONENT or number != number.to_integral_value():
        _fail(text)
    return int(number)


def _parse_any(text: str) -> Any:
    """Parse a Python literal, and true, false and none as typed fields do; any other text is a text."""
    try:
        return _python_value(_LITERALS.get(text, text))
    except ValueError:
        return text


_PARSERS: dict[Any, Callable[[str], Any]] = {
    type(None): _parse_none,
    bool: _parse_bool,
    int: _parse_int,
    float: float,
    Any: _parse_any,
}


def _parse_list(text: str, member: Any) -> tuple[Any, ...]:
    """Parse plain entries such as a,b, or a Python list such as ('a', 'b'); Text keeps its blanks."""
    hint = entry_hint(member)
    if has_fields(hint) or _has_lists(hint) or not _QUOTES_AND_BRACKETS.isdisjoint(text):
        value = _python_value(text)
        entries = value if isinstance(value, list | tuple) else [value]
        return tuple(entries) if has_fields(hint) else convert(member, entries, "entries")
    is_escaped = any(ESCAPES in annotations for _, annotations in union_members(hint))
    plain = [entry if is_escaped else entry.strip() for entry in text.removesuffix(",").split(",")] if text else []
    return tuple(_parse_union(entry, hint) if entry else _fail(text) for entry in plain)


def _has_lists(hint: Any) -> bool:
    return any(typing.get_origin(member) is tuple for member, _ in union_members(hint))


def _python_value(text: str) -> Any:
    """Return the value of a Python literal. Raises ValueError if it is none."""
    try:
        with warnings.catch_warnings(action="error"):  # of escapes that Python does not know
            return ast.literal_eval(text.strip())
    except (SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(text) from error


def _fail(text: str) -> typing.NoReturn:
    raise ValueError(text)


_FORMS = {
    type(None): "None",
    bool: "True or False",
    int: "an integer such as 10 or 1e6",
    float: "a number such as 0.1 or 1e-3",
    str: "a text",
    Any: "True, False, None, a number, another Python literal, or a text",
}


def form(hint: Any) -> str:
    """Return how values of a declared type are written."""
    ordered = sorted(union_members(hint), key=lambda member: member[0] is type(None))
    return ", or ".join(dict.fromkeys(_form_of_member(member) for member, _ in ordered))


def _form_of_member(member: Any) -> str:
    if member in _FORMS:
        return _FORMS[member]
    if typing.get_origin(member) is Literal:
        return ", ".join(option or "an empty text" for option in map(str, typing.get_args(member)))
    if typing.get_origin(member) is tuple:
        hint = entry_hint(member)
        if _has_lists(hint):
            return "a list such as \"[('a', 0.5)]\""
        group = "\"[{'field': 1}]\"" if has_fields(hint) else "a,b or \"['a, b', 'c']\""
        return f"a list such as {({int: '0,1,2', float: '0.1,0.2'}).get(hint, group)}"
    return "a group such as \"{'field': 1}\""
