"""Joint laws fitted to every task and method of a table of points."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from finetune_scaling.analysis.model_selection import law_of_comparisons
from finetune_scaling.laws.fitting.huber_fit import FitSettings, padded_size
from finetune_scaling.laws.fitting.joint_fit import JointFit
from finetune_scaling.laws.fitting.requirements import SkippedFit
from finetune_scaling.laws.fitting.two_stage import fit_joint
from finetune_scaling.laws.forms.declared import Law
from finetune_scaling.laws.forms.library import ADDITIVE, MULTIPLICATIVE
from finetune_scaling.laws.points.table import PointsTable
from finetune_scaling.laws.uncertainty.bootstrap import Resampling
from finetune_scaling.tuning.registry import METHODS

JOINT_LAWS = (MULTIPLICATIVE, ADDITIVE)
Progress = Callable[[str], None]
Fits = Mapping[tuple[str, str, str], JointFit]  # by (task, method, law name)


@dataclass(frozen=True, kw_only=True)
class JointFits:
    """A table of points and its joint fits; skipped: what could not be fitted, and why."""

    table: PointsTable
    settings: FitSettings
    fits: Fits
    skipped: Sequence[SkippedFit]

    @property
    def methods(self) -> tuple[str, ...]:
        """Methods of the table, registered ones first and in their order."""
        return ordered_methods(self.table.settings["method"])

    @property
    def laws(self) -> tuple[str, ...]:
        """Names of the joint laws that were fitted."""
        return tuple(dict.fromkeys(law for _, _, law in self.fits))

    @property
    def main_law(self) -> str:
        """The law that figures and sentences use: the multiplicative one, or else the first that was fitted."""
        laws = self.laws or (MULTIPLICATIVE.name,)
        return MULTIPLICATIVE.name if MULTIPLICATIVE.name in laws else laws[0]

    def law_of_comparisons(self, task: str) -> str:
        """Return the law by which the methods of a task are compared: the one that model selection prefers, if any."""
        return law_of_comparisons([fit for fit in self.fits.values() if fit.task == task], self.main_law)

    def fits_by_method(self, task: str, law: str) -> dict[str, JointFit]:
        """Return the fits of one task and law by method."""
        return {m: self.fits[task, m, law] for m in self.methods if (task, m, law) in self.fits}

    def fits_of_law(self, law: str) -> list[JointFit]:
        """Return all fits of a law."""
        return [fit for (_, _, name), fit in self.fits.items() if name == law]

    def rows(self, task: str, method: str | None = None, factor: str | None = None) -> pd.DataFrame:
        """Return the settings of a task, and of a method and a factor where given."""
        rows = self.table.settings
        for column, value in (("task", task), ("method", method), ("factor", factor)):
            rows = rows if value is None else rows[rows[column] == value]
        return rows


def fit_joint_laws(
    table: PointsTable,
    settings: FitSettings,
    *,
    tasks: Sequence[str] | None = None,
    laws: Sequence[Law] = JOINT_LAWS,
    resampling: Resampling | None = None,
    profile: bool = False,
    progress: Progress = lambda text: None,
) -> JointFits:
    """Fit joint laws of X and D to every method of the tasks (None: all tasks).

    profile: whether to profile every parameter.
    """
    fits, skipped = {}, []
    rows = table.settings if tasks is None else table.settings[table.settings["task"].isin(tasks)]
    pad_to = padded_points(rows)
    for law in laws:
        for task, method, own in rows_by_method(rows):
            fit, reasons = fit_joint(law, own, settings, pad_to, resampling, profile)
            skipped += reasons
            if fit is not None:
                fits[task, method, law.name] = fit
                progress(f"{law.name}, {task}, {method}: objective {fit.objective:.4g}")
    return JointFits(table=table, settings=settings, fits=fits, skipped=tuple(skipped))


def padded_points(rows: pd.DataFrame) -> int:
    """Return the number of points to which all fits are padded, so that they share compiled programs."""
    sizes = rows[~rows["held_out"]].groupby(["task", "method"]).size()
    return padded_size(int(sizes.max()) if len(sizes) else 1)


def rows_by_method(rows: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Yield (task, method, settings), tasks in their order in the table and methods in the order of the registry."""
    for task in rows["task"].unique():
        own = rows[rows["task"] == task]
        for method in ordered_methods(own["method"]):
            yield task, method, own[own["method"] == method]


def ordered_methods(values: Iterable[str]) -> tuple[str, ...]:
    """Return distinct methods, registered ones first and in the registry's order."""
    present = dict.fromkeys(values)
    return (*(m for m in METHODS if m in present), *(m for m in present if m not in METHODS))
