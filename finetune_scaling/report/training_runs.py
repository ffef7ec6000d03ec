"""How the runs of a study trained: dev loss by step, and seconds; read from the study's directory, if there is one."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd

from finetune_scaling.analysis.analysis import Analysis
from finetune_scaling.analysis.joint_fits import ordered_methods
from finetune_scaling.errors import UserError
from finetune_scaling.files import Location
from finetune_scaling.formatting import format_count, method_name
from finetune_scaling.laws.points.columns import SENSITIVITY_FACTOR, SETTING, SWEPT_SIZE
from finetune_scaling.report.plots import (
    LOSS,
    ReportFigure,
    add_tooltips,
    figure_name,
    log_x,
    log_y,
    panels,
    quantity_colours,
    quantity_legend,
)
from finetune_scaling.runs.run_directory import RunDirectory
from finetune_scaling.studies.grid import StudyRun, factor_value, read_study, runs

Tables = dict[str, pd.DataFrame]
CURVES, TIMES = "learning_curves", "run_times"


def training_tables(points: Location | None, progress: Callable[[str], None]) -> Tables:
    """Return the learning curves and the times of the finished runs of the study that wrote a table of points.

    learning_curves: one row per run and evaluation; run_times: one row per setting, `seconds` being the mean over
    seeds. Empty for points that no study in their directory wrote.
    """
    if points is None or not (points.parent / "runs").is_dir():
        return {}
    try:
        study = read_study(RunDirectory(points.parent).config)
        records = [(run, RunDirectory(points.parent / run.directory).result) for run in runs(study)]
    except UserError as error:
        progress(f"no learning curves: {error}")
        return {}
    finished = [(run, record) for run, record in records if record]
    curves = pd.DataFrame([row for run, record in finished for row in _curve(run, record)])
    times = pd.DataFrame([row for run, record in finished for row in _times(run, record)])
    if len(times):
        times = times.groupby(SETTING, as_index=False, sort=False)["seconds"].mean()
    return {name: table for name, table in ((CURVES, curves), (TIMES, times)) if len(table)}


def _curve(run: StudyRun, record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    setting = run.setting
    for step, loss in record["dev_losses"].items():
        if loss is None or not math.isfinite(loss):
            continue
        yield {
            "run": run.directory,
            "task": setting.task,
            "method": setting.method,
            "parameters": record["parameters"],
            "finetune_examples": setting.finetune_examples,
            "seed": run.seed,
            "step": int(step),
            "dev_loss": loss,
        }


def _times(run: StudyRun, record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the seconds of a run once for each of its factors, as points.csv lists it."""
    setting = run.setting
    for factor in setting.factors:
        yield {
            "task": setting.task,
            "method": setting.method,
            "factor": factor,
            "x": float(factor_value(setting, factor, record["parameters"], record["learning_rate"])),
            "finetune_examples": float(setting.finetune_examples),
            SWEPT_SIZE: float(record["parameters"]) if factor == SENSITIVITY_FACTOR else 0.0,
            "seconds": record["seconds"],
        }


def draw_learning_curves(_: Analysis, task: str, curves: pd.DataFrame) -> ReportFigure:
    """Draw dev loss against step: a panel per method, a line per run, a colour per dataset size."""
    rows = curves[curves["task"] == task]
    methods = ordered_methods(rows["method"])
    colours = quantity_colours(rows["finetune_examples"])
    figure, grid = panels(len(methods), share_y=True)
    for axes, method in zip(grid, methods, strict=True):
        for _, run in rows[rows["method"] == method].groupby("run", sort=False):
            _draw_run(axes, run.sort_values("step"), colours)
        axes.set_title(figure_name(method_name(method)))
        log_x(axes, rows["step"].clip(lower=1), "steps")
    log_y(grid[0], f"dev {LOSS}")
    quantity_legend(grid[-1], colours, "examples")
    return figure


def _draw_run(axes: Any, run: pd.DataFrame, colours: dict[float, Any]) -> None:
    first, best = run.iloc[0], run.loc[run["dev_loss"].idxmin()]
    colour = colours[float(first["finetune_examples"])]
    axes.plot(run["step"].clip(lower=1), run["dev_loss"], color=colour, lw=0.9, alpha=0.7, marker="o", ms=2)
    text = (
        f"{method_name(first['method'])}, {format_count(first['parameters'])} parameters, "
        f"{format_count(first['finetune_examples'])} examples, seed {first['seed']}: lowest dev loss "
        f"{best['dev_loss']:.4g} at step {best['step']}"
    )
    add_tooltips(axes, [max(best["step"], 1)], [best["dev_loss"]], [text])
