"""Fits a table of points and writes the results: fit.json, tables, plots and report.html."""

import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from finetune_scaling.analysis.analysis import JOINT_LAWS, Analysis, analyse
from finetune_scaling.errors import DataError, WorkdirError
from finetune_scaling.files import Location, read_json, write_json_atomically
from finetune_scaling.laws.fitting.huber_fit import HUBER_DELTA, FitSettings
from finetune_scaling.laws.forms.declared import Law, Residual
from finetune_scaling.laws.points.bases import find_bases
from finetune_scaling.laws.points.table import read_points
from finetune_scaling.laws.points.text import Source
from finetune_scaling.laws.uncertainty.bootstrap import RESAMPLES, Resampling
from finetune_scaling.report.page import write_page
from finetune_scaling.report.plots import save
from finetune_scaling.report.records import fit_record
from finetune_scaling.report.sections import report_sections
from finetune_scaling.report.summary import parameter_lines, summary
from finetune_scaling.report.tables import finding_tables, write_tables
from finetune_scaling.report.warnings import parameter_warnings, point_warnings
from finetune_scaling.tuning.registry import METHODS

# Nested mappings of study.json, and their keys.
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
    """Fit all laws to a table of points and write fit.json, tables, plots and report.html to the directory `out`.

    Args:
      points: A CSV or JSONL file, a study's directory, or a pandas frame.
      out: The directory of the report.
      huber_delta: Threshold of the Huber loss.
      residual: "log" or "linear"; None for each law's own.
      size: Whether "total" or "non_embedding" parameters are the model size.
      methods: Valid values of the column method; None for the registered methods.
      facts: Name, metrics, baselines and notes of the study; None to read study.json next to the points.
      laws: Joint laws of X and D.
      resampling: Settings of the bootstrap.
      profile: Whether to compute profile-likelihood intervals.
      progress: Receives one line per step.

    Raises:
      DataError: The table cannot be fitted.
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
    options = _options(huber_delta, residual, size, methods, laws, resampling, profile)
    write_report(analysis, out, _command(table.path, out, options), say)
    return analysis


def write_report(analysis: Analysis, out: Path, command: str, progress: Callable[[str], None]) -> None:
    """Write fit.json, tables, plots and report.html; command: how to make the report again."""
    write_json_atomically(out / "fit.json", fit_record(analysis))
    tables = finding_tables(analysis)
    write_tables(tables, out / "tables")
    sections = report_sections(analysis, tables, command)
    plots = [plot for section in sections for plot in section.plots]
    for plot in plots:
        save(plot, out / "plots")
    progress(f"{len(plots)} plots")
    name = str(analysis.facts.get("name") or Path(analysis.table.source).stem)
    lead = f"{len(analysis.table.runs)} runs of {len(analysis.table.settings)} settings"
    write_page(out / "report.html", f"Finetuning scaling: {name}", lead, sections)
    progress(f"report: {out / 'report.html'}")


def print_summary(analysis: Analysis) -> None:
    """Print the main results, the estimated parameters of each task, and warnings."""
    warnings = [*point_warnings(analysis), *parameter_warnings(analysis)]
    blocks = [("Results", summary(analysis))]
    blocks += [(task, list(parameter_lines(analysis, task))) for task in analysis.table.tasks]
    for heading, lines in [*blocks, *([("Warnings", warnings)] if warnings else [])]:
        print(heading, *lines, sep="\n  ", flush=True)


def _facts(points: Location | None) -> dict[str, Any]:
    """Read study.json next to the points; empty without that file."""
    if points is None or not (path := points.parent / "study.json").exists():
        return {}
    try:
        facts = read_json(path)
    except WorkdirError as error:
        raise DataError(str(error)) from None
    if not isinstance(facts, dict):
        raise DataError(f"{path}: must be a JSON object with name, baselines and notes. Fix: correct or delete it")
    return _checked(str(path), facts)


def _checked(source: str, facts: dict[str, Any]) -> dict[str, Any]:
    """Return the facts; raises DataError if a mapping has another depth than FACTS."""
    for name, keys in FACTS.items():
        level = [facts.get(name, {})]
        for _ in keys:
            if not all(isinstance(value, dict) for value in level):
                form = "".join(f"{{{key}: " for key in keys) + "..." + "}" * len(keys)
                raise DataError(f"{source}: {name} must be {form}. Fix: correct or remove it")
            level = [inner for value in level for inner in value.values()]
    if not isinstance(facts.get("notes", []), list | tuple):
        raise DataError(f"{source}: notes must be a list of strings. Fix: correct or remove it")
    return facts


def _command(points: Path | None, out: Path, options: str) -> str:
    """Return the command that makes the report again."""
    if points is None:
        return f'fit_study(points, "{out}")  # points: the frame; tables/points.csv has its settings'
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
    """Return the flags that differ from their defaults."""
    how = resampling or Resampling()
    given: dict[str, Any] = {
        "huber-delta": huber_delta if huber_delta != HUBER_DELTA else None,
        "residual": residual,
        "size": size if size != "total" else None,
        "methods": ",".join(methods) if methods else None,
        "laws": ",".join(law.file or law.name for law in laws) if tuple(laws) != JOINT_LAWS else None,
        "bootstrap": how.kind if how.kind != "both" else None,
        "resamples": how.resamples if how.resamples != RESAMPLES else None,
    }
    typed = [f"--{name}={value}" for name, value in given.items() if value is not None]
    return "".join(f" {shlex.quote(option)}" for option in [*typed, *(["--profile"] if profile else [])])


def _timed(progress: Callable[[str], None], started: float) -> Callable[[str], None]:
    return lambda text: progress(f"[{time.perf_counter() - started:5.1f} s] {text}")
