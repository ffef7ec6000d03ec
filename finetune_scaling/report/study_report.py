"""Fit a table of points and write everything that follows from it: fit.json, tables, plots and report.html."""

import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from finetune_scaling.analysis.analysis import JOINT_LAWS, Analysis, analyse
from finetune_scaling.errors import DataError, WorkdirError
from finetune_scaling.files import Location, read_json
from finetune_scaling.laws.fitting.huber_fit import HUBER_DELTA, FitSettings
from finetune_scaling.laws.forms.declared import Law, Residual
from finetune_scaling.laws.points.bases import find_bases
from finetune_scaling.laws.points.table import read_points
from finetune_scaling.laws.points.text import Source
from finetune_scaling.laws.uncertainty.bootstrap import RESAMPLES, Resampling
from finetune_scaling.report.figures import all_plots
from finetune_scaling.report.plots import save
from finetune_scaling.report.report import write_report
from finetune_scaling.report.reservations import reservations, unidentified
from finetune_scaling.report.tables import write_tables
from finetune_scaling.report.words import summary
from finetune_scaling.tuning.registry import METHODS

# What may be known of a study beside its points, and by what it is looked up.
FACTS = {
    "metrics": ("task",),
    "baselines": ("task", "metric"),
    "evaluator_baselines": ("task", "evaluator", "baseline", "metric"),
}


def fit_study(
    points: Source,
    out: str | Path,
    *,
    huber_delta: float = HUBER_DELTA,
    residual: Residual | None = None,
    size: str = "total",
    methods: Sequence[str] | None = None,
    facts: dict[str, Any] | None = None,
    laws: Sequence[Law] = JOINT_LAWS,
    resampling: Resampling | None = None,
    profile: bool = False,
    progress: Callable[[str], None] = print,
) -> Analysis:
    """Fits all laws to a table of points and writes fit.json, tables, plots and report.html below `out`.

    points: a CSV or JSONL file, a study's directory, or a pandas frame; methods: names that the column method may
    hold (None: the registered methods); facts: a study's name, baselines {task: {metric: value}} and notes for the
    report, read from study.json beside the points where not given; laws: joint laws of X and D; resampling: how the
    bootstrap is drawn; profile: whether to profile every parameter. Raises DataError on a table that cannot be fitted.
    """
    out = Path(out)
    started = time.perf_counter()
    say = _timed(progress, started)
    table = read_points(points, size, tuple(METHODS) if methods is None else methods)
    say(
        f"{table.source}: {len(table.runs)} runs, {len(table.settings)} settings, {table.stopped_by_budget} stopped by "
        "budget"
    )
    facts = _facts(table.path) if facts is None else _checked("facts", facts)
    settings, bases = FitSettings(huber_delta, residual), find_bases(table.path, size)
    analysis = analyse(table, settings, size, facts, say, laws, resampling, profile, bases)
    write_tables(analysis, out)
    plots = list(all_plots(analysis))
    for plot in plots:
        save(plot, out / "plots")
    say(f"{len(plots)} plots")
    options = _options(huber_delta, residual, size, methods, laws, resampling, profile)
    report = write_report(analysis, plots, out, _command(table.path, out, options))
    say(f"report: {report}")
    return analysis


def print_summary(analysis: Analysis) -> None:
    """Prints the report's summary and reservations: headings, and under each its sentences."""
    remarks = reservations(analysis) + unidentified(analysis)
    for heading, lines in [*summary(analysis), *([("Reservations", remarks)] if remarks else [])]:
        print(heading, *lines, sep="\n  ", flush=True)


def _facts(points: Location | None) -> dict[str, Any]:
    """What study.json beside the points says; nothing where there is none."""
    if points is None or not (path := points.parent / "study.json").exists():
        return {}
    try:
        facts = read_json(path)
    except WorkdirError as error:
        raise DataError(str(error)) from None
    if not isinstance(facts, dict):
        raise DataError(f"{path}: must hold one JSON object with name, baselines and notes; correct or delete it")
    return _checked(str(path), facts)


def _checked(source: str, facts: dict[str, Any]) -> dict[str, Any]:
    """The facts, whose mappings are as deep as the report reads them; DataError names the first that is not."""
    for name, keys in FACTS.items():
        level = [facts.get(name, {})]
        for _ in keys:
            if not all(isinstance(value, dict) for value in level):
                form = "".join(f"{{{key}: " for key in keys) + "..." + "}" * len(keys)
                raise DataError(f"{source}: {name} must be {form}, but holds something else; correct or drop it")
            level = [inner for value in level for inner in value.values()]
    if not isinstance(facts.get("notes", []), list | tuple):
        raise DataError(f"{source}: notes must be a list of texts; correct or drop it")
    return facts


def _command(points: Path | None, out: Path, options: str) -> str:
    """How to make the report again."""
    if points is None:
        return f'fit_study(points, "{out}")  # points: the frame, which tables/points.csv has as settings'
    paths = shlex.join([f"--points={points}", f"--out={out}"])
    return f"python -m finetune_scaling.fit {paths}{options}"


def _options(
    huber_delta: float,
    residual: str | None,
    size: str,
    methods: Sequence[str] | None,
    laws: Sequence[Law],
    resampling: Resampling | None,
    profile: bool,
) -> str:
    """Options other than the defaults, as typed."""
    how = resampling or Resampling()
    given: dict[str, Any] = {
        "huber-delta": huber_delta if huber_delta != HUBER_DELTA else None,
        "residual": residual,
        "size": size if size != "total" else None,
        "methods": ",".join(methods) if methods else None,
        "laws": ",".join(law.given for law in laws) if tuple(laws) != JOINT_LAWS else None,
        "bootstrap": how.kind if how.kind != "both" else None,
        "resamples": how.resamples if how.resamples != RESAMPLES else None,
    }
    typed = [f"--{name}={value}" for name, value in given.items() if value is not None]
    return "".join(f" {shlex.quote(option)}" for option in [*typed, *(["--profile"] if profile else [])])


def _timed(progress: Callable[[str], None], started: float) -> Callable[[str], None]:
    return lambda text: progress(f"[{time.perf_counter() - started:5.1f} s] {text}")
