"""Evaluators of a finished study: which of them each run has, by its task, and points.csv once they are done."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune_scaling import configuration
from finetune_scaling.errors import WorkdirError
from finetune_scaling.evaluation.evaluators import Evaluator, named_evaluators, preset, read_evaluators
from finetune_scaling.files import read_json
from finetune_scaling.studies.configs import merge
from finetune_scaling.studies.execute import state
from finetune_scaling.studies.grid import Run, StudyConfig, read_study, runs
from finetune_scaling.training.run_directory import CONFIG


def recorded_study(workdir: Path) -> StudyConfig:
    """The study that a directory holds. Raises WorkdirError where it holds none."""
    path = workdir / CONFIG
    config = read_json(path) if path.exists() else {}
    if "families" not in config:
        raise WorkdirError(f"{workdir}: not the directory of a study (it has no {CONFIG} of one)")
    return read_study(config)


def finished_runs(study: StudyConfig, workdir: Path) -> list[Run]:
    """The runs that are trained and scored by their own configs."""
    return [run for run in runs(study) if state(workdir / run.directory) == "done"]


class StudyEvaluators:
    """The evaluators of a study's runs.

    config: the study whose tasks name them, in finetune.evaluation.evaluators or a method's own; names: which of them,
    all by default. A name that no task has is a preset, and for every task.
    """

    def __init__(self, config: StudyConfig, names: Sequence[str] | None = None):
        self._configured = {
            (task_name, method): read_evaluators(_block(config, task_name, method), f"tasks.{task_name}")
            for task_name, task in config.tasks.items()
            for method in task.methods
        }
        self._names = names
        known = {name for evaluators in self._configured.values() for name in evaluators}
        self._presets = [name for name in names or () if name not in known]
        for name in self._presets:
            preset(name, known, "--evaluators")

    def of(self, run: Run) -> dict[str, Evaluator]:
        """The evaluators of one run by name."""
        configured = self._configured.get((run.setting.task, run.setting.method), {})
        if self._names is None:
            return dict(configured)
        wanted = [name for name in self._names if name in configured or name in self._presets]
        return named_evaluators(wanted, configured, "--evaluators")


def _block(config: StudyConfig, task_name: str, method: str) -> Mapping[str, Any] | None:
    task = config.tasks[task_name]
    fields = merge(configuration.plain(task.finetune), configuration.plain(task.methods[method].config))
    return fields.get("evaluation", {}).get("evaluators")
