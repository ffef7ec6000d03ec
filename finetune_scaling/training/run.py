"""One run from config to result record: prepare, train, score."""

import dataclasses
import json
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from finetune_scaling import configuration
from finetune_scaling.data.loader import Batches
from finetune_scaling.errors import CheckpointError, ConfigError
from finetune_scaling.evaluation.scoring import row_losses, score_split
from finetune_scaling.files import write_atomically
from finetune_scaling.models.config import count_parameters
from finetune_scaling.training.checkpoints import Checkpoints
from finetune_scaling.training.environment import environment
from finetune_scaling.training.experiment import Experiment, read_experiment
from finetune_scaling.training.flops import training_flops
from finetune_scaling.training.inputs import Data, prepare_data, test_examples
from finetune_scaling.training.loop import Loop, Plan, Position, position_from
from finetune_scaling.training.metrics import Metrics
from finetune_scaling.training.run_directory import RunDirectory, exclusive
from finetune_scaling.training.step import State, init_state, make_train_step
from finetune_scaling.training.tuned import TunedModel, check_belongs, start
from finetune_scaling.tuning.partition import format_table, size, table

log = logging.getLogger(__name__)

EVALUATION = "evaluation"


def run(config: Mapping[str, Any], workdir: str | Path) -> dict[str, Any]:
    """Trains and scores the run of `config` in `workdir`, going on where an earlier process left off.

    Returns the result record, at once where the run is finished. Raises UserError for whatever the user can mend.
    """
    experiment = read_experiment(config)
    directory = RunDirectory(workdir)
    with exclusive(workdir):
        directory.claim(config)
        if (record := directory.result) is not None:
            log.info("%s: finished before, loss %.4f", workdir, record["loss"])
            return record
        began = time.monotonic()
        data = prepare_data(experiment)
        model = start(experiment)
        directory.write_environment(environment())
        trained, position = _train(experiment, directory, data, model)
        record = _record(experiment, data, trained, position) | _scores(experiment, directory, data, trained)
        record["seconds"] = round(time.monotonic() - began, 2)
        directory.write_result(record)
    return record


def _train(
    experiment: Experiment, directory: RunDirectory, data: Data, model: TunedModel
) -> tuple[TunedModel, Position]:
    """Trains to the end; returns the model with its best parameters (pretraining: its last ones)."""
    log.info("what trains:\n%s", format_table(table(model.trainable, model.frozen)))
    plan = make_plan(experiment, data.train)
    checkpoints = Checkpoints(directory.path, plan.keep_steps)
    state, position = init_state(model.trainable, experiment.optimizer), Position()
    if (restored := checkpoints.restore_newest(state)) is not None:
        check_belongs(directory.path, restored.facts, model)
        state, position = restored.state, position_from(restored.facts)
        log.info("going on from step %d", position.step)
    directory.rewind_metrics(position.step)
    metrics = Metrics(directory.path, experiment.logging.writers)
    loop = Loop(
        title=experiment.name or directory.path.name,
        plan=plan,
        step=make_train_step(model.config, model.tuning, experiment.optimizer, experiment.batch.accumulation),
        batches=data.train,
        frozen=model.frozen,
        dev_loss=lambda trainable: row_losses(model, data.dev, trainable).mean,
        checkpoints=checkpoints,
        metrics=metrics,
        facts=_facts(experiment, model),
    )
    with closing(checkpoints), closing(metrics):
        state, position = loop.run(state, position)
        if not experiment.pretrains and position.best_step not in (None, position.step):
            state = _best_state(checkpoints, position.best_step, state)
    return dataclasses.replace(model, trainable=state.trainable), position


def _best_state(checkpoints: Checkpoints, step: int, target: State) -> State:
    try:
        return checkpoints.restore(step, target).state
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}; it is the best one, which is to be scored: put a good copy back, or start the run anew in "
            "another --workdir"
        ) from error


