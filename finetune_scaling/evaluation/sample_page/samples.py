"""What several runs wrote for the same examples, read from the rows that scoring left beside each run."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from finetune_scaling.data.task import Task, load_task
from finetune_scaling.errors import DataError
from finetune_scaling.evaluation.example_rows import EVALUATION
from finetune_scaling.files import Location, location
from finetune_scaling.runs.run_directory import RunDirectory

FIELDS = {"source": str, "reference": str, "hypothesis": str, "loss_sum": (int, float), "tokens": int}
_NEEDED = ("source", "reference")


@dataclass(frozen=True)
class Example:
    """One example, and per run what it wrote (None: it was not decoded) and its loss in nats a token (None: not told).

    target_language: None where neither row nor task tell it.
    """

    index: int
    source: str
    reference: str
    target_language: str | None
    hypotheses: tuple[str | None, ...]
    losses: tuple[float | None, ...]


@dataclass(frozen=True)
class RunSamples:
    """The rows of one run: its name on the page, its directory, its task (None for a base), and the file's objects."""

    name: str
    directory: Location
    task: Task | None
    path: Location
    rows: list[dict[str, Any]]


def read_runs(
    directories: Sequence[str], names: Sequence[str] | None, split: str, most: int | None
) -> list[RunSamples]:
    """The rows of evaluation/SPLIT.jsonl of every run, the first `most` of them (None: all).

    names: what the runs are called; None: by what their paths do not share. Raises DataError or WorkdirError where a
    directory is no run, has no such rows, or a line is none.
    """
    names = distinct_names(directories) if names is None else names
    found = []
    for name, directory in zip(names, map(location, directories), strict=True):
        task = RunDirectory(directory).config.get("task")
        path = directory / EVALUATION / f"{split}.jsonl"
        rows = list(_read(path, split))[:most]
        found.append(RunSamples(name, directory, load_task(task) if task else None, path, rows))
    return found


def joined(runs: Sequence[RunSamples]) -> list[Example]:
    """The runs' rows side by side, those that at least one run decoded.

    Raises DataError where the runs' rows are not of the same examples in the same order, or none was decoded.
    """
    first = runs[0]
    for other in runs[1:]:
        _check_same(first, other)
    language = _only_language(first.task, first.path.name.removesuffix(".jsonl"))
    examples = [
        Example(
            index=rows[0]["index"],
            source=rows[0]["source"],
            reference=rows[0]["reference"],
            target_language=rows[0].get("target_language", language),
            hypotheses=tuple(row.get("hypothesis") for row in rows),
            losses=tuple(_loss(row) for row in rows),
        )
        for rows in zip(*(run.rows for run in runs), strict=True)
        if any("hypothesis" in row for row in rows)
    ]
    if not examples:
        raise DataError(
            f"{first.path}: none of its {len(first.rows)} examples was decoded; score the run with generation "
            "(python -m finetune_scaling.evaluate --workdir=RUN, without --generate=0)"
        )
    return examples


def distinct_names(directories: Sequence[str]) -> list[str]:
    """A short name for every directory: its path without the folders that all of them share, or its last part."""
    parts = [PurePath(directory).parts for directory in directories]
    if len(parts) < 2:
        return [path[-1] if path else "run" for path in parts]
    shared = 0
    while len({path[: shared + 1] for path in parts}) == 1 and all(len(path) > shared + 1 for path in parts):
        shared += 1
    return ["/".join(path[shared:]) for path in parts]


def _read(path: Location, split: str) -> Iterator[dict[str, Any]]:
    if not path.exists():
        there = (
            sorted(p.name.removesuffix(".jsonl") for p in path.parent.glob("*.jsonl")) if path.parent.exists() else []
        )
        mend = f"--split may be {', '.join(there)}" if there else "score the run first (finetune_scaling.evaluate)"
        raise DataError(f"{path}: there are no rows of {split!r}; {mend}")
    # Not splitlines(): a text may hold U+2028, which JSON leaves as it is and which ends no line here.
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; score the run again") from None
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _checked(f"{path} line {number}", line)


def _checked(where: str, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not valid JSON ({error}); score the run again") from None
    if not isinstance(row, dict) or not isinstance(row.get("index"), int):
        raise DataError(f"{where}: not a row of an evaluation (an object with index); score the run again")
    missing = [name for name in _NEEDED if name not in row]
    if missing:
        raise DataError(f"{where}: has no {missing[0]!r}: rows of running text have no samples; choose another --split")
    for name, kind in FIELDS.items():
        if name in row and not isinstance(row[name], kind):  # type: ignore[arg-type]
            raise DataError(f"{where}: {name} is {row[name]!r}, which it cannot be; score the run again")
    return row


def _check_same(first: RunSamples, other: RunSamples) -> None:
    for place, (left, right) in enumerate(zip(first.rows, other.rows, strict=False)):
        for name in ("index", *_NEEDED):
            if left[name] != right[name]:
                raise DataError(
                    f"{other.path} row {place + 1}: {name} {_short(right[name])} is {_short(left[name])} in "
                    f"{first.path}; side by side go runs that were scored on the same examples"
                )
    if len(first.rows) != len(other.rows):
        least = min(len(first.rows), len(other.rows))
        raise DataError(
            f"{other.path} has {len(other.rows)} rows, {first.path} has {len(first.rows)}; their first {least} are of "
            f"the same examples: score both runs on as many, or take these alone with --examples={least}"
        )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _only_language(task: Task | None, split: str) -> str | None:
    """The target language of a task's split that has only one; rows of an evaluator may be of other languages."""
    parts = task.splits().get(split, ()) if task else ()
    languages = {part.target_language for part in parts}
    return languages.pop() if len(languages) == 1 else None


def _loss(row: dict[str, Any]) -> float | None:
    return row["loss_sum"] / row["tokens"] if row.get("tokens") and "loss_sum" in row else None
