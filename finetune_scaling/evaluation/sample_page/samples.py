"""Samples of several runs on the same examples, read from the rows of their evaluations."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from finetune_scaling.data.task import Task, load_task
from finetune_scaling.errors import DataError
from finetune_scaling.evaluation.example_rows import EVALUATION, check_same_examples, read_rows
from finetune_scaling.files import Location, location
from finetune_scaling.runs.run_directory import RunDirectory


@dataclass(frozen=True)
class Sample:
    """One example with, per run, the hypothesis (None: not decoded) and the loss in nats per token (None: unknown).

    at_limit: whether a hypothesis was cut off at the length limit (None: unknown). target_language is None if neither
    the rows nor the task determine it.
    """

    index: int
    source: str
    reference: str
    target_language: str | None
    hypotheses: tuple[str | None, ...]
    losses: tuple[float | None, ...]
    at_limit: tuple[bool | None, ...] = ()


@dataclass(frozen=True)
class RunSamples:
    """The rows of one run, with the run's name on the page, its task (None for a base model) and the file."""

    name: str
    task: Task | None
    path: Location
    rows: list[dict[str, Any]]


def read_runs(
    directories: Sequence[str], names: Sequence[str] | None, split: str, limit: int | None
) -> list[RunSamples]:
    """Return the first `limit` (None: all) rows of evaluation/SPLIT.jsonl of every run.

    Args:
      names: names of the runs; None for the parts of their paths that differ.

    Raises DataError or WorkdirError if a directory is not a run, or its rows are missing or invalid.
    """
    names = distinct_names(directories) if names is None else names
    runs = []
    for name, directory in zip(names, map(location, directories), strict=True):
        task = RunDirectory(directory).config.get("task")
        path = directory / EVALUATION / f"{split}.jsonl"
        rows = read_rows(path, ("index", "source", "reference"))[:limit]
        runs.append(RunSamples(name, load_task(task) if task else None, path, rows))
    return runs


def align(runs: Sequence[RunSamples]) -> list[Sample]:
    """Return the samples that at least one run decoded.

    Raises DataError if the runs' rows are of different examples, or none was decoded.
    """
    first = runs[0]
    for other in runs[1:]:
        check_same_examples(other.path, other.rows, first.path, first.rows)
    language = _only_language(first.task, first.path.name.removesuffix(".jsonl"))
    samples = [
        Sample(
            index=rows[0]["index"],
            source=rows[0]["source"],
            reference=rows[0]["reference"],
            target_language=rows[0].get("target_language", language),
            hypotheses=tuple(row.get("hypothesis") for row in rows),
            losses=tuple(_loss(row) for row in rows),
            at_limit=tuple(row.get("at_limit") for row in rows),
        )
        for rows in zip(*(run.rows for run in runs), strict=True)
        if any("hypothesis" in row for row in rows)
    ]
    if not samples:
        raise DataError(f"{first.path}: no row has a hypothesis; score the run without --generate=0")
    return samples


def distinct_names(directories: Sequence[str]) -> list[str]:
    """Return a short name for every directory: its path without the common parents, or its last part."""
    parts = [PurePath(directory).parts for directory in directories]
    if len(parts) < 2:
        return [path[-1] if path else "run" for path in parts]
    shared = 0
    while len({path[: shared + 1] for path in parts}) == 1 and all(len(path) > shared + 1 for path in parts):
        shared += 1
    return ["/".join(path[shared:]) for path in parts]


def _only_language(task: Task | None, split: str) -> str | None:
    """Return the target language of a task's split, or None if there are several or the split is not the task's."""
    parts = task.splits().get(split, ()) if task else ()
    languages = {part.target_language for part in parts}
    return languages.pop() if len(languages) == 1 else None


def _loss(row: dict[str, Any]) -> float | None:
    return row["loss_sum"] / row["tokens"] if row.get("tokens") and "loss_sum" in row else None
