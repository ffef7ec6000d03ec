"""A table of points and the laws that were fitted to it: what pictures and sentences ask of both together."""

from collections.abc import Iterable, Mapping

import pandas as pd

from finetune_scaling.laws.fitting.joint_fit import JointFit
from finetune_scaling.laws.forms.joint import MULTIPLICATIVE
from finetune_scaling.laws.points.table import PointsTable
from finetune_scaling.tuning.registry import METHODS


class JointFits:
    """What a table of points and fits to it, (task, method, law) -> fit, have in common wherever they are kept."""

    table: PointsTable
    fits: Mapping[tuple[str, str, str], JointFit]

    @property
    def methods(self) -> tuple[str, ...]:
        """Methods present, the paper's first and in its order."""
        return ordered(self.table.settings["method"].unique(), METHODS)

    @property
    def laws(self) -> tuple[str, ...]:
        """Names of the joint laws that were fitted."""
        return tuple(dict.fromkeys(law for _, _, law in self.fits))

    @property
    def main_law(self) -> str:
        """The law that pictures and sentences are by: the paper's, or else the first that was fitted."""
        return main_law(self.fits)

    def of(self, task: str, law: str) -> dict[str, JointFit]:
        """method -> fit, of one task and law."""
        return {m: self.fits[task, m, law] for m in self.methods if (task, m, law) in self.fits}

    def of_law(self, law: str) -> list[JointFit]:
        """All fits of a law."""
        return [fit for (_, _, name), fit in self.fits.items() if name == law]

    def rows(self, task: str, method: str | None = None, factor: str | None = None) -> pd.DataFrame:
        """Settings of a task, and of a method and a factor where given."""
        rows = self.table.settings
        for column, value in (("task", task), ("method", method), ("factor", factor)):
            rows = rows if value is None else rows[rows[column] == value]
        return rows


def main_law(fits: Mapping[tuple[str, str, str], JointFit]) -> str:
    """Of the laws of some fits the multiplicative one, or else the first."""
    laws = dict.fromkeys(law for _, _, law in fits)
    return MULTIPLICATIVE.name if MULTIPLICATIVE.name in laws else next(iter(laws))


def ordered(values: Iterable[str], order: Iterable[str]) -> tuple[str, ...]:
    """Values without repeats, those of `order` first and in its order."""
    present = list(dict.fromkeys(values))
    return tuple([v for v in order if v in present] + [v for v in present if v not in order])
