"""Paths of a run's checkpoints, and of its base model and tokenizer, which may have been moved."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from finetune_scaling.data.tokenizers.loading import load_tokenizer
from finetune_scaling.errors import CheckpointError, UserError
from finetune_scaling.files import Location, absolute, location
from finetune_scaling.runs.checkpoints import checkpoint_steps, read_metadata
from finetune_scaling.runs.run_config import BaseConfig, RunConfig
from finetune_scaling.runs.run_directory import CHECKPOINTS, CONFIG, RunDirectory

TOKENIZER = "tokenizer"  # folder in the directory of a converted model


def checkpoint_path(run: Location, step: int | None, *, prefer_best: bool) -> Location:
    """Return the folder of a run's checkpoint; if `step` is None, of the best (if preferred) or the newest one."""
    steps = list(checkpoint_steps(run))
    if step is None and prefer_best:
        step = _best_step(run, steps)
    if step is None and steps:
        step = steps[0]
    if not steps:
        _ = RunDirectory(run).config  # raises where this is not a run
    if step not in steps:
        existing = f"there are {sorted(steps)}. Fix: give one" if steps else "there are none. Fix: train the run first"
        raise CheckpointError(f"{run}: no checkpoint{'' if step is None else f' of step {step}'}; {existing}")
    return run / CHECKPOINTS / str(step)


def _best_step(run: Location, steps: list[int]) -> int | None:
    """Return the best step of a finished or unfinished run; None before its first evaluation."""
    record = RunDirectory(run).result
    if record is None and not steps:
        return None
    return (record or read_metadata(run / CHECKPOINTS / str(steps[0])))["best_step"]


def resolve_base(base: BaseConfig, directory: Location) -> BaseConfig:
    """Return the base of the run in `directory` with its current path, as a study may have been moved or copied.

    A base in the run's own study comes before the recorded path, since a copied study uses its own bases although the
    original may still exist; last come other directories of its name next to the run. Only a base with the digest that
    the run has recorded counts. If there is none, the recorded path is returned, and loading it names the mismatch.
    """
    digest = _recorded_digest(directory, "base_digest")

    def matches(path: Location) -> bool:
        if digest is None:  # nothing was trained yet
            return (path / CONFIG).exists()
        return read_metadata(checkpoint_path(path, base.step, prefer_best=False))["arrays_digest"] == digest

    return dataclasses.replace(base, run=_find_moved(base.run, directory, matches))


def resolve_tokenizer(run_config: RunConfig, directory: Location) -> str:
    """Return the current path of a run's tokenizer; see `resolve_base`.

    A converted public model has its tokenizer in its own directory, or none.
    """
    if run_config.public is not None and run_config.tokenizer:
        return str(directory / TOKENIZER)
    digest = _recorded_digest(directory, "tokenizer_sha256")

    def matches(path: Location) -> bool:
        return path.exists() and digest in (None, load_tokenizer(path).digest)

    return _find_moved(run_config.tokenizer, directory, matches) if run_config.tokenizer else ""


def _recorded_digest(directory: Location, field: str) -> str | None:
    """Return a digest that a run recorded in its result or newest checkpoint; None before the first one."""
    record: Mapping[str, Any] | None = RunDirectory(directory).result
    if record is None:
        steps = list(checkpoint_steps(directory))
        record = read_metadata(directory / CHECKPOINTS / str(steps[0])) if steps else {}
    return record.get(field)


def _find_moved(recorded: str, directory: Location, matches: Callable[[Location], bool]) -> str:
    """Return the first path that matches, or else the recorded path."""
    parts = Path(recorded).parts
    study_folders = [i for i, part in enumerate(parts) if part in ("bases", "tokenizers")]
    own = [Path(*parts[i:]) for i in study_folders[-1:]]
    names = [Path(*parts[-count:]) for count in (3, 2, 1) if count < len(parts)]
    parents = absolute(directory).parents
    candidates = (
        *(parent / tail for tail in own for parent in parents),
        location(recorded),
        *(parent / tail for tail in names for parent in parents),
    )
    for path in candidates:
        with contextlib.suppress(UserError):  # not a base or a tokenizer
            if matches(path):
                return str(path)
    return recorded
