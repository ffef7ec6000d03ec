"""Text sources: four kinds of records with one interface, random access and deterministic.

A source is described by a frozen dataclass of scalars, which a config can contain. `open_source` returns its sequence
of records: `len(records)`, `records[i] -> dict`. Record i is always the same record.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from finetune_scaling import configuration
from finetune_scaling.data.sources.files_source import FilesSource, open_files
from finetune_scaling.data.sources.grammar_source import GrammarSource, open_grammar
from finetune_scaling.data.sources.records import Records, check_texts
from finetune_scaling.data.sources.tfds_source import DebianSource, TfdsSource, open_tfds, prepare_tfds

Source = FilesSource | TfdsSource | DebianSource | GrammarSource
SourceBlock = Annotated[Mapping[str, Any], configuration.FieldTypes(lambda _: Source)]

SOURCE_KINDS: dict[str, tuple[type, Any]] = {
    "files": (FilesSource, open_files),
    "tfds": (TfdsSource, open_tfds),
    "debian": (DebianSource, open_tfds),
    "grammar": (GrammarSource, open_grammar),
}


def source_from_config(mapping: Mapping[str, Any], where: str) -> Source:
    """Build a source of kind `mapping["kind"]`. Raises ConfigError for wrong fields."""
    kind, _ = configuration.choose(SOURCE_KINDS, mapping.get("kind", ""), f"{where}.kind")
    return configuration.build(kind, mapping, where)


def open_source(source: Source, fields: Sequence[str] = ()) -> Records:
    """Open a source as a sequence of records that have text in every one of `fields`.

    All records of files are checked; of other sources the first one, and the others when `text_field` reads them (all,
    if records with an empty text are dropped). A dot in a field name accesses a nested record or belongs to a key:
    "translation.de". Raises DataError if the source is missing or damaged, or a field is missing, not text or
    empty.
    """
    _, open_kind = SOURCE_KINDS[source.kind]
    on_empty = "error" if isinstance(source, GrammarSource) else source.on_empty
    is_file = isinstance(source, FilesSource)
    return check_texts(open_kind(source, tuple(fields)), fields, str(source), on_empty, all_records=is_file)


def prepare_source(source: Source) -> dict[str, Any]:
    """Download and prepare a source if necessary; return its contents for the log."""
    if isinstance(source, TfdsSource | DebianSource):
        return prepare_tfds(source)
    return {"source": str(source), "examples": len(open_source(source))}
