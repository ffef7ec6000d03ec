"""The artificial languages of data/grammar as a source: text generated from a seed when it is read."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from finetune_scaling.data.grammar.config import GrammarConfig
from finetune_scaling.data.grammar.lexicon import TYPOLOGIES, make_grammar
from finetune_scaling.data.grammar.records import monolingual_record, summarization_record, translation_record
from finetune_scaling.data.sources.records import Records
from finetune_scaling.errors import ConfigError


@dataclass(frozen=True)
class GrammarSource:
    """A split of the artificial language family: sentence pairs, documents with summaries, or plain text.

    languages: (source, target) for translation, one for summarization, any number for monolingual text.
    bilingual_share: share of monolingual records that are a sentence and its translation.
    """

    dataset: Literal["translation", "summarization", "monolingual"]
    split: Literal["train", "dev", "test"]
    size: int
    languages: tuple[str, ...]
    bilingual_share: float = 0.0
    grammar: GrammarConfig = field(default_factory=GrammarConfig)
    kind: Literal["grammar"] = "grammar"

    def __post_init__(self) -> None:
        needed = {"translation": 2, "summarization": 1}.get(self.dataset, max(1, len(self.languages)))
        if len(self.languages) != needed or len(set(self.languages) & TYPOLOGIES.keys()) != needed:
            known = ", ".join(TYPOLOGIES)
            raise ConfigError(
                f"languages = {self.languages}: {self.dataset} needs {needed} different ones of {known}. "
                f"Fix: set languages = {tuple(TYPOLOGIES)[:needed]}, for example"
            )
        if self.size < 1:
            raise ConfigError(f"size = {self.size} of a grammar source must be at least 1")
        largest_share = 1 if len(self.languages) > 1 else 0
        if not 0 <= self.bilingual_share <= largest_share:
            raise ConfigError(f"bilingual_share = {self.bilingual_share} must be from 0 to {largest_share}")

    def __str__(self) -> str:
        return f"grammar {self.dataset} {'-'.join(self.languages)}, split {self.split!r}"


def open_grammar(source: GrammarSource, fields: Sequence[str] = ()) -> Records:
    """Open a split of `source.size` records."""
    makers: dict[str, Callable[..., dict[str, Any]]] = {
        "translation": translation_record,
        "summarization": summarization_record,
        "monolingual": functools.partial(monolingual_record, bilingual_share=source.bilingual_share),
    }
    grammar = make_grammar(source.grammar)
    languages = [grammar.languages[name] for name in source.languages]
    make = functools.partial(makers[source.dataset], grammar, languages, source.split)
    return Records(source.size, make, lambda index: f"{source}, record {index}")
