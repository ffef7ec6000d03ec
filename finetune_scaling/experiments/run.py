"""Execution of one run: config, data, model, training, scores, result record."""

import dataclasses
import functools
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from finetune_scaling.data.loader import Batches
from finetune_scaling.data.tokenizers.loading import load_tokenizer
from finetune_scaling.evaluation.evaluated_model import EvaluatedModel
from finetune_scaling.evaluation.example_rows import EVALUATION, write_rows
from finetune_scaling.evaluation.prepared_evaluation import (
    PreparedEvaluation,
    check_base_writable,
    evaluate,
    prepare_evaluators,
)
from finetune_scaling.evaluation.records import scores_for_result
from finetune_scaling.evaluation.scoring import limit_warning, pooled_values, row_losses, score_split
from finetune_scaling.experiments.checks import check_run, check_steps
from finetune_scaling.experiments.loop import InTrainingEvaluation, LoopSettings, TrainingLoop
from finetune_scaling.experiments.profiling import ProfileWindow
from finetune_scaling.experiments.record import attention_in_training, checkpoint_metadata, environment, training_record
from finetune_scaling.experiments.throughput import Throughput
from finetune_scaling.files import write_json_atomically
from finetune_scaling.models.model_sharding import sharding_table
from finetune_scaling.paths import user_path
from finetune_scaling.runs.checkpoints import CHECKPOINTS, COMPUTE_DTYPES, Checkpoints, read_metadata
from finetune_scaling.runs.metrics import Metrics
from finetune_scaling.runs.model_loading import (
    TunedModel,
    UnloadedModel,
    check_matches_model,
    configured_model,
    unloaded_model,
    with_base_tokenizer,
)
from finetune_scaling.runs.run_config import RunConfig, read_run_config
from finetune_scaling.runs.run_data import (
    RunData,
    check_encoding,
    check_is_trained,
    check_same_encoding,
    check_task_data,
    finetuning_examples,
    prepare_run_data,
    test_examples,
    warn_of_changed_data,
)
from finetune_scaling.runs.run_directory import ENVIRONMENT, RunDirectory, lock_directory
from finetune_scaling.runs.split_records import check_same_data, split_digests
from finetune_scaling.runs.training_progress import TrainingProgress, progress_from_metadata
from finetune_scaling.sharding.batches import local_rows, shard_batch
from finetune_scaling.sharding.processes import run_on_primary
from finetune_scaling.training.flops import training_flops
from finetune_scaling.training.step import State, init_state, make_train_step, sharded_state_shapes
from finetune_scaling.trees import Tree
from finetune_scaling.tuning.partition import format_table, table

log = logging.getLogger(__name__)


def run(config: Mapping[str, Any], workdir: str | Path) -> dict[str, Any]:
    """Train and score the run of `config` in `workdir`, resuming from its newest checkpoint; return the result record.

    A finished run returns its record, and logs a warning if its data changed. All processes of a distributed run call
    this, and all get the record. Raises a UserError for everything that the user can fix.
    """
    config = with_base_tokenizer(config)
    run_config = read_run_config(config)
    workdir = user_path(workdir)
    directory = RunDirectory(workdir)
    with lock_directory(workdir):
        run_on_primary(lambda: directory.write_config(config))
        if (record := run_on_primary(lambda: directory.result)) is not None:
            log.info("%s: already finished, loss %s", workdir, record.get("loss"))
            recorded = split_digests(record.get("splits", {}))  # older runs have none
            keeps = "the results are those of the earlier data"
            run_on_primary(lambda: warn_of_changed_data(run_config, recorded, workdir, keeps))
            return record
        return _train_and_score(run_config, directory)


@dataclasses.dataclass
class Stopwatch:
    """Measures the time of a run over all its processes; the time since the last checkpoint of a killed one is lost."""

    started: float  # by time.monotonic(), minus the time of earlier processes

    def seconds(self) -> float:
        """Return the time so far."""
        return time.monotonic() - self.started


def _train_and_score(run_config: RunConfig, directory: RunDirectory) -> dict[str, Any]:
    stopwatch = Stopwatch(time.monotonic())
    prepared = _check(run_config)
    data = prepare_run_data(run_config)
    unloaded = unloaded_model(run_config)
    with unloaded.sharding.use_mesh():
        model, progress = _train(run_config, directory, data, unloaded, prepared, stopwatch)
        scores = _score_test_sets(run_config, directory, data, model)
        if prepared:
            scores["evaluators"] = _run_evaluators(run_config, directory, model, progress, prepared)
    record = training_record(run_config, data, model, progress) | scores
    record["seconds"] = round(stopwatch.seconds(), 2)
    run_on_primary(lambda: directory.write_result(record))
    return record


