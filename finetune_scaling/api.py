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

from finetune_scaling.analysis.curve_fits import CurveFit, fit_curves
from finetune_scaling.analysis.joint_fits import JOINT_LAWS, JointFits, fit_joint_laws, rows_by_method
from finetune_scaling.configuration import choose
from finetune_scaling.errors import ConfigError, DataError
from finetune_scaling.laws.fitting.huber_fit import FitSettings
from finetune_scaling.laws.fitting.joint_fit import JointFit
from finetune_scaling.laws.fitting.requirements import why_no_curve
from finetune_scaling.laws.forms.library import MULTIPLICATIVE, SINGLE
from finetune_scaling.laws.points.table import PointsTable, read_points
from finetune_scaling.laws.uncertainty.bootstrap import Resampling
from finetune_scaling.laws.uncertainty.intervals import Interval, percentile_interval
from finetune_scaling.recommendation.advice import Advice
from finetune_scaling.recommendation.advisor import advise
from finetune_scaling.recommendation.question import Question, choose_task, make_question

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
    """The multiplicative and the additive law, fitted to every method of some tasks.

    curve_fits: the single law over dataset size at each factor value, of methods without a joint law over model size.
    """

    tasks: tuple[str, ...]
    curve_fits: tuple[CurveFit, ...] = ()

    def predict(
        self,
        method: str,
        x: float,
        examples: float,
        factor: str = "model",
        task: str | None = None,
        law: str | None = None,
    ) -> Prediction:
        """Return the predicted loss of a method at a factor's value x after finetuning on `examples` examples.

        task: optional where only one task was fitted. law: None for the multiplicative law, or the single law, at the
        measured values of x, where no joint law was fitted over the factor. Raises ConfigError on an unknown task,
        method, factor or law and on numbers that are not positive, DataError where the points do not suffice to fit the
        law, or where it does not fit them.
        """
        for name, value in (("x", x), ("examples", examples)):
            if not 0 < value < float("inf"):
                raise ConfigError(f"{name}={value:g} must be above zero and finite")
        task = choose_task(self.tasks, task)
        methods = dict.fromkeys(self.table.settings.loc[self.table.settings["task"] == task, "method"], "")
        choose(methods, method, "method")
        own = self._fitted_law(task, method, factor, x, law)
        if not own.fits_well:
            raise DataError(
                f"{task}, {method}: no prediction by the {own.law.name} law, since it does not fit the points "
                f"(relative error {own.log_rmse:.0%}). Fix: give another law, or add points"
            )
        loss, replicates = (f({"X": x, "D": examples}, factor) for f in (own.predict, own.predict_replicates))
        if isinstance(own, CurveFit) and not own.shows_scatter:
            return Prediction(float(loss), Interval(None, None), np.full_like(replicates, loss))
        return Prediction(float(loss), percentile_interval(replicates), replicates)

    def _fitted_law(self, task: str, method: str, factor: str, x: float, law: str | None) -> JointFit | CurveFit:
        curves = {c.x: c for c in self.curve_fits if (c.task, c.method, c.factor) == (task, method, factor)}
        joint = self.fits.get((task, method, law or MULTIPLICATIVE.name))
        if law is None:
            law = SINGLE.name if curves and (joint is None or factor not in joint.factors) else MULTIPLICATIVE.name
        choose(dict.fromkeys((*(one.name for one in JOINT_LAWS), SINGLE.name), ""), law, "law")
        if joint is not None and law != SINGLE.name:
            choose(dict.fromkeys(joint.factors, ""), factor, "factor")
            return joint
        if law == SINGLE.name and x in curves:
            return curves[x]
        reasons = [s.reason for s in self.skipped if (s.task, s.method, s.law) == (task, method, law)]
        if law == SINGLE.name:
            at = f"only at x = {', '.join(f'{value:g}' for value in curves)}" if curves else "a joint law was"
            reasons = [why_no_curve(self.rows(task, method)) or at]
        raise DataError(
            f"{task}, {method}: no {law} law was fitted ({'; '.join(reasons)}). Fix: give a method, law and x that "
            "`parameters` lists, or add points"
        )

    @property
    def _all(self) -> Sequence[JointFit | CurveFit]:
        return (*self.fits.values(), *self.curve_fits)

    @property
    def parameters(self) -> pd.DataFrame:
        """One row per parameter: estimate, 90 % interval, and whether the points determine it well, or why not.

        factor, x: the value that a single law was fitted at; empty for joint laws.
        """
        rows = [
            {"task": fit.task, "method": fit.method, "law": fit.law.name, "parameter": name, **fit.record(name)}
            | ({"factor": fit.factor, "x": fit.x} if isinstance(fit, CurveFit) else {})
            for fit in self._all
            for name in fit.parameters
        ]
        key, found = ("task", "method", "law", "parameter"), ("value", "low", "high", "identified", "why")
        return pd.DataFrame(rows, columns=[*key, *found, "factor", "x"])

    def figure(self, task: str | None = None) -> "ReportFigure":
        """Draw loss against finetuning examples, measured and by the laws of `parameters`, a panel per model size.

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
            return draw_methods(self, task, self.curve_fits)

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
    """Fit the multiplicative and the additive law to every method of the tasks (None: all), or else the single law.

    Raises ConfigError on an unknown task.
    """
    chosen = table.tasks if tasks is None else tuple(choose_task(table.tasks, task) for task in tasks)
    settings = settings or FitSettings()
    joint = fit_joint_laws(table, settings, tasks=chosen, resampling=resampling, progress=progress)
    over_size = {(task, method) for (task, method, _), own in joint.fits.items() if "model" in own.factors}
    rows = rows_by_method(table.settings[table.settings["task"].isin(chosen)])
    alone = [own for task, method, own in rows if (task, method) not in over_size]
    curves = tuple(curve for own in alone for curve in fit_curves(own, settings))
    return Fitted(**vars(joint), tasks=chosen, curve_fits=curves)
