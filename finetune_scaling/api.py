"""The laws as a library: points -> fit -> predict and recommend.

points = read_points("points.csv")
fitted = fit(points, tasks=["translation"])
fitted.predict("lora", 1e9, examples=40e3)
fitted.recommend(40e3, budget="1e20flop").chosen
fitted.recommend(40e3, next_runs=3).next_runs
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from finetune_scaling.analysis.joint_fits import JointFits, ordered
from finetune_scaling.configuration import choose
from finetune_scaling.errors import ConfigError, DataError
from finetune_scaling.laws.fitting.huber_fit import FitSettings, padded_size
from finetune_scaling.laws.fitting.joint_fit import JointFit, Skipped
from finetune_scaling.laws.fitting.two_stage import fit_joint
from finetune_scaling.laws.forms.joint import ADDITIVE, MULTIPLICATIVE
from finetune_scaling.laws.points.table import PointsTable, read_points
from finetune_scaling.laws.uncertainty.bootstrap import Resampling
from finetune_scaling.laws.uncertainty.intervals import Interval, percentile_interval
from finetune_scaling.recommendation.advice import Advice
from finetune_scaling.recommendation.advisor import advise
from finetune_scaling.recommendation.question import Question, choose_task, make_question
from finetune_scaling.tuning.registry import METHODS

if TYPE_CHECKING:  # matplotlib takes longer to import than laws
    from finetune_scaling.report.plots import ReportFigure

__all__ = ["Fitted", "Prediction", "fit", "read_points"]

LAWS = (MULTIPLICATIVE, ADDITIVE)


@dataclass(frozen=True)
class Prediction:
    """Loss in nats per token by the fit, and its 90 % interval over the bootstrap draws [R]."""

    loss: float
    interval: Interval
    draws: np.ndarray


@dataclass(frozen=True)
class Fitted(JointFits):
    """Laws fitted to a table's points: (task, method, law) -> fit; skipped: what could not be fitted, and why."""

    table: PointsTable
    tasks: tuple[str, ...]
    fits: Mapping[tuple[str, str, str], JointFit]
    skipped: tuple[Skipped, ...]
    settings: FitSettings

    def predict(
        self,
        method: str,
        x: float,
        examples: float,
        factor: str = "model",
        task: str | None = None,
        law: str = MULTIPLICATIVE.name,
    ) -> Prediction:
        """The loss of a method at a factor's value x after finetuning on `examples` examples.

        task: may be left out where there is one. Raises ConfigError on an unknown task, method or factor and on numbers
        that are not above zero, DataError where the points did not suffice to fit it, or where it does not describe
        them.
        """
        for name, value in (("x", x), ("examples", examples)):
            if not 0 < value < float("inf"):
                raise ConfigError(f"{name}={value:g} must be above zero and finite")
        task = choose_task(self.tasks, task)
        methods = dict.fromkeys(self.table.settings.loc[self.table.settings["task"] == task, "method"], "")
        choose(methods, method, "method")
        own = self.fits.get((task, method, law))
        if own is None:
            reasons = [s.reason for s in self.skipped if (s.task, s.method, s.law) == (task, method, law)]
            raise DataError(f"{task}, {method}: no {law} law was fitted ({'; '.join(reasons) or 'unknown law'})")
        choose({f: f for f in own.factors}, factor, "factor")
        if not own.describes:
            raise DataError(f"{task}, {method}: no loss is told by the {law} law, since {own.why_undescribed}")
        draws = own.predict_replicates(factor, x, examples)
        return Prediction(float(own.predict(factor, x, examples)), percentile_interval(draws), draws)

    @property
    def parameters(self) -> pd.DataFrame:
        """One row a fitted parameter: its value and 90 % interval, and whether the points identify it, or why not."""
        from finetune_scaling.report.tables import laws_table

        return laws_table(self)[[*("task", "method", "law", "parameter", "value", "low", "high", "identified", "why")]]

    def figure(self, task: str | None = None) -> "ReportFigure":
        """Loss against finetuning examples, a panel for each model size: measured, and by the multiplicative law.

        A method that the law does not describe has no curve. task: may be left out where there is one. A matplotlib
        figure, which a notebook shows in place. Raises ConfigError on an unknown task, DataError where it was measured
        at no model size.
        """
        import matplotlib as mpl

        from finetune_scaling.report.law_plots import draw_methods
        from finetune_scaling.report.plots import RC

        task = choose_task(self.tasks, task)
        if self.rows(task, factor="model").empty:
            raise DataError(f"{task}: no row of {self.table.source} has the factor 'model', over which methods compare")
        with mpl.rc_context(RC):
            return draw_methods(self, task)

    def recommend(self, examples: float, budget: str | None = None, task: str | None = None, **options: Any) -> Advice:
        """Recommend a candidate; budget: as on the command line; options: of recommendation.question.make_question.

        Raises ConfigError on an unknown task, a malformed budget, or one below the cheapest candidate.
        """
        return self.recommend_to(make_question(examples, budget, **options), choose_task(self.tasks, task))

    def recommend_to(self, question: Question, task: str) -> Advice:
        """The same, of a question that is made already and a task that is fitted."""
        return advise(self.table, self.fits, self.skipped, task, question)


def fit(
    table: PointsTable,
    tasks: Sequence[str] | None = None,
    settings: FitSettings | None = None,
    resampling: Resampling | None = None,
    progress: Callable[[str], None] | None = None,
) -> Fitted:
    """Fits the multiplicative and the additive law to every method of the tasks (None: all). ConfigError on others."""
    settings, say = settings or FitSettings(), progress or (lambda text: None)
    chosen = table.tasks if tasks is None else tuple(choose_task(table.tasks, task) for task in tasks)
    rows = table.settings[table.settings["task"].isin(chosen)]
    sizes = rows[~rows["held_out"]].groupby(["task", "method"]).size()
    pad_to = padded_size(int(sizes.max()) if len(sizes) else 1)
    fits, skipped = {}, []
    for task in chosen:
        for method in ordered(rows.loc[rows["task"] == task, "method"], METHODS):
            own = rows[(rows["task"] == task) & (rows["method"] == method)]
            for law in LAWS:
                say(f"{task}, {method}: fitting the {law.name} law")
                staged, remarks = fit_joint(law, own, settings, pad_to, resampling)
                skipped += remarks
                if staged is not None:
                    fits[task, method, law.name] = staged
    return Fitted(table, chosen, fits, tuple(skipped), settings)
