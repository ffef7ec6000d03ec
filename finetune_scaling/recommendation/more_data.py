"""How much more data would help: the expected loss and score of each method on multiples of the available examples."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from finetune_scaling.analysis.metric_laws import fit_metric
from finetune_scaling.laws.uncertainty.intervals import Interval, percentile_interval
from finetune_scaling.recommendation.candidates import CandidateSet, TuningCandidate
from finetune_scaling.recommendation.cost import Cost
from finetune_scaling.recommendation.decision import CandidateEstimate, replicates_interval
from finetune_scaling.recommendation.expected_score import ExpectedScore, score_at
from finetune_scaling.recommendation.loss_predictions import LossPredictor

MULTIPLES = (1, 2, 4, 10)


@dataclass(frozen=True)
class MoreData:
    """A candidate on a multiple of the available examples.

    loss: with its 90 % interval (nats per token); reduction: by how much the loss is below the one on the available
    examples, with its 90 % interval over the same replicates; score: None without a metric; cost: None where unknown;
    outside: fitted ranges that the prediction is outside of.
    """

    candidate: TuningCandidate
    multiple: int
    examples: float
    loss: float
    interval: Interval
    reduction: float
    reduction_interval: Interval
    score: ExpectedScore | None
    cost: Cost | None
    outside: tuple[str, ...]


def more_data(
    found: CandidateSet, estimates: Iterable[CandidateEstimate], predictors: Mapping[str, LossPredictor]
) -> tuple[MoreData, ...]:
    """Return each method's candidate of lowest loss on MULTIPLES of the question's examples.

    estimates: of the candidates to choose from; predictors: by method.
    """
    best: dict[str, CandidateEstimate] = {}
    for estimate in sorted(estimates, key=lambda e: e.loss):
        best.setdefault(estimate.candidate.method, estimate)
    return tuple(row for e in best.values() for row in _rows(found, e.candidate, predictors[e.candidate.method]))


def _rows(found: CandidateSet, candidate: TuningCandidate, predictor: LossPredictor) -> Iterator[MoreData]:
    size, pet, examples = candidate.size, candidate.pet, found.question.examples
    metric = None if found.metric is None else fit_metric(found.rows[candidate.method], found.metric)
    cost, now = found.cost_models.get(candidate.method), predictor.loss_replicates(size, pet, examples)
    for multiple in MULTIPLES:
        losses = predictor.loss_replicates(size, pet, multiple * examples)
        yield MoreData(
            candidate=candidate,
            multiple=multiple,
            examples=multiple * examples,
            loss=float(losses.mean()),
            interval=replicates_interval(losses),
            reduction=float(np.mean(now - losses)),
            reduction_interval=percentile_interval(now - losses) if np.ptp(losses) else Interval(None, None),
            score=None if metric is None else score_at(metric, losses),
            cost=None if cost is None else cost(size, multiple * examples, pet),
            outside=tuple(predictor.outside(size, pet, multiple * examples)),
        )
