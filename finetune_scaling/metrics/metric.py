"""The interface of a text metric: it maps a corpus to a score and the signature of how the score was computed."""

import abc
import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from finetune_scaling.metrics.corpus import Corpus


@dataclasses.dataclass(frozen=True)
class Metric(abc.ABC):
    """A metric that is ready to score any corpus.

    Attributes:
      name: key of the metric in tables and JSON.
      lower_is_better: whether the metric counts errors.
    """

    name: str
    lower_is_better: bool = dataclasses.field(default=False, kw_only=True)

    @abc.abstractmethod
    def score(self, corpus: Corpus) -> dict[str, Any]:
        """Return {"score": unrounded score, "signature": how it was computed}."""


class SegmentScores(NamedTuple):
    """One score per segment, float64[N], and the signature of how they were computed."""

    values: np.ndarray
    signature: str


class SegmentLevel(Metric):
    """A metric whose corpus score is the unweighted mean of its segment scores."""

    @abc.abstractmethod
    def segments(self, corpus: Corpus) -> SegmentScores:
        """Return the score of every segment."""

    def score(self, corpus: Corpus) -> dict[str, Any]:
        """Return the mean over segments and the signature."""
        values, signature = self.segments(corpus)
        return {"score": math.fsum(values) / len(values), "signature": signature}


@dataclasses.dataclass(frozen=True)
class SegmentMetric(SegmentLevel):
    """A metric computed per segment.

    Attributes:
      values: maps a corpus to its segment scores, float64[N].
      signature: maps a corpus to the signature of these scores.
    """

    values: Callable[[Corpus], np.ndarray]
    signature: Callable[[Corpus], str]

    def segments(self, corpus: Corpus) -> SegmentScores:
        """Return the score of every segment."""
        return SegmentScores(self.values(corpus), self.signature(corpus))
