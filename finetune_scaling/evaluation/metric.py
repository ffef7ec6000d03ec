"""What a metric of text is: a corpus goes in, a score with its signature comes out."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from finetune_scaling.errors import DataError
from finetune_scaling.evaluation.languages import base_language


@dataclasses.dataclass(frozen=True)
class Corpus:
    """N segments of one language: texts, their references, and what they were made from.

    hypotheses: N texts; an empty one is a hypothesis like any other.
    references: N sequences, references[i] being the one or more references of hypotheses[i]; an empty one is a gap in
      the data, which chrF leaves out of account and TER counts in full.
    language: code of the language of hypotheses and references; it chooses tokenizers and stemmers.
    sources: N texts, or None where they are not known.

    Raises DataError: no segments, unequal counts, a segment without reference, an empty reference, something that is
    no text, or a name in place of a language code.
    """

    hypotheses: Sequence[str]
    references: Sequence[Sequence[str]]
    language: str
    sources: Sequence[str] | None = None

    def __post_init__(self) -> None:
        _check_counts(self)
        _check_texts("hypotheses", self.hypotheses)
        for index, own in enumerate(self.references):
            if isinstance(own, str) or not own:
                raise DataError(
                    f"references[{index}] is {own!r}; give a list of one or more references for every segment"
                )
            _check_texts(f"references[{index}]", own)
            if not all(map(str.strip, own)):
                raise DataError(f"references[{index}] has an empty reference; leave the segment out, or that reference")
        _check_texts("sources", self.sources or ())
        base_language(self.language)

    @property
    def reference_count(self) -> str:
        """The number of references of every segment, or "var" as sacrebleu writes it."""
        counts = {len(own) for own in self.references}
        return str(counts.pop()) if len(counts) == 1 else "var"


class Metric(Protocol):
    """One metric, ready to be used on any corpus."""

    @property
    def name(self) -> str:
        """Its key in tables and JSON."""
        ...

    @property
    def lower_is_better(self) -> bool:
        """Whether it counts errors."""
        ...

    def score(self, corpus: Corpus) -> dict[str, Any]:
        """{"score": unrounded, "signature": how it was computed}."""
        ...


class SegmentScores(NamedTuple):
    """One score a segment, float64[N], and how they were computed."""

    values: np.ndarray
    signature: str

    def mean(self) -> dict[str, Any]:
        """The corpus score: the mean over segments, every segment counted once."""
        return {"score": math.fsum(self.values) / len(self.values), "signature": self.signature}


@runtime_checkable
class SegmentLevel(Protocol):
    """A metric whose corpus score is the mean of the scores of segments."""

    def segments(self, corpus: Corpus) -> SegmentScores:
        """The score of every segment."""
        ...


@dataclasses.dataclass(frozen=True)
class SegmentMetric:
    """A metric that scores segment by segment; values: corpus -> float64[N], signature: corpus -> how."""

    name: str
    values: Callable[[Corpus], np.ndarray]
    signature: Callable[[Corpus], str]
    lower_is_better: bool = False

    def segments(self, corpus: Corpus) -> SegmentScores:
        """The score of every segment."""
        return SegmentScores(self.values(corpus), self.signature(corpus))

    def score(self, corpus: Corpus) -> dict[str, Any]:
        """The mean over segments and the signature."""
        return self.segments(corpus).mean()


def _check_counts(corpus: Corpus) -> None:
    count = len(corpus.hypotheses)
    if not count:
        raise DataError("there are no segments to score; give at least one hypothesis and its reference")
    if len(corpus.references) != count:
        raise DataError(
            f"{count} hypotheses, but references for {len(corpus.references)}; "
            "references[i] must be the list of references of hypotheses[i]"
        )
    if corpus.sources is not None and len(corpus.sources) != count:
        raise DataError(f"{count} hypotheses, but {len(corpus.sources)} sources; give one source for each hypothesis")


def _check_texts(where: str, texts: Sequence[str]) -> None:
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise DataError(f"{where}[{index}] is {text!r}, which is not text; give strings, an empty one for nothing")
