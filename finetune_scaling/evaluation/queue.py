"""Evaluations of many runs one after another: checked before the first, grouped by base, resumable, with time left."""

import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from finetune_scaling.data.tokenizers.interface import Tokenizer
from finetune_scaling.data.tokenizers.loading import load_tokenizer
from finetune_scaling.errors import CheckpointError, ConfigError, DataError
from finetune_scaling.evaluation.imported import check_evaluators, imported_subject
from finetune_scaling.evaluation.metric import Metric
from finetune_scaling.evaluation.records import Record
from finetune_scaling.evaluation.subject import Prepared, Subject, done, evaluate, found_subject, prepare_evaluators
from finetune_scaling.files import Location, check_writable
from finetune_scaling.interop.hugging_face import is_model
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.runs.evaluators import Evaluator
from finetune_scaling.runs.model_loading import find_base
from finetune_scaling.runs.run_config import RunConfig
from finetune_scaling.sharding.mesh import ShardingConfig

log = logging.getLogger(__name__)

Choose = Callable[[str, RunConfig], Mapping[str, Evaluator]]  # directory, its run config -> its evaluators by name


@dataclasses.dataclass(frozen=True)
class How:
    """How runs are read and scored.

    step: of the checkpoints, None for each run's own choice; sharding, model_changes: see `find_run`;
    finetuning: whose task bases are asked; tokenizer: directory of a public model's, "" for its own;
    out: file for the one record; again: makes anew what is there;
    metrics: of generated text, None for the default ones.
    """

    step: int | None = None
    sharding: ShardingConfig = dataclasses.field(default_factory=ShardingConfig)
    model_changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    finetuning: RunConfig | None = None
    tokenizer: str = ""
    out: Location | None = None
    again: bool = False
    metrics: tuple[Metric, ...] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    """A run or base, all that it is asked, and how much of that is open."""

    name: str
    subject: Subject
    prepared: Sequence[Prepared]
    open: int

    @property
    def base(self) -> str:
        """Jobs of one base follow each other."""
        base = self.subject.base
        return f"{self.subject.directory}" if base is None else f"{base.run} {base.step}"


def plan(directories: Iterable[str], choose: Choose, how: How) -> list[Job]:
    """Jobs for the runs, those of one base together. Opens and checks everything that they need but parameters.

    Raises UserError where anything is missing or does not fit, or where other settings were scored already.
    """
    jobs = [_job(directory, choose, how) for directory in directories]
    bases = {job.base: place for place, job in reversed(list(enumerate(jobs)))}
    return sorted(jobs, key=lambda job: bases[job.base])


def _job(directory: str, choose: Choose, how: How) -> Job:
    imported = is_model(directory)
    subject, model, tokenizer = (_imported if imported else _trained_here)(directory, how)
    evaluators = choose(directory, subject.run_config)
    if imported:
        check_evaluators(evaluators)
    try:
        prepared = prepare_evaluators(evaluators, subject.run_config, tokenizer, model, how.finetuning, how.metrics)
    except (ConfigError, DataError) as error:
        raise type(error)(f"{directory}: {error}") from error  # which of many it is
    left = [one for one in prepared if how.again or done(subject, one, how.out) is None]
    if left and how.out is None:
        check_writable(subject.directory)
    return Job(directory, subject, prepared, len(left))


def _trained_here(directory: str, how: How) -> tuple[Subject, ModelConfig, Tokenizer]:
    if how.tokenizer:
        raise ConfigError(f"--tokenizer is for a public model; {directory} has its own, so leave it out")
    subject, model = found_subject(directory, how.step, how.sharding, how.model_changes)
    if subject.base is not None:
        find_base(subject.base)
    return subject, model, load_tokenizer(subject.run_config.tokenizer)


def _imported(directory: str, how: How) -> tuple[Subject, ModelConfig, Tokenizer]:
    if how.step is not None:
        raise ConfigError(f"--step is for checkpoints of runs; {directory} is a public model, so leave it out")
    return imported_subject(directory, how.finetuning, how.tokenizer, how.sharding, how.model_changes)


def work(
    jobs: Sequence[Job], how: How, tell: Callable[[Job, Prepared, Record], None] = lambda *_: None
) -> list[Exception]:
    """Makes every record that is not there, and tells them all. A damaged or foreign checkpoint spoils its run alone.

    Returns the errors of such runs.
    """
    total = sum(job.open for job in jobs)
    left, began = total, time.monotonic()
    errors: list[Exception] = []
    for job in jobs:
        subject = dataclasses.replace(job.subject, load=functools.cache(job.subject.load))  # once, and then let go
        try:
            for one in job.prepared:
                if total > 1 and (how.again or done(subject, one, how.out) is None):
                    so_far = f"{total - left + 1} of {total}, {_left(began, total, left)}"
                    log.info("evaluation %s: %s of %s", so_far, one.name, job.name)
                    left -= 1
                tell(job, one, evaluate(subject, one, how.out, how.again))
        except CheckpointError as error:
            log.error("%s: %s", job.name, error)
            errors.append(error)
    return errors


def _left(began: float, total: int, left: int) -> str:
    if left == total:
        return "time left unknown"
    return f"about {(time.monotonic() - began) / (total - left) * left / 60:.0f} min left"
