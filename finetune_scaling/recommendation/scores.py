"""The score that a loss lets one expect, by the law that describes the points' own pairs of loss and score."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from finetune_scaling.analysis.metric_laws import fit_metric
from finetune_scaling.laws.uncertainty.intervals import Interval, percentile_interval


@dataclass(frozen=True)
class ExpectedScore:
    """A metric at the choice. law: which describes it; score and interval: None where none does, and why."""

    metric: str
    law: str | None
    score: float | None
    interval: Interval
    why: str


def expected_score(rows: pd.DataFrame, metric: str, losses: np.ndarray) -> ExpectedScore:
    """The score at a candidate's drawn losses [R]; rows: settings of its task and method."""
    found = fit_metric(rows, metric)
    if found.used is None:
        return ExpectedScore(metric, None, None, Interval(None, None), found.verdict)
    # Draws of the two laws are independent: each loss meets one draw of the metric's law, at random.
    drawn = found.predict_replicates(losses)
    partners = np.resize(np.random.default_rng(0).permutation(len(drawn)), len(losses))
    scores = drawn[partners, np.arange(len(losses))]
    return ExpectedScore(metric, found.used.law.name, float(scores.mean()), percentile_interval(scores), "")
