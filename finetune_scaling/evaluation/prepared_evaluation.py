"""Evaluations of one model: prepare all of them, then score, and write one record per evaluator.

A base model's scores are computed once for all runs that start from it and are kept in its own directory.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from finetune_scaling.data.tokenizers.interface import Tokenizer
from finetune_scaling.errors import ConfigError, DataError, WorkdirError
from finetune_scaling.evaluation import records
from finetune_scaling.evaluation.context_checks import check_generation, check_sequences
from finetune_scaling.evaluation.evaluated_model import EvaluatedModel, base_model
from finetune_scaling.evaluation.example_rows import EVALUATION
from finetune_scaling.evaluation.task_evaluation import Rows, TaskEvaluation, prepare_task_evaluation
from finetune_scaling.evaluation.text_evaluation import TextEvaluation, prepare_text_evaluation
from finetune_scaling.files import Location, check_writable, location
from finetune_scaling.metrics.metric import Metric
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.runs.evaluators import Evaluator, TextEvaluator
from finetune_scaling.runs.model_loading import TunedModel, find_base
from finetune_scaling.runs.run_config import BaseConfig, RunConfig
from finetune_scaling.runs.run_data import task_and_format, warn_of_changed_data
from finetune_scaling.runs.run_directory import lock_directory


@dataclasses.dataclass(frozen=True, eq=False)
class PreparedEvaluation:
    """An evaluator with its data opened and checked against the model's context length."""

    name: str
    evaluator: Evaluator
    evaluation: TaskEvaluation | TextEvaluation
    batch_size: int

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that determines the scores except the model."""
        return self.evaluation.settings

    def in_training_scores(self, model: TunedModel) -> dict[str, float]:
        """Return loss and metrics keyed by metrics.jsonl column; used during training."""
        summary, _ = self.evaluation.score(model, self.batch_size)
        return records.columns(self.name, summary)


def prepare_evaluators(
    evaluators: Mapping[str, Evaluator],
    run_config: RunConfig,
    tokenizer: Tokenizer,
    model: ModelConfig,
    finetuning: RunConfig | None = None,
    metrics: tuple[Metric, ...] | None = None,
) -> list[PreparedEvaluation]:
    """Open the data of all evaluators and check that it fits the model's context.

    Args:
      finetuning: for a base model, the run config whose task it is scored on.
      metrics: metrics of generated text; None for the default ones.

    Raises ConfigError or DataError, naming the evaluator.
    """
    batch_size = run_config.evaluation.batch_size
    test_sets = () if run_config.task is None else task_and_format(run_config)[0].test
    prepared = []
    for name, evaluator in evaluators.items():
        evaluation: TaskEvaluation | TextEvaluation
        try:
            if isinstance(evaluator, TextEvaluator):
                evaluation = prepare_text_evaluation(evaluator, run_config, tokenizer, batch_size)
            else:
                evaluation = prepare_task_evaluation(evaluator, run_config, tokenizer, finetuning, metrics)
            records.check_rows_names(name, evaluation.splits, test_sets)
            check_sequences(evaluation.length, model, run_config.tuning)
            if isinstance(evaluation, TaskEvaluation) and evaluation.generates:
                check_generation(evaluation.decoding, evaluation.sequence_format, model, run_config.tuning)
        except (ConfigError, DataError) as error:
            raise type(error)(f"evaluator {name}: {error}") from error
        prepared.append(PreparedEvaluation(name, evaluator, evaluation, batch_size))
    return prepared


def check_base_writable(evaluators: Iterable[Evaluator], base: BaseConfig | None) -> None:
    """Raise WorkdirError if an evaluator scores the untuned base, whose directory keeps the scores, and cannot."""
    if base is not None and any(evaluator.untuned for evaluator in evaluators):
        fix = "score without the untuned base (untuned = False of the evaluator, or --no-untuned), or copy the base"
        check_writable(location(base.run) / EVALUATION, fix)


def record_path(model: EvaluatedModel, prepared: PreparedEvaluation) -> Location:
    """Return the path of an evaluation's record: NAME.json, for a base with its checkpoint and settings digest."""
    directory = model.directory / EVALUATION
    if not model.is_base:
        return directory / f"{prepared.name}.json"
    checkpoint, digest = model.checkpoint, records.settings_digest(prepared.settings)
    name = f"step_{checkpoint['step']}" if "step" in checkpoint else f"weights_{checkpoint['files_sha256'][:12]}"
    return directory / name / f"{prepared.name}.{digest}.json"


