"""Evaluations of many models: all are checked before the first one starts, and existing records are not recomputed."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from finetune_scaling.data.tokenizers.interface import Tokenizer
from finetune_scaling.data.tokenizers.loading import load_tokenizer
from finetune_scaling.errors import CheckpointError, ConfigError, DataError, MissingDataError
from finetune_scaling.evaluation.evaluated_model import EvaluatedModel, open_public_model, open_run
from finetune_scaling.evaluation.prepared_evaluation import (
    PreparedEvaluation,
    check_base_writable,
    evaluate,
    existing_record,
    prepare_evaluators,
)
from finetune_scaling.evaluation.records import Record
from finetune_scaling.evaluation.text_evaluation import check_public_model_evaluators
from finetune_scaling.files import Location, check_writable
from finetune_scaling.metrics.metric import Metric
from finetune_scaling.runs.evaluators import Evaluator
from finetune_scaling.runs.model_loading import find_base
from finetune_scaling.runs.run_config import RunConfig
from finetune_scaling.runs.run_directory import is_public_model
from finetune_scaling.sharding.mesh import ShardingConfig

log = logging.getLogger(__name__)

_MOVED = (
    " (such as --config.task.sources.data_dir=DIR) in another call of `train` or `study` with the run's config and "
    "workdir, which trains nothing that is finished but records the new place"
)

ChooseEvaluators = Callable[[str, RunConfig], Mapping[str, Evaluator]]  # (directory, run_config) -> by name
OnRecord = Callable[["EvaluationJob", PreparedEvaluation, Record], None]


@dataclasses.dataclass(frozen=True)
class EvaluationOptions:
    """Options shared by all evaluations of a call.

    Attributes:
      step: checkpoint to score; None for the best one (of a base model: the newest one).
      sharding, model_changes: see `find_run`.
      finetuning: the run config whose task base and public models are scored on.
      tokenizer: directory of a public model's tokenizer; "" for its own.
      out: path of the only record.
      overwrite: recompute existing records.
      metrics: metrics of generated text; None for the default ones.
    """

    step: int | None = None
    sharding: ShardingConfig = dataclasses.field(default_factory=ShardingConfig)
    model_changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    finetuning: RunConfig | None = None
    tokenizer: str = ""
    out: Location | None = None
    overwrite: bool = False
    metrics: tuple[Metric, ...] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class EvaluationJob:
    """The evaluations of one model; `missing` names those without a record."""

    name: str
    model: EvaluatedModel
    prepared: Sequence[PreparedEvaluation]
    missing: frozenset[str]

    @property
    def base(self) -> str:
        """An identifier of the base model, by which jobs are grouped."""
        base = self.model.base
        return f"{self.model.directory}" if base is None else f"{base.run} {base.step}"


def plan_evaluations(
    directories: Iterable[str], choose: ChooseEvaluators, options: EvaluationOptions
) -> list[EvaluationJob]:
    """Return one job per model, grouped by base model. Everything but parameters is opened and checked here.

    Raises UserError if anything is missing or does not fit, or if a record of other settings exists.
    """
    jobs = [_job(directory, choose, options) for directory in directories]
    bases = [job.base for job in jobs]
    return sorted(jobs, key=lambda job: bases.index(job.base))


def _job(directory: str, choose: ChooseEvaluators, options: EvaluationOptions) -> EvaluationJob:
    public = is_public_model(directory)
    model, tokenizer = (_open_public if public else _open_run)(directory, options)
    evaluators = choose(directory, model.run_config)
    if public:
        check_public_model_evaluators(evaluators)
    try:
        prepared = prepare_evaluators(
            evaluators, model.run_config, tokenizer, model.config, options.finetuning, options.metrics
        )
    except (ConfigError, DataError) as error:
        fix = _MOVED if isinstance(error, MissingDataError) and not public else ""
        raise type(error)(f"{directory}: {error}{fix}") from error
    missing = frozenset(
        one.name for one in prepared if options.overwrite or existing_record(model, one, options.out) is None
    )
    if missing:
        check_writable(options.out or model.directory, "give another --out=FILE.json, or score a copy of it")
        check_base_writable([one.evaluator for one in prepared if one.name in missing], model.base)
    return EvaluationJob(directory, model, prepared, missing)


def _open_run(directory: str, options: EvaluationOptions) -> tuple[EvaluatedModel, Tokenizer]:
    if options.tokenizer:
        raise ConfigError(f"--tokenizer is for public models; {directory} is a run with its own tokenizer: omit it")
    model = open_run(directory, options.step, options.sharding, options.model_changes)
    if model.base is not None:
        find_base(model.base)
    return model, load_tokenizer(model.run_config.tokenizer)


def _open_public(directory: str, options: EvaluationOptions) -> tuple[EvaluatedModel, Tokenizer]:
    if options.step is not None:
        raise ConfigError(f"--step is for checkpoints of runs; {directory} is a public model: omit it")
    return open_public_model(directory, options.finetuning, options.tokenizer, options.sharding, options.model_changes)


def run_evaluations(
    jobs: Sequence[EvaluationJob], options: EvaluationOptions, on_record: OnRecord = lambda *_: None
) -> list[Exception]:
    """Compute every missing record, and call `on_record` with each record, existing ones included.

    A damaged or mismatched checkpoint fails only its own job; the errors of such jobs are returned.
    """
    total = sum(len(job.missing) for job in jobs)
    done = 0
    errors: list[Exception] = []
    for job in jobs:
        model = dataclasses.replace(job.model, load=functools.cache(job.model.load))  # loaded once, freed with the job
        try:
            for one in job.prepared:
                if total > 1 and one.name in job.missing:
                    done += 1
                    log.info("evaluation %d of %d: %s of %s", done, total, one.name, job.name)
                on_record(job, one, evaluate(model, one, options.out, options.overwrite))
        except CheckpointError as error:
            log.error("%s: %s", job.name, error)
            errors.append(error)
    return errors
