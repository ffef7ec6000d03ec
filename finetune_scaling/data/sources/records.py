"""Records of a source with random access, and their text fields."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

import numpy as np

from finetune_scaling.configuration import suggestion
from finetune_scaling.data.data_cache import Entry, cached, is_large
from finetune_scaling.errors import DataError
from finetune_scaling.text_lines import is_blank

T = TypeVar("T")
Record = dict[str, Any]
OnEmpty = Literal["error", "drop"]  # what to do with records that have an empty or blank text

log = logging.getLogger(__name__)


class LazySequence(Sequence[T]):
    """`size` items, each made by `item(index)` when it is read."""

    def __init__(self, size: int, item: Callable[[int], T]):
        self._indices, self._item = range(size), item

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> T:  # type: ignore[override]
        return self._item(self._indices[index])


class Records(LazySequence[Record]):
    """`size` records, each made by `item(index)` when it is read.

    where: location of a record for error messages, such as a file and line. dropped: records that were left out because
    a text is empty. identity: plain data that determines the records before any are left out; None where it is unknown.
    """

    def __init__(
        self,
        size: int,
        item: Callable[[int], Record],
        where: Callable[[int], str],
        dropped: int = 0,
        identity: Mapping[str, Any] | None = None,
    ):
        super().__init__(size, item)
        self._where, self.dropped, self.identity = where, dropped, identity

    def where(self, index: int) -> str:
        """Return the location of a record for error messages."""
        return self._where(self._indices[index])

    def select(self, indices: np.ndarray) -> "Records":
        """Return the records at these indices, int64[n]; the others count as dropped."""
        return Records(
            len(indices),
            lambda index: self[int(indices[index])],
            lambda index: self.where(int(indices[index])),
            len(self) - len(indices),
            self.identity,
        )


def text_field(record: Mapping[str, Any], field: str, where: str) -> str:
    """Return the text in `field` of a record; "translation.de" is `record["translation"]["de"]`, or that key.

    Raises DataError that begins with `where` (a file and line, or a dataset and index) if it is missing, not text or
    blank.
    """
    text = _any_text(record, field, where)
    if is_blank(text):
        raise DataError(
            f"{where}: field {field!r} is empty or null; fix or remove that record, or set the source's field "
            "on_empty to 'drop' to leave out such records (--config.task.sources.on_empty=drop for a task)"
        )
    return text


def _any_text(record: Mapping[str, Any], field: str, where: str) -> str:
    """Return the text in `field` of a record, which may be blank; null is an empty text."""
    value = _value(record, field, where)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"{where}: field {field!r} must be text, not {value!r:.40}; convert or remove that record")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DataError(
            f"{where}: field {field!r} is not valid Unicode (a lone surrogate); fix or remove that record"
        ) from None
    return value


def _value(record: Mapping[str, Any], field: str, where: str) -> Any:
    """Return the value of a field, whose dots separate the keys of nested groups or belong to a key."""
    names = field.split(".")
    if len(names) == 1 and field in record:  # the usual case, several times as fast
        return record[field]
    found = list(_readings(record, names))
    if len(found) == 1:
        return found[0][1]
    if found:
        first, second = (" in ".join(repr(key) for key in reversed(keys)) for keys, _ in found[:2])
        raise DataError(f"{where}: field {field!r} is both the key {first} and the key {second}; rename one of them")
    for depth in range(1, len(names)):
        for _, value in _readings(record, names[:depth]):
            if not isinstance(value, Mapping):
                raise DataError(
                    f"{where}: field {field!r}: expected a group of fields in {'.'.join(names[:depth])!r}, not "
                    f"{value!r:.40}; correct the field's name"
                )
    if not record:
        raise DataError(f"{where}: no field {field!r}, as the record is empty; fix or remove it")
    for key, value in record.items():
        if isinstance(value, list) and any(isinstance(entry, Mapping) for entry in value):
            raise DataError(
                f"{where}: no field {field!r}, but a list of objects in {key!r}; if these are the records, write each "
                f"on its own line, for example with `jq -c '.[\"{key}\"][]' FILE > converted.jsonl`"
            )
    raise DataError(f"{where}: no field {field!r}{suggestion(field, list(dict.fromkeys(_fields(record))))}")


def _readings(value: Any, names: Sequence[str]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the keys and the value of every path along `names`, where a key may consist of several names with dots."""
    if not names:
        yield (), value
    elif isinstance(value, Mapping):
        for end in range(1, len(names) + 1):
            if (key := ".".join(names[:end])) in value:
                yield from (((key, *keys), found) for keys, found in _readings(value[key], names[end:]))


def _fields(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of a record's fields, those of nested records with dots."""
    for key, value in record.items():
        yield from (f"{key}.{name}" for name in _fields(value)) if value and isinstance(value, Mapping) else (key,)


def optional_number(record: Mapping[str, Any], field: str, where: str) -> float | None:
    """Return the number in a field, or None if it is missing or null. Raises DataError like `text_field`."""
    value = record.get(field)
    try:
        number = None if value is None else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or (number is not None and not math.isfinite(number)):
        raise DataError(f"{where}: field {field!r} must be a finite number, not {value!r:.40}; fix or remove it")
    return number


def check_texts(records: Records, fields: Sequence[str], name: str, on_empty: OnEmpty, *, all_records: bool) -> Records:
    """Return the records; with `on_empty="drop"` without those that have a blank text in one of `fields`.

    Raises DataError if there are no records, or if the first one (`all_records`: any) lacks text in one of `fields`.
    """
    if not len(records):
        raise DataError(f"{name} is empty; choose another split or prepare it again")
    drop = on_empty == "drop"
    checked = len(records) if all_records or (drop and fields) else 1
    blank = _find_blank(records, checked, fields, drop)
    if not len(blank):
        return records
    kept = records.select(np.delete(np.arange(len(records)), blank))
    log.warning("%s: %d of %d records have an empty text and are dropped", name, len(blank), len(records))
    if not len(kept):
        raise DataError(f"{name}: every record has an empty text in {', '.join(fields)}; choose other fields or data")
    return kept


def _find_blank(records: Records, count: int, fields: Sequence[str], drop: bool) -> np.ndarray:
    """Check the texts of the first records unless they are known; return the indices of those that are dropped."""

    def find() -> Entry:
        blank = [index for index in range(count) if _has_blank(records, index, fields, drop)]
        return Entry(None, {"blank": np.array(blank, np.int64)})

    if records.identity is None or not is_large(count):
        return find().arrays["blank"]
    key = {"records": records.identity, "count": count, "fields": fields, "drop": drop}
    return cached("checked", key, find).arrays["blank"]


def _has_blank(records: Records, index: int, fields: Sequence[str], drop: bool) -> bool:
    """Check a record's texts; return whether one is blank if such records are dropped."""
    record, where = records[index], records.where(index)
    read = _any_text if drop else text_field
    return any(is_blank(read(record, field, where)) for field in fields)
