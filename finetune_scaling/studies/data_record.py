"""Digests of a study's data, recorded when it is first read: all processes and later calls train on the same data."""

from collections.abc import Sequence
from pathlib import Path

from finetune_scaling.errors import DataError
from finetune_scaling.files import read_json_object, write_json_atomically
from finetune_scaling.runs.run_config import RunConfig, read_run_config
from finetune_scaling.runs.run_data import corpus_digests, task_digests, warn_of_changed_data
from finetune_scaling.runs.run_directory import lock_directory
from finetune_scaling.sharding.processes import run_on_primary
from finetune_scaling.studies.configs import bases, finetuning_config, pretraining_config
from finetune_scaling.studies.grid import StudyConfig, StudyRun, runs

DATA = "data.json"  # {"tasks.NAME" or "families.NAME": {split: digest}}

Digests = dict[str, dict[str, str]]


def check_same_data(study: StudyConfig, workdir: Path, pending: Sequence[StudyRun]) -> None:
    """Compare the data of `pending` and their bases with the digests in the study's directory, and record new ones.

    Raises DataError that names the task or family and the split if its data changed.
    """
    configs = _configs(study, workdir, pending)
    digests = {
        field: task_digests(config) if config.corpus is None else corpus_digests(config.corpus)
        for field, config in configs.items()
    }
    with lock_directory(workdir, wait=True):
        run_on_primary(lambda: _compare(workdir / DATA, digests))


def changed_data(study: StudyConfig, workdir: Path) -> dict[str, list[str]]:
    """Return, by task or family, the splits whose data is not what the study's results are of; log each."""
    recorded = _recorded(workdir / DATA)
    keeps = "the recorded results and baselines are kept"
    return {
        field: warn_of_changed_data(config, recorded.get(field, {}), f"{workdir}, {field}", keeps)
        for field, config in _configs(study, workdir, runs(study)).items()
    }


def _configs(study: StudyConfig, workdir: Path, of_runs: Sequence[StudyRun]) -> dict[str, RunConfig]:
    """Return one run config for each family and task of these runs."""
    families = {base.family: base for base in bases(study, of_runs) if not base.is_public}
    tasks = {run.setting.task: run for run in of_runs}
    return {
        f"families.{name}": read_run_config(pretraining_config(study, workdir, base)) for name, base in families.items()
    } | {f"tasks.{name}": read_run_config(finetuning_config(study, workdir, run)) for name, run in tasks.items()}


def _recorded(path: Path) -> Digests:
    return read_json_object(path) if path.exists() else {}


def _compare(path: Path, digests: Digests) -> None:
    recorded = _recorded(path)
    for field, splits in digests.items():
        known = recorded.setdefault(field, {})
        for name, digest in splits.items():
            if known.setdefault(name, digest) != digest:
                raise DataError(
                    f"{field}: the data of split {name} changed since this study first read it (it was {known[name]} "
                    f"and is {digest}), so its runs would not be comparable. Fix: restore the data, choose another "
                    f"--workdir, or delete {path} and the study's runs on the old data"
                )
    write_json_atomically(path, recorded)
