"""Conversion of config mappings to frozen dataclasses, with checks of field names and types.

Config files build ml_collections ConfigDicts. Each module takes its own block as a frozen dataclass, which is hashable
and so can key a cache of compiled functions.
"""

import dataclasses
import difflib
import functools
import json
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, TypeVar

import ml_collections

from finetune_scaling.errors import ConfigError

T = TypeVar("T")
ESCAPES = "backslash escapes on the command line"
Text = Annotated[str, ESCAPES]  # a field of text, in which the command line writes \\n for a newline


@dataclasses.dataclass(frozen=True, eq=False)
class FieldTypes:
    """Annotation of a mapping with the names and types of its fields, which another module reads; overrides use it.

    fields_of: returns the dataclass, or the union of dataclasses, of a block. further: types of its other fields.
    """

    fields_of: Callable[[Mapping[str, Any]], Any]
    further: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def build(cls: type[T], mapping: Mapping[str, Any], where: str) -> T:
    """Build the dataclass `cls` from `mapping`, including nested dataclasses, tuples and unions.

    Raises ConfigError that names the field (`where.field`) if one is unknown, missing or of the wrong type.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for name in mapping:
        if name not in fields:
            shown = name or "''"
            raise ConfigError(f"{where}.{shown} is not a field of {where}{suggestion(name, fields)}")
    hints = type_hints(cls)  # type: ignore[arg-type]
    values = {name: convert(hints[name], value, f"{where}.{name}") for name, value in mapping.items()}
    missing = [name for name, field in fields.items() if name not in values and _is_required(field)]
    if missing:
        raise ConfigError(f"{where}.{missing[0]} is missing; give it a value")
    return cls(**values)


def convert(hint: Any, value: Any, where: str) -> Any:
    """Convert a value of a config to a declared type. Raises ConfigError that names the field `where`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return plain(value)
    if origin is Annotated:
        return _convert_annotated(arguments, value, where)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(arguments, value, where)
    if origin is typing.Literal:
        if value not in arguments:
            raise ConfigError(f"{where} = {value!r} is unknown{suggestion(value, map(str, arguments))}")
        return value
    if origin is tuple:
        return _convert_tuple(arguments, value, where)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _convert_mapping(arguments, value, where)
    if dataclasses.is_dataclass(hint):
        if isinstance(value, hint):  # type: ignore[arg-type]
            return value
        if not isinstance(value, Mapping | ml_collections.ConfigDict):
            raise ConfigError(f"{where} must be a group of fields, not {value!r}")
        return build(hint, value, where)  # type: ignore[arg-type]
    return _convert_scalar(hint, value, where)


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return the end of an error about an unknown name: the closest known name, or all of them."""
    known = [name if name != "" else "''" for name in known]
    close = closest(name, known)
    return f"; choose one of {', '.join(map(str, known))}" if close is None else f"; did you mean {close!r}?"


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that an unknown one most resembles; None if it resembles none."""
    return next(iter(difflib.get_close_matches(str(name), list(known), n=1)), None)


def choose(table: Mapping[str, T], name: str, where: str) -> T:
    """Return table[name]. Raises ConfigError that suggests a known name if `name` is unknown."""
    if name not in list(table):  # it may be a list, which has no hash
        raise ConfigError(f"{where} = {name!r} is unknown{suggestion(name, table)}")
    return table[name]


def check_at_least(block: Any, names: Iterable[str], minimum: int, where: str = "") -> None:
    """Raise ConfigError if one of these fields of a dataclass is set and below `minimum`."""
    for name in names:
        value = getattr(block, name)
        if value is not None and value < minimum:
            raise ConfigError(f"{where}{name} = {value} must be at least {minimum}")


def plain(value: Any) -> Any:
    """Return a config as JSON-like data: dicts, lists and scalars only."""
    if isinstance(value, ml_collections.FieldReference):
        return plain(value.get())
    if isinstance(value, ml_collections.ConfigDict):
        return {key: plain(value[key]) for key in value}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return value


