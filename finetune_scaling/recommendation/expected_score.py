"""The metric score to expect at a predicted loss, by the metric's law over loss."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from finetune_scaling.analysis.metric_laws import MetricFinding, fit_metric
from finetune_scaling.laws.uncertainty.intervals import Interval, percentile_interval


@dataclass(frozen=True)
class ExpectedScore:
    """A predicted score with its 90 % interval; law and score are None where no law fits the metric (why)."""

    metric: str
    law: str | None
    score: float | None
    interval: Interval
    why: str


def expected_score(rows: pd.DataFrame, metric: str, losses: np.ndarray) -> ExpectedScore:
    """Predict the score at bootstrap losses [R] of a candidate; rows: settings of its task and method."""
    return score_at(fit_metric(rows, metric), losses)


def score_at(found: MetricFinding, losses: np.ndarray) -> ExpectedScore:
    """Predict the score at bootstrap losses [R] by the metric's law."""
    if found.used is None:
        return ExpectedScore(found.metric, None, None, Interval(None, None), found.verdict)
    # Replicates of the loss law and of the metric law are independent: pair them at random.
    replicates = found.used.predict_replicates({"L": losses})
    partners = np.resize(np.random.default_rng(0).permutation(len(replicates)), len(losses))
    scores = replicates[partners, np.arange(len(losses))]
    return ExpectedScore(found.metric, found.used.law.name, float(scores.mean()), percentile_interval(scores), "")
