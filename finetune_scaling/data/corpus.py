"""Pretraining text: a mixture of sources."""

import dataclasses
import math
from collections.abc import Sequence

from finetune_scaling.configuration import canonical_json
from finetune_scaling.data.sources import SourceBlock, open_source, source_from_config
from finetune_scaling.data.sources.records import LazySequence, Records, text_field
from finetune_scaling.errors import ConfigError, MissingDataError
from finetune_scaling.paths import UserPath


@dataclasses.dataclass(frozen=True)
class CorpusPart:
    """One source of a mixture. weight: its relative share of the documents; 0: all of its documents are used."""

    source: SourceBlock
    field: str = "text"
    weight: float = 0.0


@dataclasses.dataclass(frozen=True)
class CorpusConfig:
    """Pretraining text, and the held-out text for the dev loss.

    prepared: directory that `prepare shards` wrote from `train`; training reads it instead of the text. None: the text.
    """

    train: tuple[CorpusPart, ...]
    dev: tuple[CorpusPart, ...]
    prepared: UserPath | None = None

    def __post_init__(self) -> None:
        for name in ("train", "dev"):
            parts = getattr(self, name)
            if not parts:
                raise ConfigError(f"corpus.{name} is empty; add at least one part")
            for i, part in enumerate(parts):
                if not 0 <= part.weight < math.inf:
                    raise ConfigError(f"corpus.{name}[{i}].weight = {part.weight} must be at least 0")
            if len({part.weight > 0 for part in parts}) > 1:
                raise ConfigError(f"corpus.{name}: give every part a weight above 0, or none of them")
        if canonical_json(self.train) == canonical_json(self.dev):
            raise ConfigError("corpus.dev is the same text as corpus.train; use held-out text")


class PartTexts(LazySequence[str]):
    """The texts of one part. dropped: number of records that were left out because their text is empty."""

    def __init__(self, records: Records, field: str):
        super().__init__(len(records), lambda index: text_field(records[index], field, records.where(index)))
        self.dropped = records.dropped


def open_texts(part: CorpusPart, where: str) -> PartTexts:
    """Open the texts of one part; `where` names the part in errors."""
    source = source_from_config(part.source, f"{where}.source")
    try:
        records = open_source(source, (part.field,))
    except MissingDataError as error:
        raise MissingDataError(f"{error}; if it has moved, set {where}.source.path=FILE") from error
    return PartTexts(records, part.field)


class CorpusTexts(Sequence[str]):
    """The texts of a corpus. With weights, a part contributes its first documents, as many as the shares allow."""

    def __init__(self, parts: Sequence[CorpusPart], where: str = "corpus"):
        self._parts = [open_texts(part, f"{where}[{i}]") for i, part in enumerate(parts)]
        self.counts = _shares([len(texts) for texts in self._parts], parts, where)
        self.kinds = [part.source["kind"] for part in parts]

    @property
    def dropped(self) -> int:
        """Number of records that were left out because their text is empty."""
        return sum(texts.dropped for texts in self._parts)

    def part(self, index: int) -> Sequence[str]:
        """Return the texts that a part contributes."""
        return LazySequence(self.counts[index], self._parts[index].__getitem__)

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
    """Return the number of documents per part, as in `CorpusTexts`; only one part is in memory at a time."""
    return _shares([len(open_texts(part, f"{where}[{i}]")) for i, part in enumerate(parts)], parts, where)


def _shares(sizes: Sequence[int], parts: Sequence[CorpusPart], where: str) -> list[int]:
    if not any(part.weight for part in parts):
        return list(sizes)
    total = min(size / part.weight for size, part in zip(sizes, parts, strict=True))
    counts = [int(total * part.weight) for part in parts]
    for i, (count, size, part) in enumerate(zip(counts, sizes, parts, strict=True)):
        if not count:
            raise ConfigError(
                f"{where}[{i}].weight = {part.weight} selects none of its {size} documents; raise it, add text to the "
                "parts with larger weights, or remove this part"
            )
    return counts
