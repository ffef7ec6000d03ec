"""Significance of score differences between systems: paired tests, and bootstrap intervals for each system.

Corpus metrics are tested by sacrebleu. Scores that are ratios of sums over segments (means such as ROUGE, F1 and
learned metrics; losses per token or byte) use the same procedures here, in float64, with the same random draws for the
same seed. scipy.stats cannot replace them: its permutation test and bootstrap draw differently.

sacrebleu's p-value is too small in two cases, which are corrected here:
- It counts only shuffles that differ by strictly more than the systems do. If few segments differ, all shuffles may
  differ by exactly as much, and p would be close to 0. With k differing segments no such test can go below 2 / 2^k, so
  p is raised to that bound. For ratios, ties count, and all 2^k shuffles are enumerated if that is no more than the
  number of samples.
- Two systems with identical texts have p = 1.

Sources: approximate randomization: Noreen, "Computer-Intensive Methods for Testing Hypotheses", 1989; Riezler and
Maxwell, ACL workshop 2005; paired bootstrap: Koehn, EMNLP 2004, as implemented in sacrebleu; Holm, Scandinavian Journal
of Statistics, 1979.
"""

import contextlib
import dataclasses
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from sacrebleu.significance import PairedTest, estimate_ci

from finetune_scaling.metrics.corpus import Corpus
from finetune_scaling.metrics.sacrebleu_metrics import SacrebleuMetric, streams

DEFAULT_SAMPLES = {"randomization": 10_000, "bootstrap": 1_000}
INTERVAL_RESAMPLES = 1_000
CONFIDENCE = 0.95  # of sacrebleu's intervals

_SACREBLEU_NAMES = {"randomization": "ar", "bootstrap": "bs"}
_SEED_VARIABLE = "SACREBLEU_SEED"
_CHUNK_ELEMENTS = 2_000_000  # elements of shuffles or resamples in memory at a time
_TIE = 1e-12  # relative to the scores: sums in another order are equal


@dataclasses.dataclass(frozen=True)
class Procedure:
    """A paired test ("randomization" or "bootstrap"), its number of shuffles or resamples, and its positive seed."""

    test: str = "randomization"
    samples: int = 10_000
    seed: int = 12345

    @property
    def resamples(self) -> int:
        """The number of bootstrap resamples of an interval."""
        return self.samples if self.test == "bootstrap" else INTERVAL_RESAMPLES

    @property
    def signature(self) -> str:
        """The part of a comparison's signature that describes the procedure, in sacrebleu's notation."""
        shuffles = f"ar:{self.samples}|" if self.test == "randomization" else ""
        return f"{shuffles}bs:{self.resamples}|seed:{self.seed}"


class SystemResult(NamedTuple):
    """One system's score, its bootstrap mean and 95 % interval, and its p-value against the baseline (None for it)."""

    score: float
    mean: float
    low: float
    high: float
    p_value: float | None


class RatioScore(NamedTuple):
    """A score that equals sum(numerators) / sum(denominators) over segments, float64[N] each."""

    numerators: np.ndarray
    denominators: np.ndarray

    @classmethod
    def mean_of(cls, values: np.ndarray) -> "RatioScore":
        """Return the mean of one value per segment as a ratio."""
        return cls(np.asarray(values, np.float64), np.ones(len(values)))

    @property
    def score(self) -> float:
        """The ratio of the sums."""
        return math.fsum(self.numerators) / math.fsum(self.denominators)

    @property
    def table(self) -> np.ndarray:
        """Numerators and denominators, float64[N, 2]."""
        return np.stack([self.numerators, self.denominators], axis=1).astype(np.float64)


def compare_corpora(
    metric: SacrebleuMetric, corpora: Sequence[Corpus], procedure: Procedure
) -> tuple[list[SystemResult], str]:
    """Test each corpus against the first one (same references) with sacrebleu; also return sacrebleu's signature."""
    scorer = metric.make(corpora[0].language)
    systems: list[tuple[str, Sequence[str]]] = [(str(k), corpus.hypotheses) for k, corpus in enumerate(corpora)]
    with _sacrebleu_seed(procedure.seed):
        test = PairedTest(
            systems,
            {metric.name: scorer},
            streams(corpora[0]),
            test_type=_SACREBLEU_NAMES[procedure.test],
            n_samples=procedure.samples,
            n_ar_confidence=INTERVAL_RESAMPLES if procedure.test == "randomization" else -1,
        )
        signatures, columns = test()
    results: list[Any] = next(values for name, values in columns.items() if name != "System")
    outcomes = []
    for index, (corpus, result) in enumerate(zip(corpora, results, strict=True)):
        p_value = None if index == 0 else _bounded_p(float(result.p_value), corpora[0], corpus, procedure)
        low, high = float(result.mean - result.ci), float(result.mean + result.ci)
        outcomes.append(SystemResult(float(result.score), float(result.mean), low, high, p_value))
    return outcomes, str(next(iter(signatures.values())))


