"""Checks of the paper's findings on a table of points: each is supported, not supported or inconclusive, with reasons.

A comparison (of one task and method, or task and factor) is a difference that the finding says is above zero. It is
judged by the share of bootstrap replicates in which it is above zero, and by its 90 % jackknife interval. It is
supported where the share is at least CONFIDENCE and the difference exceeds the interval's half-width, not supported
where the share is at most 1 - CONFIDENCE and the difference is below minus the half-width, and inconclusive where the
two disagree, where a law does not fit its points, or where a factor, a method or enough points are missing.

A claim's probability is the share of replicates in which all its comparisons are above zero. A claim is supported where
every comparison is and its probability is at least CONFIDENCE, not supported where any comparison is not supported, and
inconclusive otherwise.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from finetune_scaling.laws.fitting.joint_fit import JointFit
from finetune_scaling.laws.points.columns import FACTORS
from finetune_scaling.laws.uncertainty.intervals import percentile_interval
from finetune_scaling.laws.uncertainty.jackknife import (
    JackknifeEstimate,
    jackknife_difference,
    jackknife_estimate,
    leave_out_weights,
)

SUPPORTED, NOT_SUPPORTED, INCONCLUSIVE = "supported", "not supported", "inconclusive"
PET_METHODS = ("prompt", "lora")
FLAT_EXPONENT = 0.01
CONFIDENCE = 0.95  # one-sided, corresponding to a two-sided 90 % interval
Fits = Mapping[tuple[str, str, str], JointFit]


@dataclass(frozen=True)
class Comparison:
    """One difference that a claim says is above zero, and its verdict with the reason.

    where: what is compared; low, high: 90 % bootstrap interval; probability: share of replicates in which it is above
    zero; margin: half-width of the 90 % jackknife interval; replicates [R]: the difference in every replicate.
    All numbers are None where there is nothing to compare.
    """

    where: str
    verdict: str
    why: str
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    probability: float | None = None
    margin: float | None = None
    replicates: np.ndarray | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Claim:
    """One finding of the paper with its comparisons."""

    name: str
    sentence: str
    comparisons: tuple[Comparison, ...]

    @property
    def replicates(self) -> list[np.ndarray]:
        """The replicates of every comparison that has them."""
        return [c.replicates for c in self.comparisons if c.replicates is not None]

    @property
    def probability(self) -> float | None:
        """The share of replicates in which all differences are above zero; None where nothing could be compared."""
        if not self.replicates:
            return None
        return float(np.mean(np.all([values > 0 for values in self.replicates], axis=0)))

    @property
    def verdict(self) -> str:
        """The verdict over all comparisons."""
        verdicts = [comparison.verdict for comparison in self.comparisons]
        if NOT_SUPPORTED in verdicts:
            return NOT_SUPPORTED
        certain = self.probability is not None and self.probability >= CONFIDENCE
        return SUPPORTED if certain and all(v == SUPPORTED for v in verdicts) else INCONCLUSIVE

    @property
    def tally(self) -> str:
        """How many comparisons have which verdict, in words."""
        verdicts = [comparison.verdict for comparison in self.comparisons]
        noun = "comparison" if len(verdicts) == 1 else "comparisons"
        return f"{count_verdicts(verdicts, (SUPPORTED, NOT_SUPPORTED, INCONCLUSIVE))} {noun}"


def count_verdicts(verdicts: Sequence[str], order: Sequence[str]) -> str:
    """Return how often each verdict occurs: "supported in 2, inconclusive in 1 of 3"."""
    parts = [f"{verdict} in {verdicts.count(verdict)}" for verdict in order if verdict in verdicts]
    return f"{', '.join(parts)} of {len(verdicts)}"


def check_claims(fits: Fits, settings: pd.DataFrame, tasks: Sequence[str], methods: Sequence[str]) -> list[Claim]:
    """Check every finding.

    fits: (task, method, law) -> fit; settings: PointsTable.settings; methods: those in the table.
    """
    pet = [m for m in PET_METHODS if m in methods] or list(PET_METHODS)
    both = list(product(tasks, methods))
    return [
        Claim(
            "model_over_pretrain",
            "Model size vs pretraining data (alpha_model > alpha_pretrain)",
            tuple(_parameters_comparison(fits, t, m, "alpha_model", "alpha_pretrain") for t, m in both),
        ),
        Claim(
            "pet_size_is_flat",
            f"Little effect of PET size (|alpha_pet| < {FLAT_EXPONENT})",
            tuple(_flat_comparison(fits, t, m) for t, m in product(tasks, pet)),
        ),
        Claim(
            "beta_order",
            "Finetuning data by method (beta of full tuning > LoRA > prompt tuning)",
            tuple(
                _beta_comparison(fits, t, *pair) for t, pair in product(tasks, (("full", "lora"), ("lora", "prompt")))
            ),
        ),
        Claim(
            "pet_prefers_model_and_pretraining",
            "PET: model size and pretraining data vs finetuning data (alpha_model, alpha_pretrain > beta)",
            tuple(
                _parameters_comparison(fits, t, m, f"alpha_{factor}", "beta")
                for t, m, factor in product(tasks, pet, ("model", "pretrain"))
            ),
        ),
        Claim(
            "multiplicative_predicts_better",
            "Held-out error of the multiplicative vs the additive law (multiplicative < additive)",
            tuple(_law_comparison(fits, settings, t, f, methods) for t, f in product(tasks, FACTORS)),
        ),
    ]


def judge(
    where: str, difference: float, jackknife: JackknifeEstimate, replicates: np.ndarray, obstacle: str = ""
) -> Comparison:
    """Apply the rule of this module to one difference and its replicates [R].

    obstacle: why the comparison is inconclusive whatever the numbers say, which are then omitted; empty if none.
    """
    if obstacle:
        return _inconclusive(where, obstacle)
    share, interval = float(np.mean(replicates > 0)), percentile_interval(replicates)
    margin = None if jackknife.standard_error is None else jackknife.half_width()
    verdict, why = _verdict(difference, share, margin)
    why = why or f"no jackknife interval: {jackknife.reason}"
    return Comparison(where, verdict, why, difference, interval.low, interval.high, share, margin, replicates)


def _verdict(difference: float, share: float, margin: float | None) -> tuple[str, str]:
    """Return the verdict and its reason, which is empty where there is no jackknife interval."""
    if 1 - CONFIDENCE < share < CONFIDENCE:
        return INCONCLUSIVE, f"the bootstrap replicates disagree on the sign of the difference {difference:+.3g}"
    if margin is None:
        return INCONCLUSIVE, ""
    if abs(difference) <= margin:
        return INCONCLUSIVE, f"the difference {difference:+.3g} is within its jackknife half-width of {margin:.2g}"
    if (difference > 0) != (share >= CONFIDENCE):
        return INCONCLUSIVE, f"the bootstrap contradicts the sign of the difference {difference:+.3g}"
    why = f"the difference {difference:+.3g} exceeds its jackknife half-width of {margin:.2g}, and the bootstrap agrees"
    return (SUPPORTED if share >= CONFIDENCE else NOT_SUPPORTED), why


def _unfitted(fits: Fits, method: str) -> str:
    """Return why a method has no multiplicative law: not requested, or too few points."""
    if fits and not any(law == "multiplicative" for _, _, law in fits):
        return "the multiplicative law was not requested"
    return f"no law could be fitted to {method}"


def _inconclusive(where: str, why: str) -> Comparison:
    return Comparison(where, INCONCLUSIVE, why)


def _parameters_comparison(fits: Fits, task: str, method: str, left: str, right: str) -> Comparison:
    where = f"{task}, {method}: {left} > {right}"
    return _within_fit(fits, task, method, where, (left, right), lambda values: values[left] - values[right])


def _flat_comparison(fits: Fits, task: str, method: str) -> Comparison:
    where = f"{task}, {method}: |alpha_pet| < {FLAT_EXPONENT}"
    return _within_fit(fits, task, method, where, ("alpha_pet",), lambda p: FLAT_EXPONENT - abs(p["alpha_pet"]))


def _within_fit(
    fits: Fits,
    task: str,
    method: str,
    where: str,
    names: tuple[str, ...],
    difference: Callable[[Mapping[str, Any]], Any],
) -> Comparison:
    """Judge a difference that is computed from the named parameters of one fit."""
    fit = fits.get((task, method, "multiplicative"))
    if fit is None:
        return _inconclusive(where, _unfitted(fits, method))
    for name in names:
        if name not in fit.parameters:
            return _inconclusive(where, f"no points to fit for the factor {name.partition('_')[2]}")
    replicates = difference(fit.replicate_parameters)
    return judge(where, difference(fit.parameters), fit.jackknife(*names), replicates, fit.lack_of_fit)


def _beta_comparison(fits: Fits, task: str, left: str, right: str) -> Comparison:
    where = f"{task}: beta {left} > beta {right}"
    found = [fits.get((task, method, "multiplicative")) for method in (left, right)]
    for method, fit in zip((left, right), found, strict=True):
        if fit is None:
            return _inconclusive(where, _unfitted(fits, method))
    first, second = (fit for fit in found if fit is not None)
    return judge(
        where,
        first.parameters["beta"] - second.parameters["beta"],
        jackknife_difference(first.jackknife("beta"), second.jackknife("beta")),
        first.replicate_parameters["beta"] - second.replicate_parameters["beta"],
        first.lack_of_fit or second.lack_of_fit,
    )


def _law_comparison(fits: Fits, settings: pd.DataFrame, task: str, factor: str, methods: Sequence[str]) -> Comparison:
    where = f"{task}, {factor}: additive - multiplicative held-out deviation"
    rows = settings[(settings["task"] == task) & (settings["factor"] == factor) & settings["held_out"]]
    parts = []
    for method in methods:
        multiplicative, additive = (fits.get((task, method, law)) for law in ("multiplicative", "additive"))
        if multiplicative is not None and additive is not None and factor in multiplicative.factors:
            own = rows[rows["method"] == method]
            (error, resampled), (other, other_resampled) = (
                _held_out_errors(fit, factor, own) for fit in (multiplicative, additive)
            )
            parts.append((own, other - error, other_resampled - resampled))
    count = sum(len(own) for own, _, _ in parts)
    if count < 3:
        return _inconclusive(where, f"{count} held-out points to compare on; at least 3 are needed")
    points, gaps = pd.concat([own for own, _, _ in parts]), np.concatenate([gap for _, gap, _ in parts])
    # Points of one model or one dataset size share base models, data and fits, so they are left out together.
    labels = [points[c].to_numpy(float) for c in ("x", "finetune_examples") if points[c].nunique() > 1]
    if not labels:
        return _inconclusive(where, "the held-out points have one factor value and one number of examples")
    weights, levels = leave_out_weights(labels)
    left_out = jackknife_estimate(weights @ gaps / weights.sum(axis=1), levels)
    replicates = np.concatenate([resampled for _, _, resampled in parts], axis=1)
    # A replicate has other laws and, since the held-out points are a sample too, other held-out points.
    chosen = np.random.default_rng(0).integers(count, size=replicates.shape)
    return judge(where, float(gaps.mean()), left_out, np.take_along_axis(replicates, chosen, axis=1).mean(axis=1))


def _held_out_errors(fit: JointFit, factor: str, rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return the absolute errors [P] on rows, and those of every replicate [R, P]."""
    x, examples, loss = (rows[c].to_numpy(float) for c in ("x", "finetune_examples", "loss"))
    replicates = fit.predict_loss_replicates(factor, x, examples)
    return np.abs(fit.predict_loss(factor, x, examples) - loss), np.abs(replicates - loss)
