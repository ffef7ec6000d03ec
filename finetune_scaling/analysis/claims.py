"""Checks of the paper's findings on a table of points: each is supported, not supported or inconclusive, with reasons.

A comparison (of one task and method, or task and factor) is a difference that the finding says is above zero. It is
judged by the share of bootstrap replicates in which it is above zero, and by its 90 % jackknife interval. It is
supported where the share is at least CONFIDENCE and the difference exceeds the interval's half-width, not supported
where the share is at most 1 - CONFIDENCE and the difference is below minus the half-width, and inconclusive where the
two disagree, where a law does not fit its points, or where a factor, a method or enough points are missing.

A claim's probability is the share of replicates in which all its comparisons are above zero. A claim is supported where
every comparison is and its probability is at least CONFIDENCE, not supported where any comparison is not supported, and
inconclusive otherwise.

Comparisons of what the points do not vary (a factor, the number of examples, methods) are left out, and claims without
any comparison. Exponents need a varied factor.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise, product

import numpy as np
import pandas as pd

from finetune_scaling.analysis.joint_fits import Fits
from finetune_scaling.laws.fitting.joint_fit import JointFit
from finetune_scaling.laws.forms.library import ADDITIVE, MULTIPLICATIVE
from finetune_scaling.laws.points.columns import FACTORS
from finetune_scaling.laws.uncertainty.intervals import QUANTILES, percentile_interval
from finetune_scaling.laws.uncertainty.jackknife import (
    JackknifeEstimate,
    jackknife_difference,
    jackknife_estimate,
    leave_out_weights,
)
from finetune_scaling.tuning.registry import METHODS

SUPPORTED, NOT_SUPPORTED, INCONCLUSIVE = "supported", "not supported", "inconclusive"
EXPONENTS = ("alpha_model", "alpha_pretrain")
DATA = "finetune_examples"
BETA_ORDER = ("full", "lora", "prompt")
FLAT_EXPONENT = 0.01
MIN_HELD_OUT = 3
CONFIDENCE = QUANTILES[1]  # one-sided, corresponding to a two-sided 90 % interval


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
        """Return the replicates of every comparison that has them."""
        return [c.replicates for c in self.comparisons if c.replicates is not None]

    @property
    def probability(self) -> float | None:
        """Return the share of replicates in which all differences are positive; None if nothing could be compared."""
        if not self.replicates:
            return None
        return float(np.mean(np.all([values > 0 for values in self.replicates], axis=0)))

    @property
    def verdict(self) -> str:
        """Return the verdict over all comparisons."""
        verdicts = [comparison.verdict for comparison in self.comparisons]
        if NOT_SUPPORTED in verdicts:
            return NOT_SUPPORTED
        certain = self.probability is not None and self.probability >= CONFIDENCE
        return SUPPORTED if certain and all(v == SUPPORTED for v in verdicts) else INCONCLUSIVE

    @property
    def tally(self) -> str:
        """Return how many comparisons have which verdict, in words."""
        if not self.comparisons:
            return "nothing to compare"
        verdicts = [comparison.verdict for comparison in self.comparisons]
        noun = "comparison" if len(verdicts) == 1 else "comparisons"
        return f"{count_verdicts(verdicts, (SUPPORTED, NOT_SUPPORTED, INCONCLUSIVE))} {noun}"


def count_verdicts(verdicts: Sequence[str], order: Sequence[str]) -> str:
    """Return how often each verdict occurs: "supported in 2, inconclusive in 1 of 3"."""
    parts = [f"{verdict} in {verdicts.count(verdict)}" for verdict in order if verdict in verdicts]
    return f"{', '.join(parts)} of {len(verdicts)}"


def check_claims(fits: Fits, settings: pd.DataFrame, tasks: Sequence[str], methods: Sequence[str]) -> list[Claim]:
    """Check every finding that the points can show; settings: PointsTable.settings; methods: those in the table."""
    pet = [m for m in methods if m in METHODS and METHODS[m].size_field]
    varied = _varied(settings)

    def owners(names: Sequence[str], *needed: str) -> list[tuple[str, str]]:
        return [own for own in product(tasks, names) if varied.get(own, set()) >= set(needed)]

    pairs = [
        (task, *pair)
        for task, pair in product(tasks, pairwise(BETA_ORDER))
        if all(method in methods and varied.get((task, method), set()) > {DATA} for method in pair)
    ]
    over = [(own, exponent) for exponent in EXPONENTS for own in owners(pet, exponent.removeprefix("alpha_"), DATA)]
    held_out = set(settings.loc[settings["held_out"], ["task", "factor"]].itertuples(index=False, name=None))
    claims = [
        Claim(
            "model_over_pretrain",
            "Model size vs pretraining data (alpha_model > alpha_pretrain)",
            tuple(_parameters_comparison(fits, *own, *EXPONENTS) for own in owners(methods, "model", "pretrain")),
        ),
        Claim(
            "pet_size_is_flat",
            f"Little effect of PET size (|alpha_pet| < {FLAT_EXPONENT})",
            tuple(_flat_comparison(fits, *own) for own in owners(pet, "pet")),
        ),
        Claim(
            "beta_order",
            "Finetuning data by method (beta of full tuning > LoRA > prompt tuning)",
            tuple(_beta_comparison(fits, *pair) for pair in pairs),
        ),
        Claim(
            "pet_prefers_model_and_pretraining",
            "PET: model size and pretraining data vs finetuning data (alpha_model, alpha_pretrain > beta)",
            tuple(_parameters_comparison(fits, *own, exponent, "beta") for own, exponent in over),
        ),
        Claim(
            "multiplicative_predicts_better",
            "Held-out error of the multiplicative vs the additive law (multiplicative < additive)",
            tuple(
                _law_comparison(fits, settings, *own, methods)
                for own in product(tasks, FACTORS)
                if own in held_out and any(own[1] in varied.get((own[0], m), ()) for m in methods)
            ),
        ),
    ]
    return [claim for claim in claims if claim.comparisons]


def _varied(settings: pd.DataFrame) -> dict[tuple[str, str], set[str]]:
    """Return by (task, method) which factors have several values, and DATA where the number of examples has."""
    found = {}
    for key, rows in settings[settings["factor"].isin(FACTORS)].groupby(["task", "method"], sort=False):
        values = rows.groupby("factor")["x"].nunique()
        data = {DATA} if rows["finetune_examples"].nunique() > 1 else set()
        found[key] = {str(factor) for factor, count in values.items() if count > 1} | data
    return found


def judge(where: str, difference: float, jackknife: JackknifeEstimate, replicates: np.ndarray) -> Comparison:
    """Apply the rule of this module to one difference and its replicates [R]."""
    share, interval = float(np.mean(replicates > 0)), percentile_interval(replicates)
    margin = None if jackknife.standard_error is None else jackknife.half_width()
    verdict = INCONCLUSIVE
    if 1 - CONFIDENCE < share < CONFIDENCE:
        why = f"the bootstrap replicates disagree on the sign of the difference {difference:+.3g}"
    elif margin is None:
        why = f"no jackknife interval: {jackknife.reason}"
    elif abs(difference) <= margin:
        why = f"the difference {difference:+.3g} is within its jackknife half-width of {margin:.2g}"
    elif (difference > 0) != (share >= CONFIDENCE):
        why = f"the bootstrap contradicts the sign of the difference {difference:+.3g}"
    else:
        verdict = SUPPORTED if difference > 0 else NOT_SUPPORTED
        exceeds = f"the difference {difference:+.3g} exceeds its jackknife half-width of {margin:.2g}"
        why = f"{exceeds}, and the bootstrap agrees"
    return Comparison(where, verdict, why, difference, interval.low, interval.high, share, margin, replicates)


def _obstacle(fits: Fits, task: str, method: str, *parameters: str) -> str:
    """Return why parameters of the multiplicative law cannot be compared; empty if they can."""
    fit = fits.get((task, method, MULTIPLICATIVE.name))
    if fit is None:
        requested = not fits or any(law == MULTIPLICATIVE.name for _, _, law in fits)
        return f"no law could be fitted to {method}" if requested else "the multiplicative law was not requested"
    for name in parameters:
        if name not in fit.parameters:
            return f"no points to fit for the factor {name.partition('_')[2]}"
    return fit.lack_of_fit


def _parameters_comparison(fits: Fits, task: str, method: str, left: str, right: str) -> Comparison:
    where = f"{task}, {method}: {left} > {right}"
    if obstacle := _obstacle(fits, task, method, left, right):
        return Comparison(where, INCONCLUSIVE, obstacle)
    fit = fits[task, method, MULTIPLICATIVE.name]
    estimates, replicates = fit.parameters, fit.replicate_parameters
    jackknife = fit.jackknife(left, right)
    return judge(where, estimates[left] - estimates[right], jackknife, replicates[left] - replicates[right])


def _flat_comparison(fits: Fits, task: str, method: str) -> Comparison:
    where, name = f"{task}, {method}: |alpha_pet| < {FLAT_EXPONENT}", "alpha_pet"
    if obstacle := _obstacle(fits, task, method, name):
        return Comparison(where, INCONCLUSIVE, obstacle)
    fit = fits[task, method, MULTIPLICATIVE.name]
    estimate, replicates = fit.parameters[name], fit.replicate_parameters[name]
    return judge(where, FLAT_EXPONENT - abs(estimate), fit.jackknife(name), FLAT_EXPONENT - np.abs(replicates))


def _beta_comparison(fits: Fits, task: str, left: str, right: str) -> Comparison:
    where = f"{task}: beta {left} > beta {right}"
    if obstacle := _obstacle(fits, task, left) or _obstacle(fits, task, right):
        return Comparison(where, INCONCLUSIVE, obstacle)
    first, second = (fits[task, method, MULTIPLICATIVE.name] for method in (left, right))
    jackknife = jackknife_difference(first.jackknife("beta"), second.jackknife("beta"))
    replicates = first.replicate_parameters["beta"] - second.replicate_parameters["beta"]
    return judge(where, first.parameters["beta"] - second.parameters["beta"], jackknife, replicates)


def _law_comparison(fits: Fits, settings: pd.DataFrame, task: str, factor: str, methods: Sequence[str]) -> Comparison:
    where = f"{task}, {factor}: additive - multiplicative held-out deviation"
    rows = settings[(settings["task"] == task) & (settings["factor"] == factor) & settings["held_out"]]
    parts = []
    for method in methods:
        own = rows[rows["method"] == method]
        laws = [fits.get((task, method, law.name)) for law in (ADDITIVE, MULTIPLICATIVE)]
        errors = [_held_out_errors(fit, factor, own) for fit in laws if fit is not None and factor in fit.factors]
        if len(errors) == len(laws):
            parts.append((own, errors[0] - errors[1]))
    count = sum(len(own) for own, _ in parts)
    if count < MIN_HELD_OUT:
        reason = f"{count} held-out points to compare on; at least {MIN_HELD_OUT} are needed"
        return Comparison(where, INCONCLUSIVE, reason)
    points, gaps = pd.concat([own for own, _ in parts]), np.concatenate([gap for _, gap in parts], axis=1)
    # Points of one model or one dataset size share base models, data and fits, so they are left out together.
    labels = [points[c].to_numpy(float) for c in ("x", "finetune_examples") if points[c].nunique() > 1]
    if not labels:
        reason = "the held-out points have one factor value and one number of examples"
        return Comparison(where, INCONCLUSIVE, reason)
    weights, levels = leave_out_weights(labels)
    left_out = jackknife_estimate(weights @ gaps[0] / weights.sum(axis=1), levels)
    # A replicate has other laws and, since the held-out points are a sample too, other held-out points.
    chosen = np.random.default_rng(0).integers(count, size=gaps[1:].shape)
    replicates = np.take_along_axis(gaps[1:], chosen, axis=1).mean(axis=1)
    return judge(where, float(gaps[0].mean()), left_out, replicates)


def _held_out_errors(fit: JointFit, factor: str, rows: pd.DataFrame) -> np.ndarray:
    """Return the absolute errors [1 + R, P] on rows by the fitted law and by every replicate."""
    x, examples, loss = (rows[c].to_numpy(float) for c in ("x", "finetune_examples", "loss"))
    predicted = [fit.predict_loss(factor, x, examples)[None], fit.predict_loss_replicates(factor, x, examples)]
    return np.abs(np.concatenate(predicted) - loss)
