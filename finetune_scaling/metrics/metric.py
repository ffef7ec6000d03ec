"""The interface of a text metric: it maps a corpus to a score and the signature of how the score was computed."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from finetune_scaling.metrics.corpus import Corpus


class Metric(Protocol):
    """A metric that is ready to score any corpus."""

    @property
    def name(self) -> str:
        """Key of the metric in tables and JSON."""
        ...

    @property
    def lower_is_better(self) -> bool:
        """Whether the metric counts errors."""
        ...

    def score(self, corpus: Corpus) -> dict[str, Any]:
        """Return {"score": unrounded score, "signature": how it was computed}."""
        ...


class SegmentScores(NamedTuple):
    """One score per segment, float64[N], and the signature of how they were computed."""

    values: np.ndarray
    signature: str

    def mean(self) -> dict[str, Any]:
        """Return the corpus score: the unweighted mean over segments."""
        return {"score": math.fsum(self.values) / len(self.values), "signature": self.signature}


@runtime_checkable
class SegmentLevel(Protocol):
    """A metric whose corpus score is the mean of its segment scores."""

    def segments(self, corpus: Corpus) -> SegmentScores:
        """Return the score of every segment."""
        ...


@dataclasses.dataclass(frozen=True)
class SegmentMetric:
    """A metric computed per segment.

    Attributes:
      values: maps a corpus to its segment scores, float64[N].
      signature: maps a corpus to the signature of these scores.
    """

    name: str
    values: Callable[[Corpus], np.ndarray]
    signature: Callable[[Corpus], str]
    lower_is_better: bool = False

    def segments(self, corpus: Corpus) -> SegmentScores:
        """Return the score of every segment."""
        return SegmentScores(self.values(corpus), self.signature(corpus))

    def score(self, corpus: Corpus) -> dict[str, Any]:
        """Return the mean over segments and the signature."""
        return self.segments(corpus).mean()
