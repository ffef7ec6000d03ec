"""A study, which may be in progress: the state of its bases and runs, and what came out so far."""

from collections.abc import Mapping
from typing import Any

from finetune_scaling.files import Location, read_json
from finetune_scaling.studies.configs import base_directory
from finetune_scaling.studies.execute import FAILURE, state
from finetune_scaling.studies.grid import Run, StudyConfig, read_study, runs
from finetune_scaling.studies.table import POINTS
from finetune_scaling.training.run_directory import RunDirectory

STATES = ("done", "started", "failed", "waiting")


def inspect_study(path: Location, config: Mapping[str, Any]) -> dict[str, Any]:
    """A study's directory as plain data. Raises UserError where its config or a record is broken."""
    study = read_study(config)
    rows = [_run(path, run) for run in runs(study)]
    return {
        "kind": "study",
        "path": str(path),
        "name": study.name,
        "states": _count(rows),
        "by_method": {
            f"{task},{method}": _count([row for row in rows if (row["task"], row["method"]) == (task, method)])
            for task, grid in study.tasks.items()
            for method in grid.methods
        },
        "bases": _bases(path, study),
        "runs": rows,
        "points": (path / POINTS).exists(),
        "report": (path / "report" / "report.html").exists(),
    }


def _run(workdir: Location, run: Run) -> dict[str, Any]:
    directory, setting = workdir / run.directory, run.setting
    how = state(directory)
    record = RunDirectory(directory).result if how == "done" else None
    return {
        "directory": run.directory,
        "task": setting.task,
        "method": setting.method,
        "state": how,
        "loss": record["loss"] if record else None,
        "dev_loss": record["dev_loss"] if record else None,
        "best_step": record["best_step"] if record else None,
        "seconds": record["seconds"] if record else None,
        "error": read_json(directory / FAILURE)["error"] if how == "failed" else None,
    }


def _bases(workdir: Location, study: StudyConfig) -> list[dict[str, Any]]:
    wanted = dict.fromkeys((run.setting.family, run.setting.size) for run in runs(study))
    found = []
    for family, size in wanted:
        directory = base_directory(workdir, family, size)
        record = RunDirectory(directory).result
        loss = record["loss"] if record else None
        found.append({"base": f"{family}/{size}", "state": state(directory), "dev_loss": loss})
    return found


def _count(rows: list[dict[str, Any]]) -> dict[str, int]:
    return {name: sum(row["state"] == name for row in rows) for name in STATES}
