"""One run from config to result record: prepare, train, score."""

import dataclasses
import functools
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from finetune_scaling.data.loader import Batches
from finetune_scaling.errors import CheckpointError, ConfigError
from finetune_scaling.evaluation.evaluated_model import EvaluatedModel
from finetune_scaling.evaluation.example_rows import EVALUATION
from finetune_scaling.evaluation.prepared_evaluation import PreparedEvaluation, evaluate, prepare_evaluators
from finetune_scaling.evaluation.records import scores_for_result
from finetune_scaling.evaluation.scoring import pooled, row_losses, score_split, write_rows
from finetune_scaling.experiments.loop import InTrainingEvaluation, LoopSettings, TrainingLoop
from finetune_scaling.experiments.record import checkpoint_metadata, training_record
from finetune_scaling.models.model_sharding import sharding_table
from finetune_scaling.runs.checkpoints import CHECKPOINTS, Checkpoints, read_metadata
from finetune_scaling.runs.environment import environment
from finetune_scaling.runs.metrics import Metrics
from finetune_scaling.runs.model_loading import TunedModel, check_matches_model, initialize_model
from finetune_scaling.runs.run_config import RunConfig, read_run_config
from finetune_scaling.runs.run_data import RunData, prepare_run_data, test_examples
from finetune_scaling.runs.run_directory import RunDirectory, lock_directory
from finetune_scaling.runs.training_progress import TrainingProgress, progress_from_metadata
from finetune_scaling.sharding.batches import local_rows, shard_batch
from finetune_scaling.sharding.mesh import check_batch, make_mesh
from finetune_scaling.sharding.roles import run_on_primary
from finetune_scaling.training.step import State, init_state, make_train_step
from finetune_scaling.trees import Tree
from finetune_scaling.tuning.partition import format_table, table

log = logging.getLogger(__name__)


def run(config: Mapping[str, Any], workdir: str | Path) -> dict[str, Any]:
    """Trains and scores the run of `config` in `workdir`, going on where an earlier process left off.

    Several processes that run together (sharding/processes.py) all call it, and all get the record.
    Returns the result record, at once where the run is finished. Raises UserError for whatever the user can mend.
    """
    run_config = read_run_config(config)
    directory = RunDirectory(workdir)
    with lock_directory(workdir):
        run_on_primary(lambda: directory.write_config(config))
        if (record := run_on_primary(lambda: directory.result)) is not None:
            log.info("%s: finished before, loss %.4f", workdir, record["loss"])
            return record
        clock = Clock()
        sharding = run_config.sharding
        check_batch(run_config.batch_size, run_config.batch.accumulation, sharding, make_mesh(sharding))
        data = prepare_run_data(run_config)
        model = initialize_model(run_config)
        directory.write_environment(environment())
        prepared = prepare_evaluators(run_config.evaluation.named_evaluators, run_config, model.tokenizer, model.config)
        with model.sharding.use_mesh():
            trained, position = _train(run_config, directory, data, model, clock, evaluations(prepared, model))
            scores = _scores(run_config, directory, data, trained)
            scores |= _evaluators(run_config, directory, trained, position, prepared)
        record = training_record(run_config, data, trained, position) | scores
        record["seconds"] = round(clock.seconds(), 2)
        run_on_primary(lambda: directory.write_result(record))
    return record