def _check(run_config: RunConfig) -> list[PreparedEvaluation]:
    """Check the run and open its evaluators before data is encoded and parameters are read."""
    check_is_trained(run_config)
    tokenizer = load_tokenizer(run_config.tokenizer)
    model = configured_model(run_config, tokenizer)
    examples = None
    if run_config.task is not None:
        check_task_data(run_config)
        examples = len(finetuning_examples(run_config))
    check_run(run_config, model, examples)
    check_base_writable(run_config.evaluation.named_evaluators.values(), run_config.base)
    check_encoding(run_config, tokenizer)
    return prepare_evaluators(run_config.evaluation.named_evaluators, run_config, tokenizer, model)


def _train(
    run_config: RunConfig,
    directory: RunDirectory,
    data: RunData,
    unloaded: UnloadedModel,
    prepared: Sequence[PreparedEvaluation],
    stopwatch: Stopwatch,
) -> tuple[TunedModel, TrainingProgress]:
    """Train; return the model with its best parameters (pretraining: its last)."""
    settings = loop_settings(run_config, data.train)
    base_dtypes = COMPUTE_DTYPES if unloaded.tuning.trains_all else ()
    checkpoints = Checkpoints(directory.path, settings.keep_steps, base_dtypes)
    model, state, progress = _start_or_resume(checkpoints, directory, run_config, data, unloaded)
    log.info("parameters:\n%s", format_table(table(model.trainable, model.frozen)))
    log.info("attention: %s (model.attention = %r)", attention_in_training(run_config, model), model.config.attention)
    _log_shardings(state, model)
    # Not before: a refused checkpoint leaves the directory as it was.
    run_on_primary(functools.partial(write_json_atomically, directory.path / ENVIRONMENT, environment()))
    stopwatch.started -= progress.seconds
    run_on_primary(lambda: directory.rewind_metrics(progress.step))
    metrics = Metrics(directory.path, run_config.logging.writers, progress.step)
    batch_sharding = model.sharding.batch()
    loop = TrainingLoop(
        title=run_config.name or directory.path.name,
        settings=settings,
        step=make_train_step(
            model.config, model.tuning, run_config.optimizer, run_config.batch.accumulation, run_config.sharding.axes
        ),
        batches=data.train.select_rows(local_rows(batch_sharding, data.train.batch_size)),
        buffer=run_config.batch.buffer,
        shard_batch=functools.partial(shard_batch, sharding=batch_sharding, size=data.train.batch_size),
        frozen=model.frozen,
        dev_loss=lambda trainable: row_losses(model, data.dev, trainable).mean,
        checkpoints=checkpoints,
        metrics=metrics,
        metadata=checkpoint_metadata(run_config, data, model),
        seconds=stopwatch.seconds,
        throughput=Throughput(
            run_config.tokens_per_step,
            training_flops(model.config, model.tuning, 1, run_config.batch_size, run_config.row_length),
        ),
        profile=ProfileWindow(directory.path, run_config.logging.profile_steps),
        evaluations=in_training_evaluations(prepared, model),
        dropout_seed=run_config.seeds.order if model.tuning.uses_dropout else None,
    )
    with closing(checkpoints), closing(metrics):
        state, progress = loop.run(state, progress)
        trainable = state.trainable
        del state  # the optimizer's arrays
        if not run_config.is_base and progress.best_step not in (None, progress.step):
            del trainable
            trainable = checkpoints.restore_trainable(progress.best_step, unloaded.trainable_shapes)  # it is scored
    return dataclasses.replace(model, trainable=trainable), progress


def loop_settings(run_config: RunConfig, batches: Batches) -> LoopSettings:
    """Return the settings of the training loop in steps. Raises ConfigError as `check_steps` does."""
    total, limit = run_config.limits.last_step(batches.batches_per_epoch, run_config.tokens_per_step)
    keep = check_steps(run_config, total, limit)
    return LoopSettings(
        total_steps=total,
        limit=limit,
        evaluate_every=run_config.evaluation.interval(total),
        log_every=run_config.logging.every_steps,
        save_every=run_config.checkpoint.every_steps,
        keep_steps=keep,
        schedule=run_config.schedule_config,
        patience=run_config.limits.patience,
        tolerance=run_config.limits.tolerance,
    )


