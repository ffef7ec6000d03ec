"""The content of a study directory, finished or in progress: state and results of its base models and runs."""

import functools
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from finetune_scaling.files import Location, check_record, is_remote, read_json
from finetune_scaling.runs.run_directory import FAILURE, RunDirectory, run_state
from finetune_scaling.studies.configs import Base, bases
from finetune_scaling.studies.grid import StudyConfig, StudyRun, held_out, read_study, runs
from finetune_scaling.studies.tables import POINTS

STATES = ("done", "started", "failed", "waiting")
_CONCURRENT_REQUESTS = 32  # to an object store, which takes tens of milliseconds for each


def inspect_study(path: Location, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a study directory. Raises UserError if its config or a record is damaged."""
    study = read_study(config)
    rows = inspect_runs(path, study)
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
        "bases": inspect_bases(path, study),
        "runs": rows,
        "points": (path / POINTS).exists(),
        "report": (path / "report" / "report.html").exists(),
    }


def inspect_runs(path: Location, study: StudyConfig) -> list[dict[str, Any]]:
    """Return one dict per run of the study, in the order of its grid."""
    return _inspect_each(path, functools.partial(_run, path, study), runs(study))


def inspect_bases(path: Location, study: StudyConfig) -> list[dict[str, Any]]:
    """Return one dict per base model of the study."""
    return _inspect_each(path, functools.partial(_base, path), bases(study))


def _inspect_each(path: Location, inspect: Callable[[Any], dict[str, Any]], items: Iterable[Any]) -> list[dict]:
    """Return inspect(item) for every item, in order; concurrently if `path` is in an object store."""
    with ThreadPoolExecutor(_CONCURRENT_REQUESTS if is_remote(path) else 1) as pool:
        return list(pool.map(inspect, items))


def _run(workdir: Location, study: StudyConfig, run: StudyRun) -> dict[str, Any]:
    directory, setting = workdir / run.directory, run.setting
    state = run_state(directory)
    record = RunDirectory(directory).result if state == "done" else None
    failure = read_json(directory / FAILURE) if state == "failed" else {"error": None}
    check_record(directory / FAILURE, failure, {"error!": str})
    return {
        "directory": run.directory,
        "state": state,
        "task": setting.task,
        "method": setting.method,
        "family": setting.family,
        "model": setting.size,
        "pretrain_tokens": setting.tokens,
        "pet_size": setting.pet_size,
        "learning_rate": setting.learning_rate,
        "finetune_examples": setting.finetune_examples,
        "seed": run.seed,
        "held_out": held_out(study, setting),
        **_fields(record, ("loss", "dev_loss", "best_step", "seconds")),
        "metrics": record.get("metrics", {}) if record else {},
        "error": failure["error"],
    }


def _base(workdir: Location, base: Base) -> dict[str, Any]:
    directory = base.directory(workdir)
    record = RunDirectory(directory).result
    return {
        "base": base.name,
        "state": run_state(directory),
        "dev_loss": record.get("loss") if record else None,
        **_fields(record, ("parameters", "parameters_non_embedding", "tokens_seen", "seconds")),
    }


def _fields(record: Mapping[str, Any] | None, names: Iterable[str]) -> dict[str, Any]:
    """Return these fields of a result record; None for those that it does not have, or without a record."""
    return {name: (record or {}).get(name) for name in names}


def _count(rows: list[dict[str, Any]]) -> dict[str, int]:
    return {name: sum(row["state"] == name for row in rows) for name in STATES}