def compare_ratios(ratios: Sequence[RatioScore], procedure: Procedure) -> list[SystemResult]:
    """Test each system against the first one; segment k of every system must belong to the same example."""
    count = len(ratios[0].numerators)
    rng = np.random.default_rng(procedure.seed)
    outcomes = [_result(ratios[0], _resamples(rng, procedure.resamples, count), None)]
    for ratio in ratios[1:]:
        rng = np.random.default_rng(procedure.seed)
        if procedure.test == "bootstrap":
            indices = _resamples(rng, procedure.samples, count)
            outcomes.append(_result(ratio, indices, _bootstrap_p(ratios[0], ratio, indices)))
        else:
            swaps = rng.integers(2, size=(procedure.samples, count), dtype=bool)
            indices = _resamples(rng, procedure.resamples, count)
            outcomes.append(_result(ratio, indices, randomization_p(ratios[0], ratio, swaps)))
    return outcomes


def randomization_p(baseline: RatioScore, system: RatioScore, swaps: np.ndarray) -> float:
    """Return the two-sided p-value: the share of shuffles whose difference is at least the observed one.

    Args:
      swaps: bool[samples, N], the segments that are exchanged in each shuffle. If no more than `samples` distinct
        shuffles exist, all of them are enumerated instead and p is exact.
    """
    left, right = baseline.table, system.table
    differing = np.flatnonzero((left != right).any(axis=1))
    observed = abs(baseline.score - system.score) - _TIE * (abs(baseline.score) + abs(system.score))
    exact = len(differing) < 63 and 2 ** len(differing) <= len(swaps)
    swaps = _all_swaps(len(differing)) if exact else swaps[:, differing]
    total_left, total_right = left.sum(0), right.sum(0)
    gained = right[differing] - left[differing]
    reached = 0
    for chunk in _chunks(swaps):
        moved = chunk.astype(np.float64) @ gained
        reached += int((np.abs(_quotient(total_left + moved) - _quotient(total_right - moved)) >= observed).sum())
    return reached / len(swaps) if exact else (reached + 1) / (len(swaps) + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for multiple comparisons by Holm's method, which controls the family-wise error rate."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(len(p_values))
    factors = np.arange(len(p_values), 0, -1)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(factors * np.asarray(p_values, float)[order]))
    return adjusted.tolist()


def _result(ratio: RatioScore, indices: np.ndarray, p_value: float | None) -> SystemResult:
    mean, half_width = estimate_ci(_resampled_scores(ratio, indices))
    return SystemResult(ratio.score, float(mean), float(mean - half_width), float(mean + half_width), p_value)


def _bootstrap_p(baseline: RatioScore, system: RatioScore, indices: np.ndarray) -> float:
    """Return the share of resamples whose difference exceeds its mean by more than the observed difference."""
    if np.array_equal(baseline.table, system.table):
        return 1.0
    differences = np.abs(_resampled_scores(system, indices) - _resampled_scores(baseline, indices))
    above = differences - differences.mean() > abs(baseline.score - system.score)
    return (int(above.sum()) + 1) / (len(indices) + 1)


def _resamples(rng: np.random.Generator, samples: int, count: int) -> np.ndarray:
    """Draw segment indices with replacement, int64[samples, count]."""
    return rng.choice(count, size=(samples, count), replace=True)


def _resampled_scores(ratio: RatioScore, indices: np.ndarray) -> np.ndarray:
    """Return the score of every resample, float64[samples]."""
    table = ratio.table
    return np.concatenate([_quotient(table[chunk].sum(1)) for chunk in _chunks(indices)])


def _chunks(draws: np.ndarray) -> Iterator[np.ndarray]:
    """Split draws [samples, N] along the first axis to bound the memory of a computation."""
    size = max(1, _CHUNK_ELEMENTS // max(1, draws.shape[1]))
    return (draws[start : start + size] for start in range(0, len(draws), size))


def _quotient(sums: np.ndarray) -> np.ndarray:
    """Divide [..., 0] by [..., 1]; 0 where the denominator is 0."""
    return np.divide(sums[..., 0], sums[..., 1], out=np.zeros(sums.shape[:-1]), where=sums[..., 1] != 0)


def _all_swaps(count: int) -> np.ndarray:
    """Return every subset of `count` segments, bool[2^count, count]."""
    return (np.arange(2**count)[:, None] >> np.arange(count)) % 2 == 1


def _bounded_p(p_value: float, baseline: Corpus, system: Corpus, procedure: Procedure) -> float:
    """Raise sacrebleu's p-value to the smallest that the number of differing segments allows."""
    differing = sum(one != other for one, other in zip(baseline.hypotheses, system.hypotheses, strict=True))
    if differing == 0:
        return 1.0
    return max(p_value, 2.0 ** (1 - differing)) if procedure.test == "randomization" else p_value


@contextlib.contextmanager
def _sacrebleu_seed(seed: int) -> Iterator[None]:
    """Set the environment variable that is the only way to pass a seed to sacrebleu, and restore it afterwards."""
    before = os.environ.get(_SEED_VARIABLE)
    os.environ[_SEED_VARIABLE] = str(seed)
    try:
        yield
    finally:
        if before is None:
            del os.environ[_SEED_VARIABLE]
        else:
            os.environ[_SEED_VARIABLE] = before
