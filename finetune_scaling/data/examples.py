"""Examples of a task: concatenated parts, nested subsets, and statistics."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune_scaling.data.sources import Source, open_source
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
        """Return e.g. en-de; one language code for summaries."""
        return _direction(self.source_language, self.target_language)


class PartExamples(Sequence[Example]):
    """The records of one part as examples, mapped lazily."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self._records = open_source(part.source, (part.source_field, part.target_field))

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Example:  # type: ignore[override]
        part, record = self.part, self._records[index]
        where = f"{part.source}, record {index}"
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

    def __len__(self) -> int:
        return sum(self.part_sizes) if self.indices is None else len(self.indices)

    def __getitem__(self, index: int) -> Example:  # type: ignore[override]
        index = range(len(self))[index]
        position = index if self.indices is None else int(self.indices[index])
        part = int(np.searchsorted(self._ends, position, side="right"))
        return self.parts[part][position - (int(self._ends[part - 1]) if part else 0)]

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


def describe(examples: Examples, max_measured: int = 10_000) -> dict[str, Any]:
    """Return language and length statistics for the log, as plain data.

    Counts per direction are exact. Lengths are measured on at most `max_measured` evenly spaced examples: quantiles of
    characters and of words (separated by spaces, so 1 per sentence in Chinese), and the number of empty texts.
    """
    measured = np.unique(np.linspace(0, len(examples) - 1, min(max_measured, len(examples))).astype(int))
    texts: dict[str, dict[str, list[str]]] = {}
    for index in measured:
        example = examples[int(index)]
        direction = _direction(example["source_language"], example["target_language"])
        sides = texts.setdefault(direction, {"source": [], "target": []})
        for side, side_texts in sides.items():
            side_texts.append(example[side])
    lengths = {
        direction: {side: _lengths(side_texts) for side, side_texts in sides.items()}
        for direction, sides in sorted(texts.items())
    }
    return {
        "examples": len(examples), "directions": examples.counts(), "measured": len(measured), "lengths": lengths
    }  # fmt: skip


def check_references(task: str, split: str, examples: Sequence[Mapping[str, Any]], count: int | None) -> None:
    """Raise DataError if one of the first `count` examples (None: all) has an empty target."""
    for index in range(len(examples) if count is None else min(count, len(examples))):
        if not examples[index]["target"].strip():
            raise DataError(
                f"task {task}, split {split}: the example with source {examples[index]['source'][:60]!r} has an empty "
                "target, so no generated text can be scored against it; remove the example"
            )


def _lengths(texts: Sequence[str]) -> dict[str, Any]:
    return {
        "empty": sum(not text.strip() for text in texts),
        "characters": _quantiles([len(text) for text in texts]),
        "words": _quantiles([len(text.split()) for text in texts]),
    }


def _quantiles(lengths: Sequence[int]) -> dict[str, float]:
    points = {"q05": 0.05, "median": 0.5, "q95": 0.95, "max": 1.0}
    mean = {"mean": round(float(np.mean(lengths)), 2)}
    return mean | {name: round(float(np.quantile(lengths, point)), 2) for name, point in points.items()}


def _direction(source: str, target: str) -> str:
    return source if source == target else f"{source}-{target}"
