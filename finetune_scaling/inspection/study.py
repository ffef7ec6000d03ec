"""A study, which may be in progress: the state of its bases and runs, and what came out so far."""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from finetune_scaling.files import Location, is_remote, read_json
from finetune_scaling.runs.run_directory import FAILURE, RunDirectory, run_state
from finetune_scaling.studies.configs import Base, bases
from finetune_scaling.studies.grid import Run, StudyConfig, held_out, read_study, runs
from finetune_scaling.studies.tables import POINTS

STATES = ("done", "started", "failed", "waiting")
_AT_ONCE = 32  # requests to an object store, which answers each in tens of milliseconds

Item = TypeVar("Item")


def inspect_study(path: Location, config: Mapping[str, Any]) -> dict[str, Any]:
    """A study's directory as plain data. Raises UserError where its config or a record is broken."""
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
    """The runs of a study in a directory, in the order of its grid."""
    return _each(path, lambda run: _run(path, study, run), runs(study))


def inspect_bases(path: Location, study: StudyConfig) -> list[dict[str, Any]]:
    """The bases of a study in a directory."""
    return _each(path, lambda base: _base(path, base), bases(study))


def _each(path: Location, tell: Callable[[Item], dict[str, Any]], items: Iterable[Item]) -> list[dict[str, Any]]:
    """tell(item) of every item, in order; many at once where each has to be asked for over a network."""
    if not is_remote(path):
        return [tell(item) for item in items]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(tell, items))


def _run(workdir: Location, study: StudyConfig, run: Run) -> dict[str, Any]:
    directory, setting = workdir / run.directory, run.setting
    how = run_state(directory)
    record = RunDirectory(directory).result if how == "done" else None
    return {
        "directory": run.directory,
        "state": how,
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
        **_told(record, ("loss", "dev_loss", "best_step", "seconds")),
        "metrics": record.get("metrics", {}) if record else {},
        "error": read_json(directory / FAILURE)["error"] if how == "failed" else None,
    }


def _base(workdir: Location, base: Base) -> dict[str, Any]:
    directory = base.directory(workdir)
    record = RunDirectory(directory).result
    return {
        "base": base.name,
        "state": run_state(directory),
        "dev_loss": record["loss"] if record else None,
        **_told(record, ("parameters", "parameters_non_embedding", "tokens_seen", "seconds")),
    }


def _told(record: Mapping[str, Any] | None, names: Iterable[str]) -> dict[str, Any]:
    """What a result says under these names; None where there is none yet, or it does not say."""
    return {name: (record or {}).get(name) for name in names}


def _count(rows: list[dict[str, Any]]) -> dict[str, int]:
    return {name: sum(row["state"] == name for row in rows) for name in STATES}
