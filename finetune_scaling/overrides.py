"""Fields of a config that the command line sets: --config.group.field=value.

A field's type is declared by the dataclass that reads the config; for a field that no dataclass declares, it is the
type of the value in the config. The value's text is parsed by that type.
"""

import ast
import contextlib
import dataclasses
import re
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Literal, NamedTuple

from ml_collections import ConfigDict
from ml_collections.config_dict import RequiredValueError

from finetune_scaling.configuration import ESCAPES, OpenBlock, closest, suggestion, type_hints
from finetune_scaling.errors import ConfigError

# .name, [0] or ["name"]
_PART = re.compile(r"""\.?(?P<name>[^.\[\]'"]+)|\[(?P<index>\d+)\]|\[(?P<quote>['"])(?P<key>[^'"\]]+)(?P=quote)\]""")
# Entries of a list: 'quoted' or plain, up to the next comma
_ENTRY = re.compile(r"""\s*(?P<entry>'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|[^,'"()\[\]]*)\s*(?:,|$)""")
_ESCAPE = re.compile(r"\\(.?)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "\\": "\\"}
_BOOLS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
_BRACKETS = {"(": ")", "[": "]"}
_LARGEST_EXPONENT = 18  # of integers such as 1e9


class Override(NamedTuple):
    """A field of a config on the command line.

    flag: name of the config's flag. path: the field. text: its value; None for a boolean flag, with the value `switch`.
    repeated: whether the field was given before; the last value counts.
    """

    flag: str
    path: str
    text: str | None
    switch: bool = True
    repeated: bool = False

    @property
    def name(self) -> str:
        """The field as the command line names it."""
        return f"--{self.flag}.{self.path}"


def take_overrides(arguments: Sequence[str], names: Collection[str]) -> tuple[list[str], list[Override]]:
    """Separate the overrides of the configs with these flag names from the other arguments of a command line.

    The forms are --config.field=value, --config.field value, and for booleans --config.field and --noconfig.field.
    """
    pattern = re.compile(rf"--?(no-?)?({'|'.join(map(re.escape, names))})\.([^=]*)(?:=(.*))?", re.DOTALL)
    others: list[str] = []
    overrides: list[Override] = []
    left = list(arguments)
    while left:
        argument = left.pop(0)
        if argument == "--":  # ends the flags
            return [*others, argument, *left], overrides
        if not names or not (match := pattern.fullmatch(argument)):
            others.append(argument)
            continue
        negated, flag, path, text = match.groups()
        if text is None and not negated and left and not re.match(r"-\D", left[0]):
            text = left.pop(0)
        if text is not None and negated:
            raise ConfigError(f"{argument}: --no{flag} takes no value. Fix: write --{flag}.{path}={text}")
        overrides.append(Override(flag, path, text, switch=not negated))
    return others, overrides


def apply_overrides(config: Any, overrides: Sequence[Override], declared: Any) -> None:
    """Set fields of a config in the order of the command line.

    declared: the dataclass that reads the config. Raises ConfigError that names the field and the form of its values.
    """
    paths = [_parse_path(override) for override in overrides]
    for index, (override, path) in enumerate(zip(overrides, paths, strict=True)):
        for earlier, inside in zip(overrides[:index], paths, strict=False):
            if len(inside) > len(path) and inside[: len(path)] == path:
                raise ConfigError(f"{override.name} would replace {earlier.name}. Fix: give it before, or omit it")
        _set_field(config, declared, path, override._replace(repeated=path in paths[:index]), override.flag)


def _parse_path(override: Override) -> tuple[str | int, ...]:
    """Return the names and indices of a path such as tasks.wmt.test["a"][0]."""
    parts: list[str | int] = []
    path, end = override.path, 0
    while end < len(path) and (match := _PART.match(path, end)) and not (end == 0 and path[0] in ".["):
        parts.append(int(match["index"]) if match["index"] else match["name"] or match["key"])
        end = match.end()
    if end < len(path) or not parts:
        raise ConfigError(f"{override.name} is not the name of a field; write --{override.flag}.group.field=value")
    return tuple(parts)


def _set_field(holder: Any, hint: Any, path: Sequence[str | int], override: Override, where: str) -> Any:
    """Return the group, list or value `holder` with the field `path` of it set."""
    if not path:
        return _parse_value(override, hint)
    if isinstance(holder, list | tuple):
        return _set_entry(holder, hint, path, override, where)
    if holder is None and _has_fields(hint):
        holder = {}
    if not isinstance(holder, Mapping | ConfigDict):
        if holder is None and hint is Any:
            raise ConfigError(f"{override.name}: {where} is empty in this config. Fix: set it in the config file")
        raise ConfigError(f"{override.name}: {where} is no group of fields. Fix: write --{where}=VALUE, {_form(hint)}")
    fields = _Fields.of(hint, holder)
    name = fields.find(str(path[0]), last=len(path) == 1, where=where, override=override)
    value = _set_field(fields.value(name), fields.hint(name), path[1:], override, f"{where}.{name}")
    with _unlocked(holder):
        holder[name] = value  # type: ignore[index]
    return holder


def _set_entry(holder: Any, hint: Any, path: Sequence[str | int], override: Override, where: str) -> Any:
    index = path[0]
    if not isinstance(index, int) or index >= len(holder):
        known = f"0 to {len(holder) - 1}" if holder else "none, it is empty"
        raise ConfigError(f"{override.name}: {where} is a list, whose entries are {where}[N]; N is {known}")
    entries = list(holder)
    entries[index] = _set_field(entries[index], _entry_hint(hint), path[1:], override, f"{where}[{index}]")
    return type(holder)(entries)


@contextlib.contextmanager
def _unlocked(holder: Any) -> Iterator[None]:
    """Let a ConfigDict take new fields and other types: the value has the declared type already."""
    if not isinstance(holder, ConfigDict):
        yield
        return
    with holder.unlocked(), holder.ignore_type():
        yield


@dataclasses.dataclass(frozen=True)
class _Fields:
    """The fields of a group: those that it has, and the types of those that are declared. entries: of a mapping."""

    group: Any
    declared: Mapping[str, Any]
    entries: Any = None

    @classmethod
    def of(cls, hint: Any, group: Any) -> "_Fields":
        """Return the fields of a group of this declared type."""
        declared: dict[str, Any] = {}
        entries = None
        for kind, annotations in _kinds(hint):
            blocks = [annotation for annotation in annotations if isinstance(annotation, OpenBlock)]
            for block in blocks:
                declared |= {**cls.of(block.fields_of(group), group).declared, **block.further}
            if dataclasses.is_dataclass(kind) and _names_kind(kind, group):
                declared |= {**type_hints(kind), **declared}  # type: ignore[arg-type]
            elif _is_mapping(kind) and not blocks:
                entries = (*typing.get_args(kind), Any, Any)[1]
        return cls(group, declared, entries)

    def find(self, name: str, *, last: bool, where: str, override: Override) -> str:
        """Return the name of a field, which may be written with - for _. Raises ConfigError if there is none.

        Entries of a mapping may be added whole.
        """
        known = [*self.group, *(field for field in self.declared if field not in self.group)]
        for spelled in (name, name.replace("-", "_")):
            if spelled in known:
                return spelled
        if self.entries is not None and last:
            return name
        fix = suggestion(name, known) if known else ""
        if self.entries is not None and closest(name, known) is None:
            fix += f". Fix: to add it, write --{where}.{name}=\"{{'field': value}}\""
        raise ConfigError(f"--{where}.{name}: {where} has no such field{fix}")

    def value(self, name: str) -> Any:
        """Return the current value of a field; None if it has none."""
        try:
            return self.group.get(name)
        except RequiredValueError:
            return None

    def hint(self, name: str) -> Any:
        """Return the declared type of a field, else the type of its current value."""
        if name in self.declared:
            return self.declared[name]
        if self.entries not in (None, Any):
            return self.entries
        kind = self.group.get_type(name) if isinstance(self.group, ConfigDict) and name in self.group else None
        if kind is None and self.value(name) is not None:
            kind = type(self.value(name))
        return kind | None if kind in (bool, int, float, str) else Any


def _kinds(hint: Any, annotations: tuple[Any, ...] = ()) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Yield the members of a union, each with its annotations."""
    origin = typing.get_origin(hint)
    if origin is Annotated:
        kind, *own = typing.get_args(hint)
        yield from _kinds(kind, (*annotations, *own))
    elif origin in (typing.Union, types.UnionType):
        for option in typing.get_args(hint):
            yield from _kinds(option, annotations)
    else:
        yield hint, annotations


def _names_kind(kind: Any, group: Any) -> bool:
    """Return whether a group is of this dataclass of a union, by the field `kind` if it has one."""
    return not hasattr(kind, "kind") or group.get("kind") in (None, kind.kind)


def _is_mapping(kind: Any) -> bool:
    origin = typing.get_origin(kind) or kind
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _has_fields(hint: Any) -> bool:
    return any(dataclasses.is_dataclass(kind) or _is_mapping(kind) for kind, _ in _kinds(hint))


def _entry_hint(hint: Any) -> Any:
    entries = [typing.get_args(kind)[0] for kind, _ in _kinds(hint) if typing.get_origin(kind) is tuple]
    return entries[0] if entries else Any


def _parse_value(override: Override, hint: Any) -> Any:
    """Return the value of an override. Raises ConfigError that says how values of this type are written."""
    kinds = sorted(_kinds(hint), key=lambda kind: kind[0] is str)  # every text is a str
    if override.text is None:
        if any(kind in (bool, Any) for kind, _ in kinds):
            return override.switch
        raise ConfigError(f"{override.name} has no value; write {override.name}=VALUE, {_form(hint)}")
    for kind, annotations in kinds:
        try:
            value = _parse(override.text, kind, annotations)
            if override.repeated and isinstance(value, tuple):
                raise ConfigError("given twice. Fix: give one list, with all entries")
            return value
        except ConfigError as error:
            raise ConfigError(f"{override.name}: {error}") from None
        except (ValueError, SyntaxError, InvalidOperation, MemoryError, RecursionError):
            continue
    raise ConfigError(f"{override.name}={override.text}: expected {_form(hint)}")


def _parse(text: str, kind: Any, annotations: Sequence[Any]) -> Any:
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
    if dataclasses.is_dataclass(kind) or _is_mapping(kind):
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
    hint = _entry_hint(kind) if typing.get_origin(kind) is tuple else Any
    if hint is Any or _has_fields(hint) or _has_lists(hint):
        value = ast.literal_eval(text)
        return tuple(value) if isinstance(value, list | tuple) else _fail(text)
    inside = text.strip()
    if inside[:1] in _BRACKETS:
        inside = inside[1:-1] if inside.endswith(_BRACKETS[inside[0]]) else _fail(text)
    return tuple(_parse_entry(entry, hint) for entry in _split_entries(inside.strip()))


def _has_lists(hint: Any) -> bool:
    return any(typing.get_origin(kind) is tuple for kind, _ in _kinds(hint))


def _split_entries(text: str) -> Iterator[str]:
    end = 0
    while end < len(text):
        match = _ENTRY.match(text, end)
        if match is None or not match["entry"].strip():
            _fail(text)
        yield match["entry"].strip()
        end = match.end()


def _parse_entry(text: str, hint: Any) -> Any:
    for kind, annotations in _kinds(hint):
        with contextlib.suppress(ValueError, InvalidOperation):
            if text[0] in "'\"":
                value = ast.literal_eval(text)
                return _parse(value, kind, [note for note in annotations if note != ESCAPES])
            return _parse(text, kind, annotations)
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


def _form(hint: Any) -> str:
    """Return how values of a declared type are written."""
    kinds = sorted(_kinds(hint), key=lambda kind: kind[0] is type(None))
    return ", or ".join(dict.fromkeys(_form_of_kind(kind) for kind, _ in kinds))


def _form_of_kind(kind: Any) -> str:
    if kind in _FORMS:
        return _FORMS[kind]
    if typing.get_origin(kind) is Literal:
        return ", ".join(option or "an empty text" for option in map(str, typing.get_args(kind)))
    if typing.get_origin(kind) is tuple:
        hint = _entry_hint(kind)
        if _has_lists(hint):
            return "a list such as \"[('a', 0.5)]\""
        group = "\"[{'field': 1}]\"" if _has_fields(hint) else "a,b"
        return f"a list such as {({int: '0,1,2', float: '0.1,0.2'}).get(hint, group)}"
    return "a group such as \"{'field': 1}\""