def make_plan(experiment: Experiment, batches: Batches) -> Plan:
    """The loop's numbers from the config's units."""
    per_step = experiment.batch_size * experiment.sequence.length
    total, limit = experiment.limits.ending(batches.batches_per_epoch, per_step)
    keep = {round(tokens / per_step) for tokens in experiment.checkpoint.keep_tokens}
    if any(not 1 <= step <= total for step in keep):
        raise ConfigError(
            f"checkpoint.keep_tokens = {list(experiment.checkpoint.keep_tokens)} must lie between one step "
            f"({per_step:,} tokens) and the run's {total * per_step:,} tokens"
        )
    return Plan(
        total_steps=total,
        limit=limit,
        evaluate_every=experiment.evaluation.interval(total),
        log_every=experiment.logging.every_steps,
        save_every=experiment.checkpoint.every_steps,
        keep_steps=frozenset(keep),
        schedule=experiment.schedule_config,
        patience=experiment.limits.patience,
        tolerance=experiment.limits.tolerance,
    )


def _facts(experiment: Experiment, model: TunedModel) -> dict[str, Any]:
    return {
        "model": configuration.plain(model.config),
        "method": configuration.plain(experiment.method),
        "tokenizer_sha256": model.tokenizer.digest,
        "base_sha256": model.base_facts.get("arrays_sha256"),
        "tokens_per_step": experiment.batch_size * experiment.sequence.length,
    }


def _record(experiment: Experiment, data: Data, model: TunedModel, position: Position) -> dict[str, Any]:
    """What the run was and how it went; scores come on top."""
    parameters = count_parameters(model.config)
    row = experiment.batch.row_length or experiment.sequence.length
    base = model.base_facts
    return {
        "name": experiment.name,
        "task": data.task.name if data.task else None,
        "method": model.tuning.name,
        "pet_size": model.tuning.size,
        "parameters": parameters.total,
        "parameters_non_embedding": parameters.non_embedding,
        "trainable_parameters": size(model.trainable),
        "pretrain_tokens": base["position"]["step"] * base["tokens_per_step"] if base else None,
        "finetune_examples": data.train.statistics["examples"] if data.task else None,
        "learning_rate": experiment.schedule_config.learning_rate,
        "batch_size": experiment.batch_size,
        "seeds": configuration.plain(experiment.seeds),
        "steps": position.step,
        "best_step": position.best_step,
        "dev_loss": position.best_loss,
        "dev_losses": dict(zip(map(str, position.steps_evaluated), position.losses, strict=True)),
        "stopped_by": position.stopped_by,
        "tokens_seen": position.step * experiment.batch_size * row,
        "target_tokens": position.target_tokens,
        "flops": training_flops(model.config, model.tuning, position.step, experiment.batch_size, row),
        "tokenizer_sha256": model.tokenizer.digest,
        "base_sha256": base.get("arrays_sha256"),
    }


def _scores(experiment: Experiment, directory: RunDirectory, data: Data, model: TunedModel) -> dict[str, Any]:
    """Scores on every test set of the task; for pretraining, the last held-out loss."""
    if data.task is None or data.form is None:
        return {"loss": row_losses(model, data.dev).mean}
    evaluation = experiment.evaluation
    tests = {}
    for name in data.task.test:
        tests[name], rows = score_split(
            model,
            data.task,
            data.form,
            test_examples(experiment, name, evaluation.test_examples),
            batch_size=evaluation.batch_size,
            generate_examples=evaluation.generate_examples,
        )
        write_rows(directory.path / EVALUATION / f"{name}.jsonl", rows)
    return {**pooled(tests), "tests": tests}


def pooled(tests: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Several test sets as one: loss and entropy by tokens, metrics averaged over the sets, as papers print them."""
    if not tests:
        raise ConfigError("the task has no test set; add one under task.test")
    tokens = sum(test["tokens"] for test in tests.values())
    result: dict[str, Any] = {
        name: sum(test[name] * test["tokens"] for test in tests.values()) / tokens
        for name in ("loss", "entropy")
        if all(name in test for test in tests.values())
    }
    scored = [test["metrics"] for test in tests.values() if test["metrics"]]
    names = scored[0] if scored else ()
    return result | {"metrics": {name: sum(part[name]["score"] for part in scored) / len(scored) for name in names}}


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes per-example records as JSONL."""
    write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
