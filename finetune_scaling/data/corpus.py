"""Pretraining text: sources mixed in stated shares."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from finetune_scaling.configuration import canonical_json
from finetune_scaling.data.sources import open_source, source_from_config
from finetune_scaling.data.sources.records import text_field
from finetune_scaling.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class CorpusPart:
    """One source of text. weight: its share of the documents, relative to the other parts'; 0 takes all of it."""

    source: Mapping[str, Any]
    field: str = "text"
    weight: float = 0.0


@dataclasses.dataclass(frozen=True)
class CorpusConfig:
    """What to pretrain on, and the held-out text that its loss is measured on.

    prepared: directory that `prepare shards` made of `train`; training reads it instead of the text. None: the text.
    """

    train: tuple[CorpusPart, ...]
    dev: tuple[CorpusPart, ...]
    prepared: str | None = None

    def __post_init__(self) -> None:
        for name in ("train", "dev"):
            parts = getattr(self, name)
            if not parts:
                raise ConfigError(f"corpus.{name} is empty; give it at least one part")
            for i, part in enumerate(parts):
                if not 0 <= part.weight < math.inf:
                    raise ConfigError(f"corpus.{name}[{i}].weight = {part.weight} must be at least 0")
            if len({part.weight > 0 for part in parts}) > 1:
                raise ConfigError(f"corpus.{name}: give every part a weight above 0, or none of them")
        if canonical_json(self.train) == canonical_json(self.dev):
            raise ConfigError("corpus.dev is the same text as corpus.train; hold some text out")


class CorpusPartTexts(Sequence[str]):
    """All texts of one part; `where` names it in errors."""

    def __init__(self, part: CorpusPart, where: str):
        self._records = open_source(source_from_config(part.source, f"{where}.source"), (part.field,))
        self._field = part.field

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        return text_field(self._records[index], self._field, f"record {index}")


class Texts(Sequence[str]):
    """The texts of a corpus. With weights, each part gives its first documents, as many as keep the shares exact."""

    def __init__(self, parts: Sequence[CorpusPart], where: str = "corpus"):
        self._parts = [CorpusPartTexts(part, f"{where}[{i}]") for i, part in enumerate(parts)]
        self.counts = _shares([len(texts) for texts in self._parts], parts, where)

    def __len__(self) -> int:
        return sum(self.counts)

    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        index = range(len(self))[index]
        for texts, count in zip(self._parts, self.counts, strict=True):
            if index < count:
                return texts[index]
            index -= count
        raise IndexError(index)


def document_counts(parts: Sequence[CorpusPart], where: str = "corpus") -> list[int]:
    """How many documents each part gives, as in `Texts`; opens one part at a time, so that memory holds one."""
    return _shares([len(CorpusPartTexts(part, f"{where}[{i}]")) for i, part in enumerate(parts)], parts, where)


def _shares(sizes: Sequence[int], parts: Sequence[CorpusPart], where: str) -> list[int]:
    if not any(part.weight for part in parts):
        return list(sizes)
    total = min(size / part.weight for size, part in zip(sizes, parts, strict=True))
    counts = [int(total * part.weight) for part in parts]
    for i, (count, size, part) in enumerate(zip(counts, sizes, parts, strict=True)):
        if not count:
            raise ConfigError(
                f"{where}[{i}].weight = {part.weight} gives none of its {size} documents; raise it, give the parts "
                "with larger weights more text, or leave this one out"
            )
    return counts