def _start_or_resume(
    checkpoints: Checkpoints,
    directory: RunDirectory,
    run_config: RunConfig,
    data: RunData,
    unloaded: UnloadedModel,
) -> tuple[TunedModel, State, TrainingProgress]:
    """Return model, state and progress of the newest intact checkpoint, or without one those at the start.

    The model has only the shapes of its trainable parameters: training donates the arrays, which the state owns.
    """
    shapes = sharded_state_shapes(unloaded.trainable_shapes, run_config.optimizer, unloaded.sharding)
    restored = checkpoints.restore_newest(shapes)
    if restored is None:
        model = unloaded.initialize()
        state = init_state(model.trainable, run_config.optimizer, model.sharding)
        return dataclasses.replace(model, trainable=unloaded.trainable_shapes), state, TrainingProgress()
    check_matches_model(directory.path, restored.metadata, unloaded)
    check_same_encoding(directory.path, restored.metadata, run_config, unloaded.tokenizer)
    check_same_data(directory.path, restored.metadata, split_digests(data.splits))
    log.info("resuming from step %d", restored.step)
    model = unloaded.with_trainable(unloaded.trainable_shapes)
    return model, restored.state, progress_from_metadata(restored.metadata)


def in_training_evaluations(prepared: Sequence[PreparedEvaluation], model: TunedModel) -> list[InTrainingEvaluation]:
    """Return the evaluators that also score the model during training."""

    def scores(one: PreparedEvaluation, trainable: Tree) -> Mapping[str, float]:
        return one.in_training_scores(dataclasses.replace(model, trainable=trainable))

    every = ((one, one.evaluator.every_steps) for one in prepared)
    return [InTrainingEvaluation(steps, functools.partial(scores, one)) for one, steps in every if steps is not None]


def _log_shardings(state: State, model: TunedModel) -> None:
    """Log the sharding of every array if there is more than one device."""
    mesh = model.sharding.mesh
    if mesh.size > 1:
        shape = ", ".join(f"{name} {size}" for name, size in mesh.shape.items())
        arrays = {"frozen": model.frozen, **state._asdict()}
        log.info("shardings on the mesh (%s):\n%s", shape, sharding_table(arrays))


def _score_test_sets(
    run_config: RunConfig, directory: RunDirectory, data: RunData, model: TunedModel
) -> dict[str, Any]:
    """Return the scores on the task's test sets; for pretraining, the loss on its held-out text."""
    if data.task is None or data.format is None:
        return {"loss": row_losses(model, data.dev).mean}
    evaluation = run_config.evaluation
    tests = {}
    for name in data.task.test:
        tests[name], rows = score_split(
            model,
            data.task,
            data.format,
            test_examples(run_config, name, evaluation.test_examples),
            batch_size=evaluation.batch_size,
            generate_examples=evaluation.generate_examples,
            decoding=evaluation.decoding,
        )
        if warning := limit_warning(tests[name], evaluation.decoding.limit(data.format.max_target_tokens)):
            log.warning("%s: %s", name, warning)
        path = directory.path / EVALUATION / f"{name}.jsonl"
        run_on_primary(functools.partial(write_rows, path, rows))
    return {**pooled_values(tests), "tests": tests}


def _run_evaluators(
    run_config: RunConfig,
    directory: RunDirectory,
    model: TunedModel,
    progress: TrainingProgress,
    prepared: Sequence[PreparedEvaluation],
) -> dict[str, Any]:
    """Return the scores of the config's evaluators by name; each evaluator's record is written when it is done."""
    step = progress.step if run_config.is_base else progress.best_step
    metadata = read_metadata(directory.path / CHECKPOINTS / str(step))
    checkpoint = {"step": step, "arrays_digest": metadata["arrays_digest"]}
    evaluated = EvaluatedModel(
        directory.path,
        run_config,
        model.config,
        checkpoint,
        run_config.base,
        lambda: model,
        is_base=run_config.is_base,
    )
    scores = {}
    for one in prepared:
        log.info("evaluator %s", one.name)
        scores[one.name] = scores_for_result(evaluate(evaluated, one))
    return scores
