"""Text sources: four kinds of records behind one small interface, random access and deterministic.

A source is described by a frozen dataclass (a few scalars, so that a config can hold it) and opened with `open_source`,
which gives a sequence of records: `len(source)`, `source[i] -> dict`. Record i is always the same record.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_scaling import configuration
from finetune_scaling.data.sources.debian import DebianSource, DebianSplit, open_debian, prepare_debian
from finetune_scaling.data.sources.files_source import FilesSource, open_files
from finetune_scaling.data.sources.grammar_source import GrammarSource, GrammarSplit, open_grammar
from finetune_scaling.data.sources.tfds_source import TfdsSource, open_tfds, prepare_tfds

__all__ = [
    "DebianSource",
    "DebianSplit",
    "FilesSource",
    "GrammarSource",
    "GrammarSplit",
    "Source",
    "TfdsSource",
    "open_source",
    "prepare_source",
    "source_from_config",
]

Source = FilesSource | TfdsSource | DebianSource | GrammarSource

_KINDS: dict[str, tuple[type, Any]] = {
    "files": (FilesSource, open_files),
    "tfds": (TfdsSource, open_tfds),
    "debian": (DebianSource, open_debian),
    "grammar": (GrammarSource, open_grammar),
}

SOURCE_KINDS = tuple(_KINDS)


def source_from_config(mapping: Mapping[str, Any], where: str) -> Source:
    """Builds the source that `mapping["kind"]` names (files, tfds, debian, grammar); ConfigError for a wrong field."""
    kind, _ = configuration.choose(_KINDS, mapping.get("kind", ""), f"{where}.kind")
    return configuration.build(kind, mapping, where)


def open_source(source: Source, fields: Sequence[str] = ()) -> Sequence[dict[str, Any]]:
    """Opens a source as a sequence of records, each holding text in every one of `fields`.

    A dot in a field name enters a nested record: "translation.de". DataError where the source is absent or damaged, or
    a field is missing or is no text.
    """
    _, open_kind = _KINDS[source.kind]
    return open_kind(source, tuple(fields))


def prepare_source(source: Source) -> dict[str, Any]:
    """Downloads and prepares a source where it needs that; returns what is there now, for the log."""
    if isinstance(source, TfdsSource):
        return prepare_tfds(source)
    if isinstance(source, DebianSource):
        return prepare_debian(source)
    return {"source": str(source), "examples": len(open_source(source))}
