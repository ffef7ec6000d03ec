"""What the laws need of a grid of settings, and what a grid lacks; known before anything is trained.

Rows are settings with the columns task, method, factor, x, finetune_examples and held_out, as in PointsTable.settings.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from finetune_scaling.laws.forms.declared import Law, ParameterLayout
from finetune_scaling.laws.forms.library import SINGLE
from finetune_scaling.laws.points.columns import FACTORS

FIRST_STAGE_FACTORS = ("model", "pretrain")
LEVELS = {"model": "model sizes", "pretrain": "counts of pretraining tokens", "pet": "PET sizes"}
SIZES = "dataset sizes"
JACKKNIFE_LEVELS = 3  # of a factor, of which one can be left out
SHARED_FACTORS = ("model", "pretrain")  # their values mean the same for every method, unlike PET sizes
METRIC_SETTINGS = 8  # of a law of a metric; three parameters then leave five degrees of freedom


@dataclass(frozen=True)
class SkippedFit:
    """A law or a factor that was not fitted, and why: `reason` continues a sentence whose subject is the law."""

    task: str
    method: str
    law: str
    reason: str


@dataclass(frozen=True)
class JointGrid:
    """What a joint law can be fitted to in the settings of one task and method.

    factors: those with two values to fit; first: those of them whose settings stage 1 fits; left_out: why factors of
    the rows are not among them; lacking: why the law cannot be fitted at all, empty where it can.
    """

    factors: tuple[str, ...]
    first: tuple[str, ...]
    left_out: tuple[str, ...]
    lacking: tuple[str, ...]


def joint_grid(law: Law, rows: pd.DataFrame) -> JointGrid:
    """Return what `law` can be fitted to; rows: settings of one task and method."""
    rows = rows[rows["factor"].isin(FACTORS)]
    values = rows[~rows["held_out"]].groupby("factor")["x"].nunique()
    factors = tuple(factor for factor in FACTORS if values.get(factor, 0) > 1)
    first = tuple(f for f in factors if f in FIRST_STAGE_FACTORS) or factors
    left_out = [
        _needs(2, LEVELS[factor], own, "x")
        for factor, own in rows.groupby("factor", sort=False)
        if factor not in factors
    ]
    if not factors:
        none = "needs settings that vary the model size, the pretraining tokens or the PET size; there are none"
        return JointGrid((), (), (), tuple(left_out) or (none,))
    lacking = _needs_of_first_stage(law, rows[rows["factor"].isin(first)], first)
    return JointGrid(factors, first, tuple(left_out), tuple(lacking))


def few_levels(law: Law, rows: pd.DataFrame) -> dict[str, str]:
    """Return why parameters of a joint law have too few levels for a jackknife, by name.

    rows: settings of one task and method.
    """
    factors = joint_grid(law, rows).factors
    fitted = rows[~rows["held_out"] & rows["factor"].isin(factors)]
    sizes, values = fitted["finetune_examples"].nunique(), fitted.groupby("factor")["x"].nunique()
    layout, needed, reasons = ParameterLayout(law, FACTORS), law.sizes_needed + 1, {}
    for name, (_, group) in zip(layout.names, layout.slots, strict=True):
        if not group and sizes < needed:
            reasons[name] = lack_of_levels(sizes, SIZES, needed)
        if group in factors and values[group] < JACKKNIFE_LEVELS:
            reasons[name] = lack_of_levels(values[group], LEVELS[group])
    return reasons


def lack_of_levels(count: int, levels: str, needed: int = JACKKNIFE_LEVELS) -> str:
    """Return that `count` levels are too few for a jackknife; levels: what they are, in the plural."""
    return f"{count} {levels} to fit; {needed} are needed to leave one out"


def why_no_curve(rows: pd.DataFrame) -> str:
    """Return why the single law fits no curve over dataset size; empty where it fits one. rows: of one task and method.

    A curve is that of one value of a factor.
    """
    rows, needed = rows[rows["factor"].isin(FACTORS)], len(SINGLE.parameters)
    if rows.empty:
        return f"needs settings of a factor: {', '.join(FACTORS)}"
    curves = [own for _, own in rows.groupby(["factor", "x"])]
    longest = max(curves, key=lambda own: own.loc[~own["held_out"], "finetune_examples"].nunique())
    if longest.loc[~longest["held_out"], "finetune_examples"].nunique() >= needed:
        return ""
    return _needs(needed, SIZES, longest, "finetune_examples")


def why_no_crossings(rows: pd.DataFrame, laws: Sequence[Law]) -> str:
    """Return why the joint laws of no two methods can cross; empty where they can. rows: settings of one task."""
    if rows["method"].nunique() < 2:
        return "need two methods; there is 1"
    for law in laws:
        grids = {method: joint_grid(law, own) for method, own in rows.groupby("method")}
        for factor in SHARED_FACTORS:
            fitted = [method for method, grid in grids.items() if factor in grid.factors and not grid.lacking]
            own = rows[rows["method"].isin(fitted) & (rows["factor"] == factor)]
            if (own.groupby("x")["method"].nunique() > 1).any():
                return ""
    return "need one law of two methods over the same model sizes or pretraining tokens"


def why_no_metric_law(fitted: pd.DataFrame) -> str:
    """Return why no law of a metric over the loss can be fitted to distinct settings; empty where one can."""
    count, sizes = len(fitted), fitted["finetune_examples"].nunique()
    if count >= METRIC_SETTINGS and sizes >= JACKKNIFE_LEVELS:
        return ""
    return f"{count} settings with {sizes} {SIZES}, {METRIC_SETTINGS} with {JACKKNIFE_LEVELS} are needed"


def unfittable(rows: pd.DataFrame, laws: Sequence[Law]) -> list[SkippedFit]:
    """Return which of the joint laws and the single law cannot be fitted to which task and method, and why."""
    return [
        SkippedFit(str(task), str(method), law, reason)
        for (task, method), own in rows.groupby(["task", "method"], sort=False)
        for law, reason in _unmet_requirements(own, laws)
    ]


def _unmet_requirements(rows: pd.DataFrame, laws: Sequence[Law]) -> Iterator[tuple[str, str]]:
    for law in laws:
        grid = joint_grid(law, rows)
        yield from ((law.name, reason) for reason in (*grid.left_out, *grid.lacking))
    if reason := why_no_curve(rows):
        yield SINGLE.name, reason


def _needs_of_first_stage(law: Law, first: pd.DataFrame, factors: Sequence[str]) -> Iterator[str]:
    """Yield what the settings of stage 1 lack."""
    parameters = int(ParameterLayout(law, FACTORS).entries_of("", *factors).sum())
    fitted = first[~first["held_out"]]
    if len(fitted) < parameters:
        yield f"needs {parameters} settings to fit for as many parameters; {_count(len(fitted), len(first))}"
    if fitted["finetune_examples"].nunique() < law.sizes_needed:  # infinitely many curves pass through these points
        yield _needs(law.sizes_needed, SIZES, first, "finetune_examples")


def _needs(needed: int, what: str, rows: pd.DataFrame, column: str) -> str:
    fitted = rows.loc[~rows["held_out"], column].nunique()
    return f"needs {needed} {what} to fit; {_count(fitted, rows[column].nunique())}"


def _count(fitted: int, total: int) -> str:
    held_out = f" and {total - fitted} held out" if total > fitted else ""
    return f"there {'is' if fitted == 1 else 'are'} {fitted}{held_out}"
