"""The paper's findings, checked one by one on the points at hand: holds, does not hold, or cannot be told, and why.

Rule: a cell (one task and method, or task and factor) holds or fails only where the difference in question is larger
than its 90 % leave-out margin (jackknife.py); otherwise, or where a factor, a method or enough points are absent, it
cannot be told. A claim holds where all its cells hold, does not hold where any cell fails, and cannot be told
otherwise.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd

from finetune_scaling.scaling.fitting.staged_fit import StagedFit
from finetune_scaling.scaling.points.table import FACTORS
from finetune_scaling.scaling.uncertainty.jackknife import Spread, combine, leave_out_weights, spread

HOLDS, FAILS, UNTOLD = "holds", "does not hold", "cannot be told"
PET_METHODS = ("prompt", "lora")
FLAT_EXPONENT = 0.01
Fits = Mapping[tuple[str, str, str], StagedFit]


@dataclass(frozen=True)
class Cell:
    """One comparison: where, the difference that must be above zero, its 90 % margin, the verdict and its reason."""

    where: str
    difference: float | None
    margin: float | None
    verdict: str
    why: str


@dataclass(frozen=True)
class Claim:
    """One finding of the paper with its cells."""

    name: str
    sentence: str
    cells: tuple[Cell, ...]

    @property
    def verdict(self) -> str:
        """The verdict over all cells."""
        verdicts = [cell.verdict for cell in self.cells]
        if FAILS in verdicts:
            return FAILS
        return HOLDS if verdicts and all(v == HOLDS for v in verdicts) else UNTOLD

    @property
    def tally(self) -> str:
        """How many cells say what, in words."""
        verdicts = [cell.verdict for cell in self.cells]
        if len(set(verdicts)) < 2:
            return "in the only cell" if len(verdicts) == 1 else f"in all {len(verdicts)} cells"
        parts = [f"{v} in {verdicts.count(v)}" for v in (HOLDS, FAILS, UNTOLD) if v in verdicts]
        return f"{', '.join(parts)} of {len(verdicts)} cells"


def check_claims(fits: Fits, settings: pd.DataFrame, tasks: Sequence[str], methods: Sequence[str]) -> list[Claim]:
    """Checks every finding.

    fits: (task, method, law) -> fit; settings: PointsTable.settings; methods: those present.
    """
    pet = [m for m in PET_METHODS if m in methods] or list(PET_METHODS)
    both = list(product(tasks, methods))
    return [
        Claim(
            "model_over_pretrain",
            "A larger model helps finetuning more than more pretraining data: alpha of model size is above alpha of "
            "pretraining data.",
            tuple(_parameters_cell(fits, t, m, "alpha_model", "alpha_pretrain") for t, m in both),
        ),
        Claim(
            "pet_size_is_flat",
            f"More PET parameters hardly help: |alpha of PET size| is below {FLAT_EXPONENT}.",
            tuple(_flat_cell(fits, t, m) for t, m in product(tasks, pet)),
        ),
        Claim(
            "beta_order",
            "Full tuning gains most from more finetuning data, LoRA less, Prompt least: beta full > LoRA > Prompt.",
            tuple(_beta_cell(fits, t, *pair) for t, pair in product(tasks, (("full", "lora"), ("lora", "prompt")))),
        ),
        Claim(
            "pet_prefers_model_and_pretraining",
            "PET gains more from a larger model or more pretraining data than from more finetuning data: both alphas "
            "are above beta.",
            tuple(
                _parameters_cell(fits, t, m, f"alpha_{factor}", "beta")
                for t, m, factor in product(tasks, pet, ("model", "pretrain"))
            ),
        ),
        Claim(
            "multiplicative_predicts_better",
            "The multiplicative law predicts held-out points better than the additive law.",
            tuple(_law_cell(fits, settings, t, f, methods) for t, f in product(tasks, FACTORS)),
        ),
    ]


def judge(where: str, difference: float, spread: Spread) -> Cell:
    """The rule of this module for one difference that must be above zero."""
    if spread.standard_error is None:
        return Cell(where, difference, None, UNTOLD, spread.reason)
    margin = spread.margin()
    if abs(difference) <= margin:
        why = f"the difference {difference:+.3g} is within its 90 % margin of {margin:.2g}"
        return Cell(where, difference, margin, UNTOLD, why)
    why = f"the difference {difference:+.3g} exceeds its 90 % margin of {margin:.2g}"
    return Cell(where, difference, margin, HOLDS if difference > 0 else FAILS, why)


def _absent(where: str, why: str) -> Cell:
    return Cell(where, None, None, UNTOLD, why)


def _parameters_cell(fits: Fits, task: str, method: str, left: str, right: str) -> Cell:
    where = f"{task}, {method}: {left} > {right}"
    fit = fits.get((task, method, "multiplicative"))
    if fit is None:
        return _absent(where, f"no law could be fitted to {method}")
    for name in (left, right):
        if name not in fit.parameters:
            return _absent(where, f"no points to fit for the factor {name.partition('_')[2]}")
    return judge(where, fit.parameters[left] - fit.parameters[right], fit.spread(left, right))


def _flat_cell(fits: Fits, task: str, method: str) -> Cell:
    where = f"{task}, {method}: |alpha_pet| < {FLAT_EXPONENT}"
    fit = fits.get((task, method, "multiplicative"))
    if fit is None:
        return _absent(where, f"no law could be fitted to {method}")
    if "alpha_pet" not in fit.parameters:
        return _absent(where, "no points to fit for the factor pet")
    return judge(where, FLAT_EXPONENT - abs(fit.parameters["alpha_pet"]), fit.spread("alpha_pet"))


def _beta_cell(fits: Fits, task: str, left: str, right: str) -> Cell:
    where = f"{task}: beta {left} > beta {right}"
    found = [fits.get((task, method, "multiplicative")) for method in (left, right)]
    for method, fit in zip((left, right), found, strict=True):
        if fit is None:
            return _absent(where, f"no law could be fitted to {method}")
    first, second = (fit for fit in found if fit is not None)
    return judge(
        where,
        first.parameters["beta"] - second.parameters["beta"],
        combine(first.spread("beta"), second.spread("beta")),
    )


def _law_cell(fits: Fits, settings: pd.DataFrame, task: str, factor: str, methods: Sequence[str]) -> Cell:
    where = f"{task}, {factor}: additive - multiplicative held-out deviation"
    found = [*_deviation_gaps(fits, settings, task, factor, methods)]
    gaps, x, examples = np.concatenate([np.empty((3, 0)), *found], axis=1)
    if len(gaps) < 3:
        return _absent(where, f"{len(gaps)} held-out points to compare on; at least 3 are needed")
    # Points of one model or one number of examples share bases, data and fits, so they are left out together.
    labels = [label for label in (x, examples) if len(np.unique(label)) > 1]
    if not labels:
        return _absent(where, "the held-out points have one factor value and one number of examples")
    weights, levels = leave_out_weights(labels)
    return judge(where, float(gaps.mean()), spread(weights @ gaps / weights.sum(axis=1), levels))


def _deviation_gaps(
    fits: Fits, settings: pd.DataFrame, task: str, factor: str, methods: Sequence[str]
) -> Iterator[np.ndarray]:
    """Per method, [3, P]: how much further than the multiplicative law the additive one is from each held-out point,
    and the point's factor value and number of examples.
    """
    for method in methods:
        pair = [fits.get((task, method, law)) for law in ("multiplicative", "additive")]
        if any(fit is None or factor not in fit.factors for fit in pair):
            continue
        chosen = (settings["task"] == task) & (settings["method"] == method) & (settings["factor"] == factor)
        rows = settings[chosen & settings["held_out"]]
        x, examples, loss = (rows[c].to_numpy(float) for c in ("x", "finetune_examples", "loss"))
        near, far = (np.abs(fit.predict(factor, x, examples) - loss) for fit in pair if fit is not None)
        yield np.stack([far - near, x, examples])
