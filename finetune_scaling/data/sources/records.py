"""Sequences of records, and access to their fields with errors that name the record and the field."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from finetune_scaling.configuration import suggestion
from finetune_scaling.errors import DataError

T = TypeVar("T")


class LazySequence(Sequence[T]):
    """`size` items, each made by `item(index)` when it is read."""

    def __init__(self, size: int, item: Callable[[int], T]):
        self._indices, self._item = range(size), item

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> T:  # type: ignore[override]
        return self._item(self._indices[index])


def text_field(record: Mapping[str, Any], field: str, where: str) -> str:
    """Return the text in `field` of a record; "translation.de" is `record["translation"]["de"]`.

    Raises DataError that begins with `where` (a file and line, or a dataset and index).
    """
    value: Any = record
    for name in field.split("."):
        if not isinstance(value, Mapping):
            raise DataError(
                f"{where}: field {field!r}: expected a group of fields, not {value!r:.40}; correct the field's name"
            )
        if name not in value:
            raise DataError(f"{where}: no field {field!r}{suggestion(name, value)}")
        value = value[name]
    if not isinstance(value, str):
        raise DataError(f"{where}: field {field!r} must be text, not {value!r:.40}; convert or remove that record")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DataError(
            f"{where}: field {field!r} is not valid Unicode (a lone surrogate); fix or remove that record"
        ) from None
    return value


def optional_number(record: Mapping[str, Any], field: str, where: str) -> float | None:
    """Return the number in a field, or None if it is missing or null. Raises DataError like `text_field`."""
    value = record.get(field)
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        raise DataError(f"{where}: field {field!r} must be a number, not {value!r:.40}; fix or remove it") from None


def check_first_record(records: Sequence[Mapping[str, Any]], fields: Sequence[str], where: str) -> None:
    """Raise DataError if there are no records or the first one lacks text in one of `fields`."""
    if not len(records):
        raise DataError(f"{where} is empty; choose another split or prepare it again")
    for field in fields:
        text_field(records[0], field, f"{where}, record 0")
