"""Run a study and write its report: python -m finetune_scaling.study --config=configs/study/... --workdir=DIR

After an interruption, the same command resumes. With --index=I --of=N a process takes every N-th run starting with the
I-th, so that N processes, machines or array jobs share a study. --list prints the runs, and what their grid cannot
determine, without running any; --list --json prints only JSON.
"""

import logging
import sys
from collections.abc import Mapping
from pathlib import Path

from absl import flags

from finetune_scaling import command
from finetune_scaling.command_flags import config_flag, integer_flag, path_flag, read_config, required
from finetune_scaling.errors import EXIT_FAILED, ConfigError
from finetune_scaling.experiments import run
from finetune_scaling.files import local_path
from finetune_scaling.messages import count_noun
from finetune_scaling.report.report_directory import check_report_directory
from finetune_scaling.report.study_report import fit_study, print_summary
from finetune_scaling.runs import run_data
from finetune_scaling.runs.run_directory import lock_directory
from finetune_scaling.sharding.processes import run_on_primary
from finetune_scaling.strict_json import format_json
from finetune_scaling.studies.check import check_runs
from finetune_scaling.studies.execute import ExecutionSummary, execute, pending_runs
from finetune_scaling.studies.grid import StudyConfig, read_study, runs
from finetune_scaling.studies.limits import format_limits, grid_limits
from finetune_scaling.studies.listing import format_listing, list_bases, list_runs
from finetune_scaling.studies.tables import POINTS, REPORT, ready_for_report, write_tables

log = logging.getLogger(__name__)

_NAMED_FAILURES = 10

_CONFIG = config_flag("config", "Path of a study's config file.")
_WORKDIR = path_flag("workdir", "Directory of the study; finished runs in it are kept.")
_INDEX = integer_flag("index", 0, "This process's share of the runs, counted from 0.", lower_bound=0)
_OF = integer_flag("of", 1, "Number of shares that the runs are split into.", lower_bound=1)
_RETRY = flags.DEFINE_boolean("retry_failed", False, "Also retry runs that failed by their config, data or training.")
_LIST = flags.DEFINE_boolean("list", False, "Print the runs with states and costs; run nothing.")
_JSON = flags.DEFINE_boolean("json", False, "With --list: print only a JSON array.")


def main() -> None:
    """List a study, or execute this process's share of it and, once all runs are finished, write the report."""
    config, workdir = read_config(_CONFIG), local_path(_WORKDIR.value, "a study")
    study = read_study(config)
    _check_flags()
    limits = format_limits(grid_limits(study))
    if _LIST.value:
        rows = list_runs(study, workdir)
        text = format_listing(rows, list_bases(study, workdir), len(study.seeds))
        print(format_json(rows) if _JSON.value else "\n".join(filter(None, (limits, text))))
        return
    required(_WORKDIR)
    for module in (run, run_data):  # hide the tables of single runs
        logging.getLogger(module.__name__).setLevel(logging.WARNING)
    if limits:
        log.warning("%s", limits)
    check_runs(study, workdir, pending_runs(study, workdir, retry_failed=_RETRY.value))
    run_on_primary(lambda: check_report_directory(workdir / REPORT, fix="move or rename it"))
    summary = execute(study, config, workdir, _INDEX.value, _OF.value, retry_failed=_RETRY.value)
    run_on_primary(lambda: finish(study, workdir, summary))


def _check_flags() -> None:
    if _INDEX.value >= _OF.value:
        raise ConfigError(f"--index={_INDEX.value} must be below --of={_OF.value}, because shares are counted from 0")
    if _JSON.value and not _LIST.value:
        raise ConfigError("--json requires --list; the results of a study are in its points.csv and report/fit.json")
    if _LIST.value and _OF.value > 1:
        raise ConfigError("--list prints all runs of a study; remove --index and --of")


def finish(study: StudyConfig, workdir: Path, summary: ExecutionSummary) -> None:
    """Write the tables and, if no run is left to execute, the report. Exits with 1 if runs of this share failed."""
    total = len(runs(study))
    with lock_directory(workdir, wait=True):
        finished, failures = write_tables(study, workdir)
        print(f"{finished} of {total} runs finished; this process: {summary.text()}", flush=True)
        if failures:
            _print_failures(failures)
        if ready_for_report(study, finished, failures):
            fitted = fit_study(workdir / POINTS, workdir / REPORT, size=study.size, progress=log.info)
            print_summary(fitted)
            missing = f" (without the {len(failures)} failed runs)" if failures else ""
            print(f"report{missing}: {(workdir / REPORT / 'report.html').resolve()}", flush=True)
        elif finished + len(failures) < total:
            print("the report is written by the process that finishes the last run", flush=True)
    if summary.failed or summary.skipped:
        sys.exit(EXIT_FAILED)


def _print_failures(failures: Mapping[str, str]) -> None:
    named = [f"  {directory}: {error}" for directory, error in list(failures.items())[:_NAMED_FAILURES]]
    more = [f"  and {len(failures) - len(named)} more"] if len(failures) > len(named) else []
    failed = count_noun(len(failures), "run")
    error = f"error: {failed} failed; see failure.json in their directories; --retry-failed tries them again"
    print(error, *named, *more, sep="\n", file=sys.stderr, flush=True)


if __name__ == "__main__":
    command.run(main, accelerator=True)
