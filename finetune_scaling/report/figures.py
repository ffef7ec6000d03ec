"""The report's figures: which there are, in which order, and those of residuals, scores and learning rates."""

import functools
from collections.abc import Iterator

from finetune_scaling.analysis.analysis import Analysis
from finetune_scaling.laws.forms.power import SINGLE
from finetune_scaling.laws.points.columns import SENSITIVITY_FACTOR
from finetune_scaling.report import region_figure
from finetune_scaling.report.all_factors_section import all_factors_plots
from finetune_scaling.report.exponent_figure import caption, draw_exponents, exponents
from finetune_scaling.report.forgetting_figure import forgetting_plots
from finetune_scaling.report.law_figure import EXAMPLES, LOSS, draw_law, draw_methods
from finetune_scaling.report.learning_rate_figure import draw_learning_rates
from finetune_scaling.report.metric_figure import draw_metrics
from finetune_scaling.report.names import FACTOR_NAMES
from finetune_scaling.report.picture import Picture
from finetune_scaling.report.plots import (
    Plot,
    method_handles,
    method_series,
    panels,
    scatter,
    style,
)
from finetune_scaling.report.pretraining_section import pretraining_plots
from finetune_scaling.report.region_figure import draw_regions
from finetune_scaling.report.tables import predictions_table, present_factors

CAPTION = (
    "Filled: fitted; hollow: held out, never seen by the fit. Bars: one standard deviation over seeds. Bands: 90 % "
    "intervals of the curves over the bootstrap. Points without a curve: the law was not fitted to them, or does not "
    "describe them."
)


def all_plots(analysis: Analysis) -> Iterator[Plot]:
    """Every figure that these points allow, in the order of the report."""
    for number, task in enumerate(analysis.table.tasks):
        tag = f"task{number + 1}" if len(analysis.table.tasks) > 1 else "study"
        yield from _task_plots(analysis, task, tag)
    if exponents(analysis):
        draw = functools.partial(draw_exponents, analysis)
        yield Plot("exponents", "Exponents and floors", caption(analysis), draw)
    yield from pretraining_plots(analysis)


def _task_plots(analysis: Analysis, task: str, tag: str) -> Iterator[Plot]:
    factors = present_factors(analysis, task)
    if "model" in factors:
        yield Plot(
            f"{tag}-methods",
            f"{task}: methods side by side",
            f"Loss against {EXAMPLES} at each model size, lines are the {analysis.main_law} law. {CAPTION}",
            functools.partial(draw_methods, analysis, task),
        )
    yield from _region_plots(analysis, task, tag)
    for law in (*analysis.laws, SINGLE.name):
        text = f"{CAPTION} Dashed: the whole curve is extrapolated."
        for factor in factors:
            if _has_law(analysis, task, law, factor):
                yield Plot(
                    f"{tag}-{law}-{factor}",
                    f"{task}: {law} law over {FACTOR_NAMES[factor]}",
                    text,
                    functools.partial(draw_law, analysis, task, law, factor),
                )
    if any(analysis.of(task, law) for law in analysis.laws):
        yield Plot(
            f"{tag}-residuals",
            f"{task}: what the laws miss",
            "Predicted minus measured loss of every setting; hollow points were held out.",
            functools.partial(_draw_residuals, analysis, task),
        )
    yield from _extra_plots(analysis, task, tag)


def _region_plots(analysis: Analysis, task: str, tag: str) -> Iterator[Plot]:
    for found in analysis.regions:
        if found.task == task:
            yield Plot(
                f"{tag}-best-{found.factor}",
                f"{task}: which method to choose, over {FACTOR_NAMES[found.factor]}",
                region_figure.CAPTION.format(law=found.law),
                functools.partial(draw_regions, analysis, found),
            )


def _extra_plots(analysis: Analysis, task: str, tag: str) -> Iterator[Plot]:
    metrics = [m for m in analysis.table.metrics if analysis.rows(task)[m].notna().any()]
    if metrics:
        yield Plot(
            f"{tag}-metrics",
            f"{task}: loss and scores",
            "Does the loss stand for the scores? One mark a setting, all factors. Lines with 90 % bands: the law of "
            "the main metric, where one describes it.",
            functools.partial(draw_metrics, analysis, task, metrics[:3]),
        )
    if len(analysis.rows(task, factor=SENSITIVITY_FACTOR)):
        yield Plot(
            f"{tag}-learning-rate",
            f"{task}: sensitivity to the learning rate",
            "A line for each size of model and number of examples; ringed: the best rate of the line. Measured only, "
            "no law is fitted to this factor.",
            functools.partial(draw_learning_rates, analysis, task),
        )
    yield from all_factors_plots(analysis, task, tag)
    yield from forgetting_plots(analysis, task, tag)


def _has_law(analysis: Analysis, task: str, law: str, factor: str) -> bool:
    if law == SINGLE.name:
        return any((s.task, s.factor) == (task, factor) for s in analysis.singles)
    return any(factor in fit.factors for fit in analysis.of(task, law).values())


def _draw_residuals(analysis: Analysis, task: str) -> Picture:
    table = predictions_table(analysis)
    table = table[table["task"] == task]
    laws = [law for law in analysis.laws if table[f"predicted_{law}"].notna().any()]
    figure, grid = panels(1, len(laws), width=3.6, height=2.6)
    for axes, law in zip(grid.flat, laws, strict=True):
        axes.axhline(0, color="#555555", lw=0.8)
        for method in analysis.methods:
            own = table[(table["method"] == method) & table[f"predicted_{law}"].notna()]
            own = own.assign(residual=own[f"predicted_{law}"] - own["loss"])
            series, marker = method_series(method, analysis.methods), style(method, analysis.methods)[1]
            said = [
                f"loss {loss:.4g}, {law} law {gap:+.2g}" for loss, gap in zip(own["loss"], own["residual"], strict=True)
            ]
            scatter(axes, own["loss"], own, "residual", series, marker, said)
        axes.set_title(f"{law} law")
        axes.set_xlabel(f"measured {LOSS}")
    grid[0, 0].set_ylabel("predicted - measured")
    figure.legend(handles=method_handles(analysis.methods), loc="outside lower center", ncols=5)
    return figure
