"""The score that a loss lets one expect: a metric law fitted to the points' own pairs of loss and score."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from finetune_scaling.scaling.fitting.law_fit import LawFit, fit_law
from finetune_scaling.scaling.fitting.program import FitSettings
from finetune_scaling.scaling.laws.declared import Law
from finetune_scaling.scaling.laws.metric import EXPONENTIAL, SIGMOID
from finetune_scaling.scaling.uncertainty.intervals import Interval, percentiles

METRIC_LAWS = (EXPONENTIAL, SIGMOID)


@dataclass(frozen=True)
class ExpectedScore:
    """A metric at the choice. law: which describes it; score and interval: None where none does, and why."""

    metric: str
    law: str | None
    score: float | None
    interval: Interval
    why: str


def expected_score(rows: pd.DataFrame, metric: str, losses: np.ndarray, settings: FitSettings) -> ExpectedScore:
    """The score at a candidate's drawn losses [R]; rows: settings of its task and method."""
    known = rows[~rows["held_out"] & (rows[metric] > 0)].drop_duplicates(["loss", metric])
    needed = max(len(law.parameters) for law in METRIC_LAWS) + 1
    if len(known) < needed:
        return _untold(metric, f"{len(known)} settings have a positive {metric}, a law of it needs {needed}")
    best = min((_fit(known, metric, law, settings) for law in METRIC_LAWS), key=lambda fit: fit.objective)
    if not best.describes:
        return _untold(metric, f"it does not follow the loss (the {best.law.name} law misses it by {best.misfit:.0%})")
    # Draws of the two laws are independent: each loss meets one draw of the metric's law, at random.
    partners = np.resize(np.random.default_rng(0).permutation(len(best.draws)), len(losses))
    scores = best.predict_draws({"L": losses})[partners, np.arange(len(losses))]
    return ExpectedScore(metric, best.law.name, float(scores.mean()), percentiles(scores), "")


def _fit(rows: pd.DataFrame, metric: str, law: Law, settings: FitSettings) -> LawFit:
    return fit_law(law, {"L": rows["loss"].to_numpy(float)}, rows[metric].to_numpy(float), settings)


def _untold(metric: str, why: str) -> ExpectedScore:
    return ExpectedScore(metric, None, None, Interval(None, None), why)
