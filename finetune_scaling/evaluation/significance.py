"""Whether two systems differ by more than the choice of segments: paired tests, and intervals for one system.

Corpus metrics go through sacrebleu. Metrics that are ratios of sums over segments (means: ROUGE, F1, learned metrics;
losses per token or byte) follow the same procedures here, in float64, with the same draws for the same seed.

Two places where this departs from sacrebleu, both because its p-value is too small there:
- It counts shuffles that differ by strictly more than the systems do. Where few segments differ, all shuffles may
  differ by exactly as much, and p would be next to 0. With k segments that differ no such test can go below 2 / 2^k, so
  p is raised to that. Ratios count ties, and count out all 2^k shuffles where that is no more than the samples.
- Two systems of the same texts get p = 1.

Sources: approximate randomisation: Noreen, "Computer-Intensive Methods for Testing Hypotheses", 1989; Riezler and
Maxwell, ACL workshop 2005; paired bootstrap: Koehn, EMNLP 2004, as sacrebleu has it; adjustment: Holm, 1979.
"""

import contextlib
import dataclasses
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from sacrebleu.significance import PairedTest, estimate_ci

from finetune_scaling.errors import ConfigError
from finetune_scaling.evaluation.metric import Corpus
from finetune_scaling.evaluation.sacrebleu_metrics import SacrebleuMetric, streams

DEFAULT_SAMPLES = {"randomization": 10_000, "bootstrap": 1_000}
INTERVAL_RESAMPLES = 1_000
CONFIDENCE = 0.95  # of sacrebleu's intervals

_SACREBLEU_NAMES = {"randomization": "ar", "bootstrap": "bs"}
_SEED_VARIABLE = "SACREBLEU_SEED"
_NUMBERS_AT_ONCE = 2_000_000  # of segments in shuffles or resamples, in memory
_TIE = 1e-12  # relative to the scores: sums in another order are the same sum


@dataclasses.dataclass(frozen=True)
class Procedure:
    """test: approximate randomization, or paired bootstrap; samples: shuffles or resamples; seed: of their draws."""

    test: str = "randomization"
    samples: int = 10_000
    seed: int = 12345

    def __post_init__(self) -> None:
        if self.test not in DEFAULT_SAMPLES:
            raise ConfigError(f"test = {self.test!r} is unknown; choose one of {', '.join(DEFAULT_SAMPLES)}")
        if self.samples < 1:
            raise ConfigError(f"samples = {self.samples} must be at least 1")
        if self.seed < 1:
            raise ConfigError(f"seed = {self.seed} must be at least 1: sacrebleu takes 0 for no seed")

    @property
    def resamples(self) -> int:
        """Resamples behind an interval."""
        return self.samples if self.test == "bootstrap" else INTERVAL_RESAMPLES

    @property
    def signature(self) -> str:
        """What a comparison's signature says beside its metric's, in sacrebleu's words."""
        shuffles = f"ar:{self.samples}|" if self.test == "randomization" else ""
        return f"{shuffles}bs:{self.resamples}|seed:{self.seed}"


class Outcome(NamedTuple):
    """One system's score, the 95 % bootstrap interval about the mean of its resamples, and p against the baseline.

    p_value is None for the baseline, where there is nothing to compare with.
    """

    score: float
    mean: float
    low: float
    high: float
    p_value: float | None


class Ratio(NamedTuple):
    """A score that is sum(numerators) / sum(denominators) over segments, float64[N] each."""

    numerators: np.ndarray
    denominators: np.ndarray

    @classmethod
    def mean_of(cls, values: np.ndarray) -> "Ratio":
        """The mean of one value a segment."""
        return cls(np.asarray(values, np.float64), np.ones(len(values)))

    @property
    def score(self) -> float:
        """The ratio of the sums."""
        return math.fsum(self.numerators) / math.fsum(self.denominators)

    @property
    def table(self) -> np.ndarray:
        """float64[N, 2]."""
        return np.stack([self.numerators, self.denominators], axis=1).astype(np.float64)


def compare_corpora(
    metric: SacrebleuMetric, corpora: Sequence[Corpus], procedure: Procedure
) -> tuple[list[Outcome], str]:
    """Tests each corpus against the first, all with the same references, by sacrebleu. Returns its signature, too."""
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
    differing = [_differing_texts(corpora[0], corpus) for corpus in corpora]
    outcomes = [
        Outcome(
            score=float(result.score),
            mean=float(result.mean),
            low=float(result.mean - result.ci),
            high=float(result.mean + result.ci),
            p_value=None if place == 0 else _raised(float(result.p_value), differing[place], procedure),
        )
        for place, result in enumerate(results)
    ]
    return outcomes, str(next(iter(signatures.values())))