class Clock:
    """Seconds that a run has taken, over all its processes; what one did after its last save is lost, time and all."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def add(self, seconds: float) -> None:
        """Adds the time of earlier processes."""
        self._began -= seconds

    def seconds(self) -> float:
        """The time so far."""
        return time.monotonic() - self._began


def _train(
    run_config: RunConfig,
    directory: RunDirectory,
    data: RunData,
    model: TunedModel,
    clock: Clock,
    measured: Sequence[InTrainingEvaluation],
) -> tuple[TunedModel, TrainingProgress]:
    """Trains to the end; returns the model with its best parameters (pretraining: its last ones)."""
    log.info("what trains:\n%s", format_table(table(model.trainable, model.frozen)))
    plan = loop_settings(run_config, data.train)
    checkpoints = Checkpoints(directory.path, plan.keep_steps)
    state, position = init_state(model.trainable, run_config.optimizer, model.sharding), TrainingProgress()
    _log_shardings(state, model)
    if (restored := checkpoints.restore_newest(state)) is not None:
        check_matches_model(directory.path, restored.metadata, model)
        state, position = restored.state, progress_from_metadata(restored.metadata)
        clock.add(position.seconds)
        log.info("going on from step %d", position.step)
    directory.rewind_metrics(position.step)
    metrics = Metrics(directory.path, run_config.logging.writers, position.step)
    rows = model.sharding.batch()
    loop = TrainingLoop(
        title=run_config.name or directory.path.name,
        plan=plan,
        step=make_train_step(
            model.config,
            model.tuning,
            run_config.optimizer,
            run_config.batch.accumulation,
            run_config.sharding.axes,
        ),
        batches=data.train.part(local_rows(rows, data.train.batch_size)),
        place=functools.partial(shard_batch, sharding=rows, size=data.train.batch_size),
        frozen=model.frozen,
        dev_loss=lambda trainable: row_losses(model, data.dev, trainable).mean,
        checkpoints=checkpoints,
        metrics=metrics,
        metadata=checkpoint_metadata(run_config, model),
        seconds=clock.seconds,
        evaluations=measured,
    )
    with closing(checkpoints), closing(metrics):
        state, position = loop.run(state, position)
        if not run_config.is_base and position.best_step not in (None, position.step):
            state = _best_state(checkpoints, position.best_step, state)
    return dataclasses.replace(model, trainable=state.trainable), position


def evaluations(prepared: Sequence[PreparedEvaluation], model: TunedModel) -> list[InTrainingEvaluation]:
    """The evaluators that score a model while it trains, too."""

    def measure(one: PreparedEvaluation, trainable: Tree) -> Mapping[str, float]:
        return one.in_training_scores(dataclasses.replace(model, trainable=trainable))

    due = [(one, one.evaluator.every_steps) for one in prepared]
    return [InTrainingEvaluation(steps, functools.partial(measure, one)) for one, steps in due if steps is not None]


def _log_shardings(state: State, model: TunedModel) -> None:
    """Log the sharding of every array if there is more than one device."""
    mesh = model.sharding.mesh
    if mesh.size > 1:
        shape = ", ".join(f"{name} {size}" for name, size in mesh.shape.items())
        arrays = {"frozen": model.frozen, **state._asdict()}
        log.info("shardings on the mesh (%s):\n%s", shape, sharding_table(arrays))


def _best_state(checkpoints: Checkpoints, step: int, target: State) -> State:
    try:
        return checkpoints.restore(step, target).state
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}; it is the best one, which is to be scored: put a good copy back, or delete the run's "
            "directory and start it anew"
        ) from error


def loop_settings(run_config: RunConfig, batches: Batches) -> LoopSettings:
    """The loop's numbers from the config's units."""
    per_step = run_config.batch_size * run_config.row_length
    total, limit = run_config.limits.last_step(batches.batches_per_epoch, per_step)
    keep = {round(tokens / per_step) for tokens in run_config.checkpoint.keep_tokens}
    if any(not 1 <= step <= total for step in keep):
        raise ConfigError(
            f"checkpoint.keep_tokens = {list(run_config.checkpoint.keep_tokens)} must lie between one step "
            f"({per_step:,} tokens) and the run's {total * per_step:,} tokens"
        )
    return LoopSettings(
        total_steps=total,
        limit=limit,
        evaluate_every=run_config.evaluation.interval(total),
        log_every=run_config.logging.every_steps,
        save_every=run_config.checkpoint.every_steps,
        keep_steps=frozenset(keep),
        schedule=run_config.schedule_config,
        patience=run_config.limits.patience,
        tolerance=run_config.limits.tolerance,
    )


def _scores(run_config: RunConfig, directory: RunDirectory, data: RunData, model: TunedModel) -> dict[str, Any]:
    """Scores on every test set of the task; for pretraining, the last held-out loss."""
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
        write_rows(directory.path / EVALUATION / f"{name}.jsonl", rows)
    return {**pooled(tests), "tests": tests}


def _evaluators(
    run_config: RunConfig,
    directory: RunDirectory,
    model: TunedModel,
    position: TrainingProgress,
    prepared: Sequence[PreparedEvaluation],
) -> dict[str, Any]:
    """What the config's evaluators say of the trained model; each is kept as soon as it is done."""
    if not prepared:
        return {}
    step = position.step if run_config.is_base else position.best_step
    metadata = read_metadata(directory.path / CHECKPOINTS / str(step))
    checkpoint = {"step": step, "arrays_digest": metadata["arrays_digest"]}
    evaluated = EvaluatedModel(
        directory.path, run_config, checkpoint, run_config.base, lambda: model, is_base=run_config.is_base
    )
    found = {}
    for one in prepared:
        log.info("evaluator %s", one.name)
        found[one.name] = scores_for_result(evaluate(evaluated, one))
    return {"evaluators": found}
