"""Fields of a config that the command line sets: --config.group.field=value.

A field's type is declared by the dataclass that reads the config; for a field that no dataclass declares, it is the
type of the value in the config. The value's text is parsed by that type.
"""

import contextlib
import dataclasses
import re
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict
from ml_collections.config_dict import RequiredValueError

from finetune_scaling.configuration import FieldTypes, closest, suggestion, type_hints
from finetune_scaling.errors import ConfigError
from finetune_scaling.typed_values import entry_hint, form, has_fields, is_mapping, parse, union_members

# .name, [0] or ["name"]
_PART = re.compile(r"""\.?(?P<name>[^.\[\]'"]+)|\[(?P<index>\d+)\]|\[(?P<quote>['"])(?P<key>.+?)(?P=quote)\]""")
_PATH = r"""(?:\["[^"]+"\]|\['[^']+'\]|[^=])*"""  # a = that is not in quotes ends it
_SELECTORS = ("kind", "name")  # fields that can determine which others their group has, in the order they are set


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
    pattern = re.compile(rf"--?(no-?)?({'|'.join(map(re.escape, names))})\.({_PATH})(?:=(.*))?", re.DOTALL)
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
    """Set fields of a config: groups before their fields, and in a group first those that determine its other fields.

    declared: the dataclass that reads the config. Raises ConfigError that names the field and the form of its values.
    """
    given = [(_parse_path(override), override) for override in overrides]
    for index, (path, override) in enumerate(given):
        for inside, earlier in given[:index]:
            if len(inside) > len(path) and inside[: len(path)] == path:
                raise ConfigError(f"{override.name} would replace {earlier.name}. Fix: give it before, or omit it")
    done = []
    for path, override in sorted(given, key=lambda entry: _precedence(entry[0])):
        _set_field(config, declared, path, override._replace(repeated=path in done), override.flag)
        done.append(path)


def _precedence(path: Sequence[str | int]) -> tuple[int, int]:
    return len(path), _SELECTORS.index(path[-1]) if path[-1] in _SELECTORS else len(_SELECTORS)


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
    if holder is None and has_fields(hint):
        holder = {}
    if not isinstance(holder, Mapping | ConfigDict):
        if holder is None and hint is Any:
            raise ConfigError(f"{override.name}: {where} is empty in this config. Fix: set it in the config file")
        raise ConfigError(f"{override.name}: {where} is no group of fields. Fix: write --{where}=VALUE, {form(hint)}")
    fields = _Fields.of(hint, holder)
    name = fields.find(str(path[0]), last=len(path) == 1, where=where)
    value = _set_field(fields.value(name), fields.hint(name), path[1:], override, f"{where}.{name}")
    _assign(fields, hint, name, value, override)
    return holder


def _assign(fields: "_Fields", hint: Any, name: str, value: Any, override: Override) -> None:
    """Set a field of a group. If its name or kind then has other fields, those of the previous one are removed."""
    group, before = fields.group, fields.value(name)
    with _unlocked(group):
        try:
            group[name] = value
        except ValueError as error:
            raise ConfigError(f"{override.name}: names in a config have no dots. Fix: write _ instead") from error
        if name in _SELECTORS and before not in (None, value) and _Fields.of(hint, group).declared != fields.declared:
            for other in set(group) - {name}:
                del group[other]


def _set_entry(holder: Any, hint: Any, path: Sequence[str | int], override: Override, where: str) -> Any:
    index = path[0]
    if not isinstance(index, int) or index >= len(holder):
        known = f"0 to {len(holder) - 1}" if holder else "none, it is empty"
        raise ConfigError(f"{override.name}: {where} is a list, whose entries are {where}[N]; N is {known}")
    entries = list(holder)
    entries[index] = _set_field(entries[index], entry_hint(hint), path[1:], override, f"{where}[{index}]")
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
        """Return the fields of a group of this declared type; of a union, those of the member of the group's kind."""
        declared: dict[str, Any] = {}
        entries = None
        for member, annotations in union_members(hint):
            blocks = [annotation for annotation in annotations if isinstance(annotation, FieldTypes)]
            for block in blocks:
                declared |= {**cls.of(block.fields_of(group), group).declared, **block.further}
            if dataclasses.is_dataclass(member):
                hints = type_hints(member)  # type: ignore[arg-type]
                if "kind" in hints:
                    declared["kind"] = declared.get("kind", hints["kind"]) | hints["kind"]
                    hints = hints if group.get("kind") in (None, *typing.get_args(hints["kind"])) else {}
                declared = {**hints, **declared}
            elif is_mapping(member) and not blocks:
                entries = (*typing.get_args(member), Any, Any)[1]
        return cls(group, declared, entries)

    def find(self, name: str, *, last: bool, where: str) -> str:
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
            fix += f". Fix: to add it, write --{where}.{name}=VALUE, {form(self.entries)}"
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


def _parse_value(override: Override, hint: Any) -> Any:
    """Return the value of an override. Raises ConfigError that says how values of this type are written."""
    if override.text is None:
        if any(member in (bool, Any) for member, _ in union_members(hint)):
            return override.switch
        raise ConfigError(f"{override.name} has no value; write {override.name}=VALUE, {form(hint)}")
    try:
        value = parse(override.text, hint)
    except ConfigError as error:
        raise ConfigError(f"{override.name}={override.text}: {error}") from None
    if override.repeated and isinstance(value, tuple):
        raise ConfigError(f"{override.name} is given twice. Fix: give one list, with all entries")
    return value
