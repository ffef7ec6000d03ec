"""What a run reads: its batches, task and held-out data, opened and checked before any parameter exists."""

import functools
import json
import logging
from typing import NamedTuple

from finetune_scaling import configuration
from finetune_scaling.data.corpus import Texts
from finetune_scaling.data.encoding import SequenceFormat
from finetune_scaling.data.examples import Examples, check_references, describe, subset
from finetune_scaling.data.loader import (
    Batches,
    document_batches,
    evaluation_batches,
    finetuning_batches,
    pretraining_batches,
    pretraining_evaluation_batches,
)
from finetune_scaling.data.objectives import longest_text
from finetune_scaling.data.preparation.prepared import open_prepared
from finetune_scaling.data.task import Task, load_task
from finetune_scaling.data.tokenizers.interface import Tokenizer
from finetune_scaling.data.tokenizers.loading import load_tokenizer
from finetune_scaling.errors import ConfigError, DataError
from finetune_scaling.runs.run_config import RunConfig

log = logging.getLogger(__name__)

DEV_SEED = 0  # noise of pretraining's held-out text: the same for every run, so that losses compare


class RunData(NamedTuple):
    """Batches to train on and to choose the best checkpoint by; the task and its form where there is one."""

    train: Batches
    dev: Batches
    task: Task | None = None
    form: SequenceFormat | None = None


def prepare_run_data(run_config: RunConfig) -> RunData:
    """Opens and checks all that the run reads, before any parameter exists."""
    if run_config.public is not None:
        raise ConfigError("public is of bases that `convert` made, which are not trained; finetune them: base.run=DIR")
    if run_config.task is None and run_config.adapter is not None:
        raise ConfigError(
            f"the adapter {run_config.adapter.name} came in without a task; give a finetuning run's config to train on"
        )
    tokenizer = load_tokenizer(run_config.tokenizer)
    return _pretraining_data(run_config, tokenizer) if run_config.is_base else _finetuning_data(run_config, tokenizer)


def finetuning_examples(run_config: RunConfig) -> Examples:
    """The run's training examples: a prefix of the permutation of its data seed."""
    examples = _split(configuration.canonical_json(run_config.task), "train")
    return subset(examples, run_config.finetune_examples or len(examples), run_config.seeds.data)


def _pretraining_data(run_config: RunConfig, tokenizer: Tokenizer) -> RunData:
    assert run_config.corpus is not None
    corpus, sequence = run_config.corpus, run_config.sequence
    batches = _pretraining_batches(run_config, tokenizer)
    dev = pretraining_evaluation_batches(
        Texts(corpus.dev, "corpus.dev"),
        tokenizer,
        run_config.objective,
        batch_size=run_config.evaluation.batch_size,
        length=sequence.length,
        seed=DEV_SEED,
    )
    log.info("pretraining text: %s", json.dumps(batches.statistics))
    return RunData(batches, dev)


def _pretraining_batches(run_config: RunConfig, tokenizer: Tokenizer) -> Batches:
    """Of the text itself, or of what was prepared of it: the same batches."""
    assert run_config.corpus is not None
    corpus, objective, length = run_config.corpus, run_config.objective, run_config.sequence.length
    numbers = {"batch_size": run_config.batch_size, "length": length, "seed": run_config.seeds.order}
    if corpus.prepared is None:
        return pretraining_batches(Texts(corpus.train, "corpus.train"), tokenizer, objective, **numbers)
    documents = open_prepared(corpus.prepared, corpus.train, tokenizer, longest_text(length, objective))
    return document_batches(documents, tokenizer, objective, **numbers)


def task_and_format(run_config: RunConfig) -> tuple[Task, SequenceFormat]:
    """The task of a finetuning run, and the form of its sequences."""
    task = _task(configuration.canonical_json(run_config.task))
    return task, run_config.sequence.format(task.max_source_tokens, task.max_target_tokens)


def check_task_data(run_config: RunConfig) -> None:
    """Opens every split that a finetuning run will read, its test sets included.

    Raises DataError where one is absent or faulty or has too few examples, or where what is decoded lacks a reference,
    ConfigError where there is no test set.
    """
    task, _ = task_and_format(run_config)
    if not task.test:
        raise ConfigError(f"task {task.name} has no test set; add one under task.test")
    finetuning_examples(run_config)
    for name in ("dev", *task.test):
        if not _split(configuration.canonical_json(run_config.task), name):
            raise DataError(f"task {task.name}: its split {name} has no examples; give it another source")
    evaluation = run_config.evaluation
    for name in task.test:
        _check_decoded(
            configuration.canonical_json(run_config.task), name, evaluation.test_examples, evaluation.generate_examples
        )


def _finetuning_data(run_config: RunConfig, tokenizer: Tokenizer) -> RunData:
    check_task_data(run_config)
    key = configuration.canonical_json(run_config.task)
    task, form = task_and_format(run_config)
    examples = finetuning_examples(run_config)
    log.info("training examples: %s", json.dumps(describe(examples, most=1000), ensure_ascii=False))
    train = finetuning_batches(
        examples,
        tokenizer,
        task.template,
        form,
        batch_size=run_config.batch_size,
        seed=run_config.seeds.order,
        pack=run_config.batch.pack,
        row_length=run_config.batch.row_length,
    )
    log.info("tokens: %s", json.dumps(train.statistics))
    evaluation = run_config.evaluation
    dev = _dev_batches(key, run_config.tokenizer, form, evaluation.dev_examples, evaluation.batch_size)
    return RunData(train, dev, task, form)


def test_examples(run_config: RunConfig, name: str, count: int | None) -> Examples:
    """`count` examples (None: all) of a test set of the run's task."""
    return held_out_subset(_split(configuration.canonical_json(run_config.task), name), count)


def held_out_subset(examples: Examples, count: int | None) -> Examples:
    """A fixed choice of `count` held-out examples (None: all), in the shares of their languages."""
    if count is None or count >= len(examples):
        return examples
    return subset(examples, count, seed=0)


# Runs of one study share tasks and their held-out data: opened, rendered and encoded once in a process.


@functools.lru_cache(maxsize=8)
def _task(key: str) -> Task:
    return load_task(json.loads(key))


@functools.lru_cache(maxsize=32)
def _split(key: str, split: str) -> Examples:
    return _task(key).examples(split)


@functools.lru_cache(maxsize=32)
def _check_decoded(key: str, split: str, examples: int | None, generate: int | None) -> None:
    check_references(_task(key).name, split, held_out_subset(_split(key, split), examples), generate)


@functools.lru_cache(maxsize=8)
def _dev_batches(key: str, tokenizer: str, form: SequenceFormat, examples: int | None, batch_size: int) -> Batches:
    dev = held_out_subset(_split(key, "dev"), examples)
    return evaluation_batches(dev, load_tokenizer(tokenizer), _task(key).template, form, batch_size=batch_size)