def compare_ratios(ratios: Sequence[Ratio], procedure: Procedure) -> list[Outcome]:
    """Tests each system against the first, segment k of each being of the same example."""
    count = len(ratios[0].numerators)
    draws = np.random.default_rng(procedure.seed)
    outcomes = [_outcome(ratios[0], _resamples(draws, procedure.resamples, count), None)]
    for ratio in ratios[1:]:
        draws = np.random.default_rng(procedure.seed)
        if procedure.test == "bootstrap":
            places = _resamples(draws, procedure.samples, count)
            outcomes.append(_outcome(ratio, places, _bootstrap_p(ratios[0], ratio, places)))
        else:
            swaps = draws.integers(2, size=(procedure.samples, count), dtype=bool)
            places = _resamples(draws, procedure.resamples, count)
            outcomes.append(_outcome(ratio, places, randomization_p(ratios[0], ratio, swaps)))
    return outcomes


def randomization_p(baseline: Ratio, system: Ratio, swaps: np.ndarray) -> float:
    """Two-sided p: the share of shuffles in which the systems differ by at least as much as they do.

    swaps: bool[samples, N], which segments change places in each shuffle. Where no more than that are possible, all of
    them are counted instead, and p is exact.
    """
    left, right = baseline.table, system.table
    differing = np.flatnonzero((left != right).any(axis=1))
    least = abs(baseline.score - system.score) - _TIE * (abs(baseline.score) + abs(system.score))
    exact = len(differing) < 63 and 2 ** len(differing) <= len(swaps)
    swaps = _all_swaps(len(differing)) if exact else swaps[:, differing]
    total_left, total_right = left.sum(0), right.sum(0)
    gained = right[differing] - left[differing]
    reached = 0
    for chunk in _chunks(swaps):
        moved = chunk.astype(np.float64) @ gained
        reached += int((np.abs(_quotient(total_left + moved) - _quotient(total_right - moved)) >= least).sum())
    return reached / len(swaps) if exact else (reached + 1) / (len(swaps) + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number: the chance of any false difference among them stays below the level."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(len(p_values))
    highest = 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted.tolist()


def _outcome(ratio: Ratio, places: np.ndarray, p_value: float | None) -> Outcome:
    mean, half = estimate_ci(_resampled_scores(ratio, places))
    return Outcome(ratio.score, float(mean), float(mean - half), float(mean + half), p_value)


def _bootstrap_p(baseline: Ratio, system: Ratio, places: np.ndarray) -> float:
    """The share of resamples whose difference exceeds its mean by more than the systems differ."""
    if np.array_equal(baseline.table, system.table):
        return 1.0
    differences = np.abs(_resampled_scores(system, places) - _resampled_scores(baseline, places))
    above = differences - differences.mean() > abs(baseline.score - system.score)
    return (int(above.sum()) + 1) / (len(places) + 1)


def _resamples(draws: np.random.Generator, samples: int, count: int) -> np.ndarray:
    """Places of segments drawn with replacement, int64[samples, count]."""
    return draws.choice(count, size=(samples, count), replace=True)


def _resampled_scores(ratio: Ratio, places: np.ndarray) -> np.ndarray:
    """The score of every resample, float64[samples]."""
    table = ratio.table
    return np.concatenate([_quotient(table[chunk].sum(1)) for chunk in _chunks(places)])


def _chunks(draws: np.ndarray) -> Iterator[np.ndarray]:
    """Parts of draws [samples, N] that are small enough to compute with."""
    size = max(1, _NUMBERS_AT_ONCE // max(1, draws.shape[1]))
    return (draws[start : start + size] for start in range(0, len(draws), size))


def _quotient(sums: np.ndarray) -> np.ndarray:
    """[..., 2] -> [...]; 0 where nothing was counted."""
    return np.divide(sums[..., 0], sums[..., 1], out=np.zeros(sums.shape[:-1]), where=sums[..., 1] != 0)


def _all_swaps(count: int) -> np.ndarray:
    """Every way to swap or keep `count` segments, bool[2^count, count]."""
    return (np.arange(2**count)[:, None] >> np.arange(count)) % 2 == 1


def _differing_texts(baseline: Corpus, system: Corpus) -> int:
    return sum(one != other for one, other in zip(baseline.hypotheses, system.hypotheses, strict=True))


def _raised(p_value: float, differing: int, procedure: Procedure) -> float:
    """Sacrebleu's p, not below what `differing` segments can show."""
    if differing == 0:
        return 1.0
    return max(p_value, 2.0 ** (1 - differing)) if procedure.test == "randomization" else p_value


@contextlib.contextmanager
def _sacrebleu_seed(seed: int) -> Iterator[None]:
    """sacrebleu reads its seed from the environment, and from nowhere else."""
    before: Mapping[str, str] = {k: v for k, v in os.environ.items() if k == _SEED_VARIABLE}
    os.environ[_SEED_VARIABLE] = str(seed)
    try:
        yield
    finally:
        os.environ.pop(_SEED_VARIABLE)
        os.environ.update(before)
