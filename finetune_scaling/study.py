"""Runs a study to its report: python -m finetune_scaling.study --config=configs/study/... --workdir=DIR

Start it again after any interruption and it goes on. --index=I --of=N takes every N-th run from the I-th on, so that N
processes, machines or array jobs share a study. --list shows the runs and runs nothing; --list --json prints JSON only.
"""

import json
import logging
import sys
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from finetune_scaling import command
from finetune_scaling.errors import EXIT_FAILED, ConfigError
from finetune_scaling.files import local_path
from finetune_scaling.report.study_report import fit_study, print_summary
from finetune_scaling.runs.run_directory import lock_directory
from finetune_scaling.sharding.roles import run_on_primary
from finetune_scaling.studies.bases import write_bases
from finetune_scaling.studies.check import check_runs
from finetune_scaling.studies.execute import Tally, execute, waiting
from finetune_scaling.studies.grid import StudyConfig, read_study, runs
from finetune_scaling.studies.table import POINTS, base_listing, listing, write_facts, write_points

log = logging.getLogger(__name__)

_CONFIG = config_flags.DEFINE_config_file("config", help_string="Path of a study's config file.")
_WORKDIR = flags.DEFINE_string("workdir", "", "Directory of the study; what is in it already is gone on with.")
_INDEX = flags.DEFINE_integer("index", 0, "Which share of the runs is this process's, from 0.", lower_bound=0)
_OF = flags.DEFINE_integer("of", 1, "How many shares there are.", lower_bound=1)
_LIST = flags.DEFINE_boolean("list", False, "List the runs, their states and costs, and run nothing.")
_JSON = flags.DEFINE_boolean("json", False, "With --list: a JSON array on stdout and nothing else.")


def main() -> None:
    """Lists a study, or runs this process's share of it and, when all is done, fits its laws and writes the report."""
    config, workdir = command.read_config(_CONFIG), local_path(_WORKDIR.value, "a study")
    study = read_study(config)
    _check_flags()
    if _LIST.value:
        print_listing(study, workdir)
        return
    command.required(_WORKDIR)
    for module in ("runs.run", "training.inputs"):  # every single run's tables would bury the study's progress
        logging.getLogger(f"finetune_scaling.{module}").setLevel(logging.WARNING)
    check_runs(study, workdir, waiting(study, workdir))
    tally = execute(study, config, workdir, _INDEX.value, _OF.value)
    run_on_primary(lambda: finish(study, workdir, tally))


def _check_flags() -> None:
    if _INDEX.value >= _OF.value:
        raise ConfigError(f"--index={_INDEX.value} must be below --of={_OF.value}; shares are counted from 0")
    if _JSON.value and not _LIST.value:
        raise ConfigError("--json is for --list; a study's results are in its points.csv and report/fit.json")
    if _LIST.value and _OF.value > 1:
        raise ConfigError("--list shows all runs of a study; leave --index and --of out")


def finish(study: StudyConfig, workdir: Path, tally: Tally) -> None:
    """Writes the points of what is done; with nothing missing, fits and reports. Exits with 1 where runs failed."""
    total = len(runs(study))
    with lock_directory(workdir, wait=True):
        finished = write_points(study, workdir)
        write_bases(study, workdir)
        print(f"{finished} of {total} runs finished; this process: {tally.text()}", flush=True)
        if finished == total:
            write_facts(study, workdir)
            fitted = fit_study(workdir / POINTS, workdir / "report", size=study.size, progress=log.info)
            print_summary(fitted)
            print(f"report: {(workdir / 'report' / 'report.html').resolve()}", flush=True)
    if tally.failed:
        fit = f"python -m finetune_scaling.fit --points={workdir / POINTS} --out={workdir / 'report'}"
        without = f"; to have a report without them: {fit}" if finished else ""
        print(f"error: {tally.failed} runs failed; see failure.json in their directories{without}", file=sys.stderr)
        sys.exit(EXIT_FAILED)
    if finished < total:
        print("the report is written by the process that finishes the last run", flush=True)


def print_listing(study: StudyConfig, workdir: Path) -> None:
    """All runs with their states and costs, then the totals; with --json the runs alone."""
    rows = listing(study, workdir)
    if _JSON.value:
        print(json.dumps(rows))
        return
    for row in rows:
        print(_list_line(row))
    bases = base_listing(study, workdir)
    to_do = [row for row in rows if row["state"] != "done"]
    known = sum(row["expected_seconds"] or 0.0 for row in (*to_do, *bases))
    print(
        f"{len(rows)} runs ({len(rows) // len(study.seeds)} settings x {len(study.seeds)} seeds), "
        f"{len(to_do)} to do; "
        f"{sum(row['flops'] for row in rows):.3g} FLOPs to finetune, "
        f"{sum(row['flops'] for row in bases):.3g} to pretrain {len(bases)} bases; " + _time_to_go(len(to_do), known)
    )


def _time_to_go(to_do: int, seconds: float) -> str:
    if not to_do:
        return "all done"
    return f"about {max(1.0, seconds / 60):.0f} min to go" if seconds else "time is told once some runs are done"


def _list_line(row: dict[str, Any]) -> str:
    seconds = row["seconds"] or row["expected_seconds"]
    time = "" if seconds is None else f"{seconds:8.1f} s"
    mark = "held out" if row["held_out"] else ""
    return (
        f"{row['state']:<8} {row['flops']:9.2e} FLOPs {time:>10}  {row['factor']:<8} x={row['x']:<13,} {mark:<8} "
        f"{row['directory'].removeprefix('runs/')}"
    )


if __name__ == "__main__":
    command.run(main)
