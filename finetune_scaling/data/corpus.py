"""Pretraining text: sources mixed in stated shares."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from finetune_scaling.configuration import canonical
from finetune_scaling.data.sources import open_source, source_from_config
from finetune_scaling.data.sources.records import field_text
from finetune_scaling.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class CorpusPart:
    """One source of text. weight: its share of the documents, relative to the other parts'; 0 takes all of it."""

    source: Mapping[str, Any]
    field: str = "text"
    weight: float = 0.0


@dataclasses.dataclass(frozen=True)
class CorpusConfig:
    """What to pretrain on, and the held-out text that its loss is measured on."""

    train: tuple[CorpusPart, ...]
    dev: tuple[CorpusPart, ...]

    def __post_init__(self) -> None:
        for name in ("train", "dev"):
            parts = getattr(self, name)
            if not parts:
                raise ConfigError(f"corpus.{name} is empty; give it at least one part")
            if len({part.weight > 0 for part in parts}) > 1:
                raise ConfigError(f"corpus.{name}: give every part a weight above 0, or none of them")
        if canonical(self.train) == canonical(self.dev):
            raise ConfigError("corpus.dev is the same text as corpus.train; hold some text out")


class Texts(Sequence[str]):
    """The texts of a corpus. With weights, each part gives its first documents, as many as keep the shares exact."""

    def __init__(self, parts: Sequence[CorpusPart], where: str = "corpus"):
        self._parts = parts
        self._records = [
            open_source(source_from_config(part.source, f"{where}[{i}].source"), (part.field,))
            for i, part in enumerate(parts)
        ]
        self.counts = _shares([len(records) for records in self._records], [part.weight for part in parts])

    def __len__(self) -> int:
        return sum(self.counts)

    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        index = range(len(self))[index]
        for part, records, count in zip(self._parts, self._records, self.counts, strict=True):
            if index < count:
                return field_text(records[index], part.field, f"record {index}")
            index -= count
        raise IndexError(index)


def _shares(sizes: Sequence[int], weights: Sequence[float]) -> list[int]:
    if not any(weights):
        return list(sizes)
    total = min(size / weight for size, weight in zip(sizes, weights, strict=True))
    return [int(total * weight) for weight in weights]