def without_unset(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Return `mapping` as plain data without None fields and groups of nothing else (unset placeholders).

    A group that has no field is a value, and stays.
    """
    values = plain(mapping)
    kept = {key: without_unset(value) if isinstance(value, Mapping) else value for key, value in values.items()}
    return {key: value for key, value in kept.items() if value is not None and (value != {} or values[key] == {})}


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `changes`: groups of fields are merged, all other values replaced."""
    merged = dict(base)
    for name, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = merge(merged[name], value) if both else value
    return merged


def equal(left: Any, right: Any) -> bool:
    """Return whether two configs have equal fields, whatever their container types."""
    return canonical_json(left) == canonical_json(right)


def canonical_json(value: Any) -> str:
    """Return a config as sorted JSON, which is the same text for equal configs."""
    return json.dumps(plain(value), sort_keys=True, ensure_ascii=False)


def differing_fields(left: Any, right: Any) -> list[str]:
    """Return the dotted names of the fields in which two configs differ; None and missing are equal."""
    flat_left, flat_right = _flatten(plain(left)), _flatten(plain(right))
    return sorted(k for k in flat_left.keys() | flat_right.keys() if flat_left.get(k) != flat_right.get(k))


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping) or not value:
        return {prefix: value}
    return {
        name: leaf
        for key, entry in value.items()
        for name, leaf in _flatten(entry, f"{prefix}.{key}" if prefix else str(key)).items()
    }


@functools.cache
def type_hints(cls: type) -> dict[str, Any]:
    """Return the types of a dataclass's fields, with their annotations."""
    return typing.get_type_hints(cls, include_extras=True)  # slow, and called for each of thousands of runs


def _is_required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _convert_annotated(arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    """Convert a value of an annotated type, and apply the annotations that are functions."""
    kind, *annotations = arguments
    value = convert(kind, value, where)
    for function in filter(callable, annotations):
        try:
            value = function(value)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
    return value


def _convert_union(options: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in options:
        return None
    options = _of_kind(options, value, where)
    errors = []
    for option in options:
        if option is type(None):
            continue
        try:
            return convert(option, value, where)
        except ConfigError as error:
            errors.append(error)
    raise errors[0]


def _of_kind(options: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    """Return the dataclass whose field `kind` the mapping names; all options if they have no such field."""
    kinds = {kind.kind: kind for kind in options if dataclasses.is_dataclass(kind) and hasattr(kind, "kind")}
    if not kinds or not isinstance(value, Mapping | ml_collections.ConfigDict):
        return options
    return (choose(kinds, value.get("kind", ""), f"{where}.kind"),)


def _convert_tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ConfigError(f"{where} must be a list, not {value!r}")
    values = list(value)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(convert(arguments[0], entry, f"{where}[{i}]") for i, entry in enumerate(values))
    if len(values) != len(arguments):
        raise ConfigError(f"{where} must have {len(arguments)} entries, not {len(values)}")
    return tuple(
        convert(hint, entry, f"{where}[{i}]") for i, (hint, entry) in enumerate(zip(arguments, values, strict=True))
    )


def _convert_mapping(arguments: tuple[Any, ...], value: Any, where: str) -> dict:
    if not isinstance(value, Mapping | ml_collections.ConfigDict):
        raise ConfigError(f"{where} must be a group of fields, not {value!r}")
    hint = arguments[1] if arguments else Any
    return {str(key): _convert_entry(hint, value[key], f"{where}.{key}") for key in value}


def _convert_entry(hint: Any, value: Any, where: str) -> Any:
    """Convert an entry of a mapping. Raises ConfigError that names the entry, which a dataclass does not know."""
    try:
        return convert(hint, value, where)
    except ConfigError as error:
        if where in str(error):
            raise
        raise ConfigError(f"{where}: {error}") from error


def _convert_scalar(cls: Any, value: Any, where: str) -> Any:
    if value is None:
        raise ConfigError(f"{where} is missing; give it a value")
    if cls is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if cls is int and isinstance(value, float) and value.is_integer():
        return int(value)  # 1e6 is how people write a million steps
    if not isinstance(value, cls) or (isinstance(value, bool) and cls is not bool):
        raise ConfigError(
            f"{where} = {value!r} has the wrong type: expected {cls.__name__}, got {type(value).__name__}"
        )
    return value
