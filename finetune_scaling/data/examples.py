"""Examples of a task: concatenated parts and nested subsets."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune_scaling.data.sources import Source, open_source
from finetune_scaling.data.sources.files_source import FilesSource
from finetune_scaling.data.sources.records import optional_number, text_field
from finetune_scaling.errors import DataError

Example = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """One language direction of a split: the source of its records, and their source and target fields."""

    source: Source
    source_field: str
    target_field: str
    source_language: str
    target_language: str

    @property
    def direction(self) -> str:
        """The language direction as text, such as en-de; one language code for summaries."""
        codes = (self.source_language, self.target_language)
        return codes[0] if codes[0] == codes[1] else "-".join(codes)


class PartExamples(Sequence[Example]):
    """The records of one part as examples, mapped lazily."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self._records = open_source(part.source, (part.source_field, part.target_field))

    @property
    def dropped(self) -> int:
        """Number of records that were left out because a text is empty."""
        return self._records.dropped

    @property
    def identity(self) -> dict[str, Any] | None:
        """Plain data that determines the texts of a file's examples; None where it is unknown."""
        if not isinstance(self.part.source, FilesSource) or self._records.identity is None:
            return None
        fields = (self.part.source_field, self.part.target_field)
        return {"records": self._records.identity, "fields": fields, "on_empty": self.part.source.on_empty}

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Example:  # type: ignore[override]
        part, record = self.part, self._records[index]
        where = self._records.where(index)
        example: Example = {
            "source": text_field(record, part.source_field, where),
            "target": text_field(record, part.target_field, where),
            "source_language": part.source_language,
            "target_language": part.target_language,
        }
        if (nll := optional_number(record, "target_nll", where)) is not None:
            example["target_nll"] = nll
        return example


class Examples(Sequence[Example]):
    """The concatenated examples of several parts, or a selection by `indices` (int64[n]) into the concatenation."""

    def __init__(self, parts: Sequence[PartExamples], indices: np.ndarray | None = None) -> None:
        self.parts = tuple(parts)
        self._ends = np.cumsum([len(part) for part in self.parts])
        self.indices = indices

    @property
    def part_sizes(self) -> tuple[int, ...]:
        """Numbers of examples of the parts, before selection."""
        return tuple(len(part) for part in self.parts)

    @property
    def dropped(self) -> int:
        """Number of records of the parts that were left out because a text is empty."""
        return sum(part.dropped for part in self.parts)

    def __len__(self) -> int:
        return sum(self.part_sizes) if self.indices is None else len(self.indices)

    def __getitem__(self, index: int) -> Example:  # type: ignore[override]
        index = range(len(self))[index]
        position = index if self.indices is None else int(self.indices[index])
        part = int(np.searchsorted(self._ends, position, side="right"))
        return self.parts[part][position - (int(self._ends[part - 1]) if part else 0)]

    def complete(self) -> "Examples":
        """Return all examples of the parts, without selection."""
        return self if self.indices is None else Examples(self.parts)

    def counts(self) -> dict[str, int]:
        """Return the exact number of examples per language direction: {"en-de": 4000}."""
        if self.indices is None:
            sizes = self.part_sizes
        else:
            part_of = np.searchsorted(self._ends, self.indices, side="right")
            sizes = tuple(np.bincount(part_of, minlength=len(self.parts)).tolist())
        counts: Counter[str] = Counter()
        for part, size in zip(self.parts, sizes, strict=True):
            counts[part.part.direction] += size
        return dict(counts)


def subset(examples: Examples, size: int, seed: int) -> Examples:
    """Return the first `size` examples of a permutation that depends only on `seed` and the data.

    Subsets of one seed are nested: a larger one begins with the smaller. Each has the same shares of the parts, to
    within one example. Raises DataError if there are fewer examples than `size`.
    """
    if examples.indices is not None:
        raise ValueError("examples is already a subset; take subsets of a complete split, so that they are nested")
    if not 1 <= size <= len(examples):
        total = f"{len(examples):,}"
        raise DataError(f"finetune_examples = {size:,}, but the data has {total} examples; set it from 1 to {total}")
    sizes = examples.part_sizes
    orders = [np.random.default_rng([seed, part]).permutation(count) for part, count in enumerate(sizes)]
    starts = np.cumsum([0, *sizes[:-1]])
    if len(sizes) == 1:
        return Examples(examples.parts, orders[0][:size])
    part_of = np.fromiter(interleaving_order(sizes), np.int64, size)
    indices = np.empty(size, np.int64)
    for part, order in enumerate(orders):
        selected = part_of == part
        indices[selected] = starts[part] + order[: selected.sum()]
    return Examples(examples.parts, indices)


def interleaving_order(sizes: Sequence[int]) -> Iterator[int]:
    """Yield part numbers, part p sizes[p] times, such that every prefix has proportional counts.

    Among the first k, the count of part p differs by less than one from k * sizes[p] / sum(sizes). The j-th occurrence
    of p (from 0) is released at k > j / share and due at ceil((j + 1) / share), where share = sizes[p] / sum(sizes).
    Scheduling by the earliest deadline finds a schedule of unit jobs if one exists, which Tijdeman (1980) proves.
    """
    total = sum(sizes)
    taken = [0] * len(sizes)
    for k in range(1, total + 1):
        released = [part for part, size in enumerate(sizes) if taken[part] * total < k * size]
        chosen = min(released, key=lambda part: -(-(taken[part] + 1) * total // sizes[part]))
        taken[chosen] += 1
        yield chosen


def check_examples(examples: Sequence[Example]) -> None:
    """Read every example, so that an invalid one is an error before anything expensive starts."""
    for _ in examples:
        pass
