"""The laws as a library: points -> fit -> predict and recommend.

points = read_points("points.csv")
fitted = fit(points, tasks=["translation"])
fitted.predict("lora", 1e9, examples=40e3)
fitted.recommend(40e3, budget="1e20flop").chosen
fitted.recommend(40e3, next_runs=3).next_runs
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from finetune_scaling.analysis.joint_fits import JointFits, fit_joint_laws
from finetune_scaling.configuration import choose
from finetune_scaling.errors import ConfigError, DataError
from finetune_scaling.laws.fitting.huber_fit import FitSettings
from finetune_scaling.laws.forms.library import MULTIPLICATIVE
from finetune_scaling.laws.points.table import PointsTable, read_points
from finetune_scaling.laws.uncertainty.bootstrap import Resampling
from finetune_scaling.laws.uncertainty.intervals import Interval, percentile_interval
from finetune_scaling.recommendation.advice import Advice
from finetune_scaling.recommendation.advisor import advise
from finetune_scaling.recommendation.question import Question, choose_task, make_question
from finetune_scaling.report.records import joint_record
from finetune_scaling.report.tables import laws_table

if TYPE_CHECKING:  # matplotlib takes longer to import than the laws
    from finetune_scaling.report.plots import ReportFigure

__all__ = ["Fitted", "Prediction", "fit", "read_points"]


@dataclass(frozen=True)
class Prediction:
    """Predicted loss in nats per token, its 90 % interval, and the predictions [R] of the bootstrap replicates."""

    loss: float
    interval: Interval
    replicates: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Fitted(JointFits):
    """The multiplicative and the additive law, fitted to every method of some tasks."""

    tasks: tuple[str, ...]

    def predict(
        self,
        method: str,
        x: float,
        examples: float,
        factor: str = "model",
        task: str | None = None,
        law: str = MULTIPLICATIVE.name,
    ) -> Prediction:
        """Return the predicted loss of a method at a factor's value x after finetuning on `examples` examples.

        task: optional where only one task was fitted. Raises ConfigError on an unknown task, method or factor and on
        numbers that are not positive, DataError where the points do not suffice to fit the law, or where it does not
        fit them.
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
            raise DataError(
                f"{task}, {method}: no {law} law was fitted ({'; '.join(reasons) or 'unknown law'}). Fix: give a "
                "method and law that `parameters` lists, or add points"
            )
        choose({f: f for f in own.factors}, factor, "factor")
        if not own.fits_well:
            raise DataError(
                f"{task}, {method}: no prediction by the {law} law, since {own.lack_of_fit}. Fix: give another law, or "
                "add points"
            )
        replicates = own.predict_loss_replicates(factor, x, examples)
        loss = float(own.predict_loss(factor, x, examples))
        return Prediction(loss, percentile_interval(replicates), replicates)

    @property
    def parameters(self) -> pd.DataFrame:
        """One row per parameter: estimate, 90 % interval, and whether the points determine it well, or why not."""
        table = laws_table([joint_record(fit) for fit in self.fits.values()])
        return table[["task", "method", "law", "parameter", "value", "low", "high", "identified", "why"]]

    def figure(self, task: str | None = None) -> "ReportFigure":
        """Draw loss against finetuning examples, measured and by the multiplicative law, a panel per model size.

        A method that the law does not fit has no curve. task: optional where only one task was fitted. Returns a
        matplotlib figure. Raises ConfigError on an unknown task, DataError where no model size was varied.
        """
        import matplotlib as mpl

        from finetune_scaling.report.law_plots import draw_methods
        from finetune_scaling.report.plots import RC

        task = choose_task(self.tasks, task)
        if self.rows(task, factor="model").empty:
            raise DataError(
                f"{task}: no row of {self.table.source} has the factor 'model', over which methods compare. Fix: add "
                "rows that vary the model size"
            )
        with mpl.rc_context(RC):
            return draw_methods(self, task)

    def recommend(self, examples: float, budget: str | None = None, task: str | None = None, **options: Any) -> Advice:
        """Recommend a candidate; budget: as on the command line; options: of recommendation.question.make_question.

        Raises ConfigError on an unknown task, a malformed budget, or one below the cheapest candidate.
        """
        return self.recommend_to(make_question(examples, budget, **options), choose_task(self.tasks, task))

    def recommend_to(self, question: Question, task: str) -> Advice:
        """Return the advice on a question for a task that was fitted."""
        return advise(self, task, question)


def fit(
    table: PointsTable,
    tasks: Sequence[str] | None = None,
    settings: FitSettings | None = None,
    resampling: Resampling | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Fitted:
    """Fit the multiplicative and the additive law to every method of the tasks (None: all).

    Raises ConfigError on an unknown task.
    """
    chosen = table.tasks if tasks is None else tuple(choose_task(table.tasks, task) for task in tasks)
    settings = settings or FitSettings()
    joint = fit_joint_laws(table, settings, tasks=chosen, resampling=resampling, progress=progress)
    return Fitted(**vars(joint), tasks=chosen)
