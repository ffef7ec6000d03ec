"""Evaluators of a finished study: which evaluators each run has, depending on its task and method."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune_scaling import configuration
from finetune_scaling.configuration import merge
from finetune_scaling.decoding.settings import DecodingConfig
from finetune_scaling.errors import WorkdirError
from finetune_scaling.files import read_json
from finetune_scaling.runs.evaluators import (
    Evaluator,
    preset,
    read_decoding,
    read_evaluators,
    select_evaluators,
    with_decoding,
)
from finetune_scaling.runs.run_directory import CONFIG, run_state
from finetune_scaling.studies.grid import StudyConfig, StudyRun, TaskGrid, read_study, runs


def read_recorded_study(workdir: Path) -> StudyConfig:
    """Read the study of a directory. Raises WorkdirError if it is not a study's directory."""
    path = workdir / CONFIG
    config = read_json(path) if path.exists() else {}
    if "families" not in config:
        raise WorkdirError(f"{workdir}: not the directory of a study ({CONFIG} has no families); give another")
    return read_study(config)


def finished_runs(study: StudyConfig, workdir: Path) -> list[StudyRun]:
    """Return the runs whose result record exists."""
    return [run for run in runs(study) if run_state(workdir / run.directory) == "done"]


class StudyEvaluators:
    """The evaluators of a study's runs.

    config: the study; the tasks' (and methods') evaluation.evaluators and evaluation.decoding are used.
    names: the evaluators to select (default: all). A name that no task defines is that of a preset for every task.
    """

    def __init__(self, config: StudyConfig, names: Sequence[str] | None = None):
        self._names = names
        self._configured: dict[tuple[str, str], tuple[dict[str, Evaluator], DecodingConfig | None]] = {}
        for name, task in config.tasks.items():
            for method in task.methods:
                block, where = _block(task, method), f"tasks.{name}"
                evaluators = read_evaluators(block.get("evaluators"), where)
                self._configured[name, method] = evaluators, read_decoding(block, where)
        known = {name for evaluators, _ in self._configured.values() for name in evaluators}
        self._presets = [name for name in names or () if name not in known]
        for name in self._presets:
            preset(name, known, "--evaluators")

    def for_run(self, run: StudyRun) -> dict[str, Evaluator]:
        """Return the evaluators of one run by name."""
        key = (run.setting.task, run.setting.method)
        configured, decoding = self._configured.get(key, ({}, None))  # another config may lack a method
        names = list(configured) if self._names is None else self._names
        wanted = [name for name in names if name in configured or name in self._presets]
        chosen = select_evaluators(wanted, configured, "--evaluators")
        return {name: with_decoding(one, decoding) for name, one in chosen.items()}


def _block(task: TaskGrid, method: str) -> Mapping[str, Any]:
    """Return the config group `evaluation` of a method's runs on a task."""
    fields = merge(configuration.plain(task.finetune), configuration.plain(task.methods[method].config))
    return fields.get("evaluation", {})