def existing_record(
    model: EvaluatedModel, prepared: PreparedEvaluation, out: Location | None = None
) -> records.Record | None:
    """Return the complete record of an evaluation if it exists, including the base's scores where they are wanted.

    Raises WorkdirError if the file holds a record of other settings.
    """
    path = out or record_path(model, prepared)
    found = records.matching_record(path, prepared.settings, model.checkpoint)
    return None if found is None or _lacks_untuned(found, model, prepared) else found


def evaluate(
    model: EvaluatedModel, prepared: PreparedEvaluation, out: Location | None = None, overwrite: bool = False
) -> records.Record:
    """Return the record of an evaluation; compute and write it if it does not exist.

    Args:
      out: path of the record instead of the default one.
      overwrite: recompute an existing record.

    Raises WorkdirError if the file holds a record of other settings and `overwrite` is false.
    """
    path = out or record_path(model, prepared)
    record = None if overwrite else records.matching_record(path, prepared.settings, model.checkpoint)
    if record is None:
        _warn_of_changed_splits(model, prepared)
        record, rows = _score(prepared, model.checkpoint, model.load())
        records.write_record(path, record, rows)
    if _lacks_untuned(record, model, prepared):
        record["untuned"] = _base_scores(model, prepared)
        records.write_record(path, record, {})
    return record


def _warn_of_changed_splits(model: EvaluatedModel, prepared: PreparedEvaluation) -> None:
    """Log the scored splits of a run's own task whose data changed since the run was trained."""
    evaluator = prepared.evaluator
    if isinstance(evaluator, TextEvaluator) or evaluator.task or evaluator.directions == "zero_shot":
        return
    trained = {name: model.split_digests[name] for name in prepared.evaluation.splits if name in model.split_digests}
    where = f"{model.directory}, evaluator {prepared.name}"
    warn_of_changed_data(model.run_config, trained, where, "the scores are those of the new data")


def _lacks_untuned(record: records.Record, model: EvaluatedModel, prepared: PreparedEvaluation) -> bool:
    return prepared.evaluator.untuned and model.base is not None and "untuned" not in record


def _score(
    prepared: PreparedEvaluation, checkpoint: Mapping[str, Any], model: TunedModel
) -> tuple[records.Record, Rows]:
    with model.sharding.use_mesh():
        summary, rows = prepared.evaluation.score(model, prepared.batch_size)
    record = {
        "evaluator": prepared.name,
        "checkpoint": dict(checkpoint),
        "settings": prepared.settings,
        **summary,
        "baselines": dict(prepared.evaluation.baselines),
        "demonstrations": [one.record() for one in prepared.evaluation.demonstrations],
    }
    return record, rows


def _base_scores(model: EvaluatedModel, prepared: PreparedEvaluation) -> records.Record:
    """Return the untuned base model's scores; computed once for all runs and kept in the base's directory."""
    assert model.base is not None
    run_config = model.run_config
    base = base_model(find_base(model.base), run_config.tokenizer, run_config.sharding, run_config.model)
    path = record_path(base, prepared)
    try:
        with lock_directory(path.parent, wait=True):  # runs that share a base may be scored at the same time
            overwrite = records.is_of_other_checkpoint(path, base.checkpoint)
            record = evaluate(base, prepared, overwrite=overwrite)
    except WorkdirError as error:
        raise WorkdirError(f"{error}; to omit the base's scores, give --no-untuned") from error
    return {**records.model_scores(record), "record": f"{path.parent.parent.name}/{path.parent.name}/{path.name}"}
