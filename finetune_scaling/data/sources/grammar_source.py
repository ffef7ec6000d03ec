"""The artificial languages of data/grammar as a source: text generated from a seed when it is read."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from finetune_scaling.data import grammar
from finetune_scaling.data.grammar import GrammarConfig
from finetune_scaling.data.sources.records import check_first_record
from finetune_scaling.errors import ConfigError


@dataclass(frozen=True)
class GrammarSource:
    """A split of the artificial language family: sentence pairs, documents with summaries, or plain text.

    languages: (source, target) for translation, one for summarization, any number for monolingual text.
    """

    dataset: Literal["translation", "summarization", "monolingual"]
    split: Literal["train", "dev", "test"]
    size: int
    languages: tuple[str, ...]
    bilingual_share: float = 0.0  # share of monolingual records that are a sentence and its translation
    grammar: GrammarConfig = field(default_factory=GrammarConfig)
    kind: Literal["grammar"] = "grammar"

    def __post_init__(self) -> None:
        needed = {"translation": 2, "summarization": 1}.get(self.dataset, len(self.languages) or 1)
        if len(self.languages) != needed:
            raise ConfigError(f"languages = {self.languages}: a grammar {self.dataset} source has {needed}")
        if self.size < 1:
            raise ConfigError(f"size = {self.size} of a grammar source must be at least 1")

    def __str__(self) -> str:
        return f"grammar {self.dataset} {'-'.join(self.languages)}, split {self.split!r}"


def open_grammar(source: GrammarSource, fields: Sequence[str] = ()) -> Sequence[dict[str, Any]]:
    """Open a split of `source.size` records. Raises DataError if they lack one of `fields`."""
    records = _records(source)
    check_first_record(records, fields, str(source))
    return records


def _records(source: GrammarSource) -> Sequence[dict[str, Any]]:
    if source.dataset == "translation":
        first, second = source.languages
        return grammar.translation_source(source.grammar, first, second, source.split, source.size)
    if source.dataset == "summarization":
        return grammar.summarization_source(source.grammar, source.languages[0], source.split, source.size)
    return grammar.monolingual_source(
        source.grammar, source.languages, source.size, source.bilingual_share, source.split
    )
