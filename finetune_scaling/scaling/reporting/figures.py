"""The report's figures: methods side by side, laws with their points, critical sizes, exponents, residuals, scores."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from finetune_scaling.scaling.findings.analysis import JOINT_LAWS, Analysis
from finetune_scaling.scaling.findings.critical import CriticalSize
from finetune_scaling.scaling.fitting.staged_fit import StagedFit
from finetune_scaling.scaling.laws.declared import predict
from finetune_scaling.scaling.laws.power import SINGLE
from finetune_scaling.scaling.points.table import SENSITIVITY_FACTOR
from finetune_scaling.scaling.reporting.forgetting_figure import forgetting_plots
from finetune_scaling.scaling.reporting.names import FACTOR_NAMES, human, method_name
from finetune_scaling.scaling.reporting.plots import (
    Plot,
    amounts,
    axis_label,
    held_out_handles,
    legend_of_amounts,
    log_x,
    log_y,
    log_y_counts,
    method_handles,
    panels,
    scatter,
    span,
    style,
)
from finetune_scaling.scaling.reporting.pretraining_section import pretraining_plots
from finetune_scaling.scaling.reporting.tables import predictions_table, present_factors

LOSS = "loss (nats per token)"
EXAMPLES = "finetuning examples"
CAPTION = "Filled: fitted; hollow: held out, never seen by the fit. Bars: one standard deviation over seeds."
Curve = Callable[[Any, Any], np.ndarray | None]


def all_plots(analysis: Analysis) -> Iterator[Plot]:
    """Every figure that these points allow, in the order of the report."""
    for number, task in enumerate(analysis.table.tasks):
        tag = f"task{number + 1}" if len(analysis.table.tasks) > 1 else "study"
        yield from _task_plots(analysis, task, tag)
    yield Plot(
        "exponents",
        "Exponents and floors",
        "Multiplicative law. Bars are 90 % margins from leaving out one factor value or data size at a time; a value "
        "without a bar has too few of them to tell. Pale: not identified.",
        functools.partial(_draw_exponents, analysis),
    )
    yield from pretraining_plots(analysis)


def _task_plots(analysis: Analysis, task: str, tag: str) -> Iterator[Plot]:
    factors = present_factors(analysis, task)
    if "model" in factors:
        yield Plot(
            f"{tag}-methods",
            f"{task}: methods side by side",
            f"Loss against {EXAMPLES} at each model size, lines are the multiplicative law. {CAPTION}",
            functools.partial(_draw_methods, analysis, task),
        )
    yield from _critical_plots(analysis, task, tag, factors)
    for law in (*(law.name for law in JOINT_LAWS), SINGLE.name):
        for factor in factors:
            if _has_law(analysis, task, law, factor):
                yield Plot(
                    f"{tag}-{law}-{factor}",
                    f"{task}: {law} law over {FACTOR_NAMES[factor]}",
                    f"{CAPTION} Dashed: the whole curve is extrapolated.",
                    functools.partial(_draw_law, analysis, task, law, factor),
                )
    yield Plot(
        f"{tag}-residuals",
        f"{task}: what the laws miss",
        "Predicted minus measured loss of every setting; hollow points were held out.",
        functools.partial(_draw_residuals, analysis, task),
    )
    yield from _extra_plots(analysis, task, tag)


def _critical_plots(analysis: Analysis, task: str, tag: str, factors: list[str]) -> Iterator[Plot]:
    for factor in ("model", "pretrain"):
        fits = [f for f in analysis.of(task, "multiplicative").values() if factor in f.factors]
        if factor in factors and len(fits) > 1:
            yield Plot(
                f"{tag}-best-{factor}",
                f"{task}: which method to choose, over {FACTOR_NAMES[factor]}",
                "Tint: the method whose multiplicative law predicts the least loss. Small marks: measured settings. "
                "Diamonds: critical sizes with their leave-out range, hollow where they extrapolate a method beyond "
                "its measured data, grey where a third method is better.",
                functools.partial(_draw_regions, analysis, task, factor),
            )


def _extra_plots(analysis: Analysis, task: str, tag: str) -> Iterator[Plot]:
    metrics = [m for m in analysis.table.metrics if analysis.rows(task)[m].notna().any()]
    if metrics:
        yield Plot(
            f"{tag}-metrics",
            f"{task}: loss and scores",
            "Does the loss stand for the scores? One mark a setting, all factors.",
            functools.partial(_draw_metrics, analysis, task, metrics[:3]),
        )
    if len(analysis.rows(task, factor=SENSITIVITY_FACTOR)):
        yield Plot(
            f"{tag}-learning-rate",
            f"{task}: sensitivity to the learning rate",
            "Measured only; no law is fitted to this factor.",
            functools.partial(_draw_learning_rate, analysis, task),
        )
    yield from forgetting_plots(analysis, task, tag)


def _has_law(analysis: Analysis, task: str, law: str, factor: str) -> bool:
    if law == SINGLE.name:
        return any((s.task, s.factor) == (task, factor) for s in analysis.singles)
    return any(factor in fit.factors for fit in analysis.of(task, law).values())


def _draw_methods(analysis: Analysis, task: str) -> Figure:
    rows = analysis.rows(task, factor="model")
    sizes = sorted(rows["x"].unique())
    fits = analysis.of(task, "multiplicative")
    columns = len(sizes) if len(sizes) <= 5 else 4
    figure, grid = panels(-(-len(sizes) // columns), columns, width=2.45, height=2.6, share_y=False)
    for axes in grid.flat[len(sizes) :]:
        axes.set_axis_off()
    for axes, size in zip(grid.flat, sizes, strict=False):
        here = rows[rows["x"] == size]
        for method in analysis.methods:
            own = here[here["method"] == method]
            colour, marker = style(method, analysis.methods)
            if len(own):
                scatter(axes, own["finetune_examples"], own, "loss", colour, marker)
            if len(own) and method in fits and "model" in fits[method].factors:
                examples = span(own["finetune_examples"])
                axes.plot(examples, fits[method].predict("model", size, examples), color=colour, lw=1.4)
        axes.set_title(f"{human(size)} parameters{' (held out)' if here['held_out'].all() else ''}")
        log_x(axes, rows["finetune_examples"], EXAMPLES)
        log_y(axes, LOSS if axes is grid.flat[0] else "")
    figure.legend(handles=method_handles(analysis.methods), loc="outside lower center", ncols=5)
    return figure


def _draw_law(analysis: Analysis, task: str, law: str, factor: str) -> Figure:
    """Top: loss against examples, a curve per factor value; bottom (joint laws): loss against the factor."""
    methods = [m for m in analysis.methods if len(analysis.rows(task, m, factor))]
    everything = analysis.rows(task, factor=factor)
    by_x, by_examples = amounts(everything["x"]), amounts(everything["finetune_examples"])
    joint = law != SINGLE.name
    figure, grid = panels(2 if joint else 1, len(methods))
    for column, method in enumerate(methods):
        rows = analysis.rows(task, method, factor)
        curve = _curve(analysis, task, method, law, factor)
        _draw_curves(grid[0, column], rows, "finetune_examples", "x", curve, by_x)
        log_x(grid[0, column], rows["finetune_examples"], EXAMPLES)
        grid[0, column].set_title(method_name(method))
        if joint:
            _draw_curves(grid[1, column], rows, "x", "finetune_examples", _swapped(curve), by_examples)
            log_x(grid[1, column], rows["x"], axis_label(factor))
    for axes in grid[:, 0]:
        log_y(axes, LOSS)
    legend_of_amounts(grid[0, -1], by_x, axis_label(factor))
    if joint:
        legend_of_amounts(grid[1, -1], by_examples, "examples")
    figure.legend(handles=held_out_handles(), loc="outside lower center", ncols=2)
    return figure


def _swapped(curve: Curve) -> Curve:
    return lambda examples, x: curve(x, examples)


def _curve(analysis: Analysis, task: str, method: str, law: str, factor: str) -> Curve:
    """(x, examples) -> loss, or None where the law has no fit there."""
    if law != SINGLE.name:
        fit = analysis.of(task, law).get(method)
        return (lambda x, d: fit.predict(factor, x, d)) if fit and factor in fit.factors else lambda x, d: None
    own = {s.x: s for s in analysis.singles if (s.task, s.method, s.factor) == (task, method, factor)}
    return lambda x, d: predict(SINGLE, own[x].parameters, {"D": d}) if x in own else None


def _draw_curves(axes: Axes, rows: pd.DataFrame, along: str, by: str, curve: Curve, colours: dict[float, Any]) -> None:
    """Points and curves of loss against `along`, one colour for each value of `by`."""
    grid = span(rows[along])
    for value in sorted(rows[by].unique()):
        own, colour = rows[rows[by] == value], colours[float(value)]
        scatter(axes, own[along], own, "loss", colour)
        predicted = curve(value, grid)
        if predicted is not None:
            axes.plot(grid, predicted, color=colour, lw=1.2, ls="--" if own["held_out"].all() else "-")


def _draw_regions(analysis: Analysis, task: str, factor: str) -> Figure:
    rows = analysis.rows(task, factor=factor)
    fits = {m: f for m, f in analysis.of(task, "multiplicative").items() if factor in f.factors}
    methods = list(fits)
    figure, grid = panels(1, 1, width=5.2, height=3.6)
    axes = grid[0, 0]
    x, examples = span(rows["x"], points=240), span(rows["finetune_examples"], 2.0, points=240)
    losses = np.array([fits[m].predict(factor, x[None, :], examples[:, None]) for m in methods])
    tints = np.array([np.array(to_rgb(style(m, analysis.methods)[0])) * 0.28 + 0.72 for m in methods])
    axes.pcolormesh(x, examples, tints[np.argmin(losses, axis=0)], shading="gouraud", rasterized=True)
    for place, method in enumerate(methods):
        own = rows[rows["method"] == method]
        colour, marker = style(method, analysis.methods)
        aside = (x[-1] / x[0]) ** (0.014 * (place - (len(methods) - 1) / 2))  # methods measured alike stay apart
        axes.plot(own["x"] * aside, own["finetune_examples"], marker, color=colour, ms=3, ls="none")
    log_x(axes, rows["x"], axis_label(factor))
    log_y_counts(axes, EXAMPLES)
    axes.set_xlim(x[0], x[-1])
    for size in analysis.critical:
        if (size.task, size.law, size.factor) == (task, "multiplicative", factor):
            _draw_critical(axes, size, fits, (float(examples[0]), float(examples[-1])))
    axes.set_ylim(examples[0], examples[-1])
    axes.grid(False)
    figure.legend(handles=method_handles(methods, held_out=False), loc="outside lower center", ncols=4)
    return figure


def _draw_critical(axes: Axes, size: CriticalSize, fits: dict[str, StagedFit], view: tuple[float, float]) -> None:
    """Crossings of a pair, black; grey and without a name where a third method is better than both."""
    for root in size.roots:
        if not view[0] <= root.examples <= view[1]:
            continue
        losses = {m: float(fit.predict(size.factor, size.x, root.examples)) for m, fit in fits.items()}
        leads = losses[size.methods[0]] <= min(losses.values()) + 1e-6
        colour = "black" if leads else "#8a8a8a"
        if root.low is not None and root.high is not None:
            axes.plot([size.x] * 2, [max(root.low, view[0]), min(root.high, view[1])], color=colour, lw=1.2)
        axes.plot(size.x, root.examples, "D", color=colour, ms=5, mfc="white" if root.extrapolated else colour)
        if leads:
            name = " / ".join(size.methods)
            right = size.x > np.sqrt(np.prod(axes.get_xlim()))
            offset = (-7 if right else 7, -11 if "full" not in size.methods else 5)
            side = "right" if right else "left"
            axes.annotate(name, (size.x, root.examples), offset, textcoords="offset points", fontsize=8, ha=side)


def _draw_exponents(analysis: Analysis) -> Figure:
    names = ("alpha_model", "alpha_pretrain", "alpha_pet", "beta", "E")
    fits = analysis.of_law("multiplicative")
    present = [n for n in names if any(n in f.parameters for f in fits)]
    figure, grid = panels(1, len(present), width=2.2, height=0.9 + 0.28 * len(fits))
    for axes, name in zip(grid.flat, present, strict=True):
        for place, fit in enumerate(fits):
            if name in fit.parameters:
                _draw_value(axes, place, name, fit, style(fit.method, analysis.methods))
        axes.set_title(name.replace("_", " "))
        axes.set_yticks(range(len(fits)), [f"{f.task}, {f.method}" for f in fits])
        axes.margins(x=0.15)
        if name == "E":  # a floor is below every loss: bars that say less than that end there
            floors = [f.parameters["E"] for f in fits]
            axes.set_xlim(0, 1.1 * max(analysis.table.settings["loss"].min(), *floors))
    grid[0, 0].set_ylim(len(fits) - 0.5, -0.5)
    return figure


def _draw_value(axes: Axes, place: int, name: str, fit: StagedFit, look: tuple[str, str]) -> None:
    value, margin = fit.parameters[name], fit.spread(name).margin()
    alpha = 1.0 if fit.is_identified(name) else 0.4
    if np.isfinite(margin):
        log = name == "E"
        low, high = (value / np.exp(margin), value * np.exp(margin)) if log else (value - margin, value + margin)
        axes.plot([low, high], [place] * 2, color=look[0], lw=1.6, alpha=alpha)
    axes.plot(value, place, look[1], color=look[0], ms=6, alpha=alpha)


def _draw_residuals(analysis: Analysis, task: str) -> Figure:
    table = predictions_table(analysis)
    table = table[table["task"] == task]
    laws = [law.name for law in JOINT_LAWS if f"predicted_{law.name}" in table]
    figure, grid = panels(1, len(laws), width=3.6, height=2.6)
    for axes, law in zip(grid.flat, laws, strict=True):
        axes.axhline(0, color="#555555", lw=0.8)
        for method in analysis.methods:
            own = table[(table["method"] == method) & table[f"predicted_{law}"].notna()]
            own = own.assign(residual=own[f"predicted_{law}"] - own["loss"])
            scatter(axes, own["loss"], own, "residual", *style(method, analysis.methods))
        axes.set_title(f"{law} law")
        axes.set_xlabel(f"measured {LOSS}")
    grid[0, 0].set_ylabel("predicted - measured")
    figure.legend(handles=method_handles(analysis.methods), loc="outside lower center", ncols=5)
    return figure


def _draw_metrics(analysis: Analysis, task: str, metrics: list[str]) -> Figure:
    figure, grid = panels(1, len(metrics), share_y=False)
    for axes, metric in zip(grid.flat, metrics, strict=True):
        for method in analysis.methods:
            own = analysis.rows(task, method).dropna(subset=[metric])
            if len(own):
                scatter(axes, own["loss"], own, metric, *style(method, analysis.methods))
        baseline = analysis.facts.get("baselines", {}).get(task, {}).get(metric)
        if isinstance(baseline, int | float):
            axes.axhline(baseline, color="#555555", lw=1, ls=":", label="copy baseline")
            axes.legend(loc="upper right")
        axes.set_xlabel(LOSS)
        axes.set_ylabel(metric)
    figure.legend(handles=method_handles(analysis.methods), loc="outside lower center", ncols=5)
    return figure


def _draw_learning_rate(analysis: Analysis, task: str) -> Figure:
    rows = analysis.rows(task, factor=SENSITIVITY_FACTOR)
    figure, grid = panels(1, 1, width=4.5)
    for method in analysis.methods:
        for _, own in rows[rows["method"] == method].sort_values("x").groupby("finetune_examples"):
            colour, marker = style(method, analysis.methods)
            grid[0, 0].plot(own["x"], own["loss"], color=colour, lw=0.8)
            scatter(grid[0, 0], own["x"], own, "loss", colour, marker)
    grid[0, 0].set_xscale("log")
    grid[0, 0].set_xlabel("learning rate")
    log_y(grid[0, 0], LOSS)
    figure.legend(handles=method_handles(analysis.methods), loc="outside lower center", ncols=5)
    return figure
