"""Fits a table of points and writes the results: fit.json, tables, plots and report.html."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pandas as pd

from finetune_scaling import configuration
from finetune_scaling.analysis.analysis import JOINT_LAWS, Analysis, analyse
from finetune_scaling.errors import DataError
from finetune_scaling.files import Location, local_path, read_json, write_json_atomically
from finetune_scaling.laws.fitting.huber_fit import HUBER_DELTA, FitSettings
from finetune_scaling.laws.forms.declared import Law, Residual
from finetune_scaling.laws.points.bases import find_bases
from finetune_scaling.laws.points.table import read_points
from finetune_scaling.laws.points.text import Source, clean, printable
from finetune_scaling.laws.uncertainty.bootstrap import Resampling
from finetune_scaling.messages import count_noun
from finetune_scaling.progress import with_seconds
from finetune_scaling.report.page import write_page
from finetune_scaling.report.plots import save
from finetune_scaling.report.records import fit_record
from finetune_scaling.report.report_directory import (
    PAGE,
    PLOTS,
    RECORD,
    TABLES,
    check_report_directory,
    new_report,
)
from finetune_scaling.report.sections import report_sections
from finetune_scaling.report.summary import parameter_lines, parameter_warnings, point_warnings, summary
from finetune_scaling.report.tables import finding_tables, write_tables
from finetune_scaling.report.training_runs import training_tables
from finetune_scaling.tuning.registry import METHODS

BY_TASK = ("metrics", "baselines", "evaluator_baselines")  # facts whose keys are tasks


@dataclass(frozen=True)
class Facts:
    """What the report uses of study.json: main metric and scores of trivial baselines by task, and notes.

    baselines: task -> metric -> score; evaluator_baselines: task -> evaluator -> baseline -> metric -> score.
    """

    name: str = ""
    notes: tuple[str, ...] = ()
    metrics: Mapping[str, str] = field(default_factory=dict)
    baselines: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    evaluator_baselines: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]] = field(default_factory=dict)


def fit_study(
    points: Source,
    out: str | Path,
    *,
    huber_delta: float = HUBER_DELTA,
    residual: Residual | None = None,
    size: str = "total",
    methods: Sequence[str] | None = None,
    facts: Mapping[str, Any] | None = None,
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
      facts: The fields of Facts; None to read study.json next to the points.
      laws: Joint laws of X and D.
      resampling: Settings of the bootstrap.
      profile: Whether to compute profile-likelihood intervals.
      progress: Receives one line per step.

    Raises:
      DataError: The table cannot be fitted.
      ConfigError: A fact has the wrong type.
      WorkdirError: `out` cannot be written, or holds a fit.json, report.html, tables or plots that no report wrote.
    """
    out = local_path(out, "a report")
    log = with_seconds(progress)
    check_report_directory(out)
    table = read_points(points, size, tuple(METHODS) if methods is None else methods)
    size_of_table = f"{count_noun(len(table.runs), 'run')}, {count_noun(len(table.settings), 'setting')}"
    log(f"{table.source}: {size_of_table}, {table.stopped_by_budget} stopped by budget")
    training = training_tables(table.path, log)
    settings, bases = FitSettings(huber_delta, residual), find_bases(table.path, size)
    resampling = resampling or Resampling()
    analysis = analyse(table, settings, size, _facts(facts, table.path), log, laws, resampling, profile, bases)
    command = _command(
        table.path,
        out,
        huber_delta=huber_delta,
        residual=residual,
        size=size,
        methods=",".join(methods) if methods else None,
        laws=",".join(law.file or law.name for law in laws),
        bootstrap=resampling.kind,
        resamples=resampling.resamples,
        profile=profile,
    )
    write_report(analysis, out, command, log, training)
    return analysis


def write_report(
    analysis: Analysis,
    out: Path,
    command: str,
    progress: Callable[[str], None],
    training: Mapping[str, pd.DataFrame] | None = None,
) -> None:
    """Write fit.json, tables, plots and report.html, or leave all as it was.

    command: reproduces the report; training: see training_tables.
    """
    record = fit_record(analysis)
    tables = {**finding_tables(analysis, record), **(training or {})}
    sections = report_sections(analysis, tables, command)
    plots = [plot for section in sections for plot in section.plots]
    name = str(analysis.facts.get("name") or Path(analysis.table.source).stem)
    lead = f"{count_noun(len(analysis.table.runs), 'run')} of {count_noun(len(analysis.table.settings), 'setting')}"
    with new_report(out) as folder:
        write_json_atomically(folder / RECORD, record)
        write_tables(tables, folder / TABLES)
        for plot in plots:
            save(plot, folder / PLOTS)
        write_page(folder / PAGE, f"Finetuning scaling: {name}", lead, sections)
    progress(f"{len(plots)} plots")
    progress(f"report: {out / PAGE}")


def print_summary(analysis: Analysis) -> None:
    """Print the main results, the estimated parameters of each task, and warnings."""
    warnings = [*point_warnings(analysis), *parameter_warnings(analysis)]
    blocks = [("Results", summary(analysis))]
    blocks += [(task, lines) for task in analysis.table.tasks if (lines := list(parameter_lines(analysis, task)))]
    for heading, lines in [*blocks, *([("Warnings", warnings)] if warnings else [])]:
        print(heading, *lines, sep="\n  ", flush=True)


def _command(points: Location | None, out: Path, **flags: Any) -> str:
    """Return the command that reproduces the report; flags that are None are omitted."""
    if points is None:
        return f"fit_study(points, {str(out)!r})  # points: the frame; tables/points.csv has its settings"
    given = {"points": points, "out": out, **flags}
    typed = [f"--{name}={value}" for name, value in given.items() if value is not None]
    return printable(shlex.join(["python", "-m", "finetune_scaling.fit", *typed]))


def _facts(given: Mapping[str, Any] | None, points: Location | None) -> dict[str, Any]:
    """Return the checked facts: the given ones, or else study.json next to the points."""
    source, facts = "facts", {} if given is None else given
    if given is None and points is not None and (file := points.parent / "study.json").exists():
        source, facts = str(file), read_json(file, fix="correct or delete it")
    if not isinstance(facts, Mapping):
        raise DataError(f"{source}: must be a JSON object with name, baselines and notes. Fix: correct or delete it")
    names = {one.name for one in fields(Facts)}
    known = {name: value for name, value in facts.items() if name in names}
    facts = configuration.plain(configuration.build(Facts, known, source))
    by_task = {name: {clean(task): value for task, value in facts[name].items()} for name in BY_TASK}
    return facts | by_task | {"name": printable(facts["name"]), "notes": [*map(printable, facts["notes"])]}
