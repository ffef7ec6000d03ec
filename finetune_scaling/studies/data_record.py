"""Digests of a study's data, recorded when it is first read: all processes and later calls train on the same data."""

from collections.abc import Sequence
from pathlib import Path

from finetune_scaling.errors import DataError
from finetune_scaling.files import read_json, write_json_atomically
from finetune_scaling.runs.run_config import read_run_config
from finetune_scaling.runs.run_data import corpus_digests, task_digests
from finetune_scaling.runs.run_directory import lock_directory
from finetune_scaling.sharding.processes import run_on_primary
from finetune_scaling.studies.configs import bases, finetuning_config, pretraining_config
from finetune_scaling.studies.grid import StudyConfig, StudyRun

DATA = "data.json"  # {"tasks.NAME" or "families.NAME": {split: digest}}

Digests = dict[str, dict[str, str]]


def check_same_data(study: StudyConfig, workdir: Path, runs: Sequence[StudyRun]) -> None:
    """Compare the data of `runs` and their bases with the digests in the study's directory, and record new ones.

    Raises DataError that names the task or family and the split if its data changed.
    """
    digests = _digests(study, workdir, runs)
    with lock_directory(workdir, wait=True):
        run_on_primary(lambda: _compare(workdir / DATA, digests))


def _digests(study: StudyConfig, workdir: Path, runs: Sequence[StudyRun]) -> Digests:
    found: Digests = {}
    for base in bases(study, runs):
        if not base.is_public and f"families.{base.family}" not in found:
            corpus = read_run_config(pretraining_config(study, workdir, base)).corpus
            assert corpus is not None
            found[f"families.{base.family}"] = corpus_digests(corpus)
    for run in {run.setting.task: run for run in runs}.values():
        run_config = read_run_config(finetuning_config(study, workdir, run))
        found[f"tasks.{run.setting.task}"] = task_digests(run_config)
    return found


def _compare(path: Path, digests: Digests) -> None:
    recorded: Digests = read_json(path) if path.exists() else {}
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
