"""The data of a run: training and dev batches, task, and test examples, checked before the model is built."""

import functools
import json
import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

from finetune_scaling import configuration
from finetune_scaling.data.corpus import CorpusConfig, CorpusTexts
from finetune_scaling.data.digests import corpus_digest, examples_digest, joint_digest
from finetune_scaling.data.encoders.interface import ExampleEncoder
from finetune_scaling.data.encoders.make import make_encoder
from finetune_scaling.data.encoding import SequenceFormat, encode_prompts
from finetune_scaling.data.examples import Examples, check_examples, subset
from finetune_scaling.data.loader import (
    Batches,
    Documents,
    check_sentinels,
    encode_corpus,
    evaluation_batches,
    finetuning_batches,
    pretraining_batches,
    pretraining_evaluation_batches,
)
from finetune_scaling.data.objectives import max_text_tokens
from finetune_scaling.data.overlap import Overlap
from finetune_scaling.data.preparation.prepared import open_prepared, read_statistics
from finetune_scaling.data.sources import source_from_config
from finetune_scaling.data.task import Task, load_task
from finetune_scaling.data.tokenizers.interface import Tokenizer
from finetune_scaling.data.tokenizers.loading import load_tokenizer
from finetune_scaling.errors import CheckpointError, ConfigError, DataError, UserError
from finetune_scaling.files import Location
from finetune_scaling.runs.run_config import RunConfig
from finetune_scaling.runs.split_records import SplitRecords, example_overlap, split_records, text_overlap

log = logging.getLogger(__name__)

DEV_SEED = 0  # of the noise in pretraining's held-out text: the same for all runs, so that losses are comparable


class RunData(NamedTuple):
    """Training and dev batches of a run, and records of its splits; finetuning: its task and sequence format."""

    train: Batches
    dev: Batches
    splits: SplitRecords
    task: Task | None = None
    format: SequenceFormat | None = None


def check_is_trained(run_config: RunConfig) -> None:
    """Raise ConfigError for a kind of run that is not trained."""
    if run_config.kind == "converted model":
        raise ConfigError("public marks a converted model, which is not trained. Fix: finetune it with base.run=DIR")
    if run_config.kind == "imported adapter":
        assert run_config.adapter is not None
        raise ConfigError(
            f"the adapter {run_config.adapter.name} was imported without a task. Fix: give a finetuning run's config"
        )


def prepare_run_data(run_config: RunConfig) -> RunData:
    """Open and check everything that the run reads. Raises ConfigError for a kind of run that is not trained."""
    check_is_trained(run_config)
    tokenizer = load_tokenizer(run_config.tokenizer)
    prepare = _pretraining_data if run_config.kind == "pretraining" else _finetuning_data
    return prepare(run_config, tokenizer)


def _pretraining_data(run_config: RunConfig, tokenizer: Tokenizer) -> RunData:
    assert run_config.corpus is not None
    corpus, objective, length = run_config.corpus, run_config.objective, run_config.sequence.length
    splits = _corpus_splits(configuration.canonical_json(corpus))
    documents: Documents
    if corpus.prepared is None:
        documents = encode_corpus(CorpusTexts(corpus.train, "corpus.train"), tokenizer, objective, length)
    else:
        documents = open_prepared(corpus.prepared, corpus.train, tokenizer, max_text_tokens(length, objective))
    train = pretraining_batches(
        documents, tokenizer, objective, batch_size=run_config.batch_size, length=length, seed=run_config.seeds.order
    )
    held_out = encode_corpus(CorpusTexts(corpus.dev, "corpus.dev"), tokenizer, objective, length)
    dev = pretraining_evaluation_batches(
        held_out, tokenizer, objective, batch_size=run_config.evaluation.batch_size, length=length, seed=DEV_SEED
    )
    log.info("pretraining text: %s", json.dumps(train.statistics))
    return RunData(train, dev, splits)


def _finetuning_data(run_config: RunConfig, tokenizer: Tokenizer) -> RunData:
    check_task_data(run_config)
    task, sequence_format = task_and_format(run_config)
    examples = finetuning_examples(run_config)
    log.info("training examples: %s", json.dumps(examples.counts()))
    train = training_batches(run_config, tokenizer)
    log.info("tokens: %s", json.dumps(train.statistics))
    evaluation = run_config.evaluation
    dev = _dev_batches(
        configuration.canonical_json(run_config.task),
        run_config.tokenizer,
        sequence_format,
        evaluation.dev_examples,
        evaluation.batch_size,
    )
    return RunData(train, dev, _task_splits(run_config, examples), task, sequence_format)


def task_encoder(run_config: RunConfig, tokenizer: Tokenizer) -> ExampleEncoder | None:
    """Return the encoder of a run's examples; None if it has no task."""
    if run_config.task is None:
        return None
    return make_encoder(tokenizer, _task(configuration.canonical_json(run_config.task)).template)


def check_encoding(run_config: RunConfig, tokenizer: Tokenizer) -> None:
    """Raise ConfigError if the tokenizer does not suit the run: its objective, mode, template or stop strings."""
    if run_config.corpus is not None:
        check_sentinels(tokenizer, run_config.objective, run_config.sequence.length)
    if run_config.task is not None:
        task, sequence_format = task_and_format(run_config)
        encode_prompts([finetuning_examples(run_config)[0]], tokenizer, task.template, sequence_format)
    if (encoder := task_encoder(run_config, tokenizer)) is not None:
        encoder.check_stop_strings(run_config.evaluation.decoding.stop)


def check_same_encoding(
    directory: Location, metadata: Mapping[str, Any], run_config: RunConfig, tokenizer: Tokenizer
) -> None:
    """Raise CheckpointError if a checkpoint with this metadata was trained on other ids of the same examples."""
    if metadata["position"]["step"] == 0:  # an imported adapter, which was not trained here
        return
    encoder = task_encoder(run_config, tokenizer)
    current, trained = encoder.identity if encoder else "", metadata.get("encoding", "")
    if trained != current:
        raise CheckpointError(
            f"{directory}: was trained on other token ids of the same examples ({trained or 'spaces in the prompt'}) "
            f"than the current ones ({current or 'spaces in the prompt'}). Fix: restore the tokenizer's files, or "
            "train it again in a new directory"
        )


def task_and_format(run_config: RunConfig) -> tuple[Task, SequenceFormat]:
    """Return the task of a finetuning run and the format of its sequences."""
    task = _task(configuration.canonical_json(run_config.task))
    return task, run_config.sequence.format(task.max_source_tokens, task.max_target_tokens)


def check_task_data(run_config: RunConfig) -> None:
    """Open every split that a finetuning run reads, including test sets.

    Raises:
        DataError: a split is missing, faulty or too small.
        ConfigError: the task has no test set.
    """
    task, _ = task_and_format(run_config)
    key = configuration.canonical_json(run_config.task)
    if not task.test:
        raise ConfigError(f"task {task.name} has no test set. Fix: add one under task.test")
    finetuning_examples(run_config)
    for name in ("dev", *task.test):
        if not _split(key, name):
            raise DataError(f"task {task.name}: its split {name} has no examples. Fix: give it another source")
    for name in task.test:
        check_examples(test_examples(run_config, name, run_config.evaluation.test_examples))


def task_digests(run_config: RunConfig) -> dict[str, str]:
    """Return the digests of the complete splits of a run's task."""
    return {name: split_digest(run_config, name) for name in task_and_format(run_config)[0].splits()}


def split_digest(run_config: RunConfig, name: str) -> str:
    """Return the digest of a complete split of a run's task or pretraining text."""
    if run_config.corpus is not None:
        return _corpus_digest(run_config.corpus, name)
    return _split_digest(configuration.canonical_json(run_config.task), name)


def corpus_digests(corpus: CorpusConfig) -> dict[str, str]:
    """Return the digests of pretraining text; of prepared text those of its shards."""
    return {name: _corpus_digest(corpus, name) for name in ("train", "dev")}


def _corpus_digest(corpus: CorpusConfig, name: str) -> str:
    if name == "train" and corpus.prepared is not None:
        return joint_digest([shard["sha256"] for shard in read_statistics(corpus.prepared)["shards"]])
    return corpus_digest(CorpusTexts(getattr(corpus, name), f"corpus.{name}"))


def warn_of_changed_data(run_config: RunConfig, recorded: Mapping[str, str], where: str, consequence: str) -> list[str]:
    """Return the splits whose data cannot be read or differs from its recorded digest; log a warning about each."""
    changed = []
    for name, digest in recorded.items():
        try:
            problem = "" if split_digest(run_config, name) == digest else "changed since its digest was recorded"
        except UserError as error:
            problem = f"cannot be compared with its recorded digest ({error})"
        if problem:
            sources = _source_names(run_config, name)
            log.warning("%s: the data of split %s (%s) %s; %s", where, name, sources, problem, consequence)
            changed.append(name)
    return changed


def _source_names(run_config: RunConfig, name: str) -> str:
    """Return the files or datasets of a split."""
    if (corpus := run_config.corpus) is None:
        sources = [part.source for part in task_and_format(run_config)[0].splits()[name]]
    elif name == "train" and corpus.prepared is not None:
        return corpus.prepared
    else:
        sources = [source_from_config(part.source, "corpus") for part in getattr(corpus, name)]
    return ", ".join(map(str, sources))


def _task_splits(run_config: RunConfig, training: Examples) -> SplitRecords:
    key, evaluation = configuration.canonical_json(run_config.task), run_config.evaluation
    counts = {"dev": evaluation.dev_examples, **dict.fromkeys(_task(key).test, evaluation.test_examples)}
    held_out = {name: held_out_subset(_split(key, name), count) for name, count in counts.items()}
    overlap = _overlap(key, len(training), run_config.seeds.data, tuple(counts.items()))
    splits = {"train": training, **held_out}
    sizes = {name: len(examples) for name, examples in splits.items()}
    return split_records(
        task_digests(run_config), sizes, {name: examples.dropped for name, examples in splits.items()}, overlap
    )


def finetuning_examples(run_config: RunConfig) -> Examples:
    """Return the training examples: a prefix of the permutation that seeds.data determines."""
    examples = _split(configuration.canonical_json(run_config.task), "train")
    return subset(examples, run_config.finetune_examples or len(examples), run_config.seeds.data)


def training_batches(run_config: RunConfig, tokenizer: Tokenizer) -> Batches:
    """Return the encoded training batches of a finetuning run."""
    task, sequence_format = task_and_format(run_config)
    return finetuning_batches(
        finetuning_examples(run_config),
        tokenizer,
        task.template,
        sequence_format,
        batch_size=run_config.batch_size,
        seed=run_config.seeds.order,
        pack=run_config.batch.pack,
        row_length=run_config.batch.row_length,
    )


def test_examples(run_config: RunConfig, name: str, count: int | None) -> Examples:
    """Return `count` examples (None: all) of a test set of the run's task."""
    return held_out_subset(_split(configuration.canonical_json(run_config.task), name), count)


def held_out_subset(examples: Examples, count: int | None) -> Examples:
    """Return a fixed subset of `count` held-out examples (None: all), with the same proportions of languages."""
    if count is None or count >= len(examples):
        return examples
    return subset(examples, count, seed=0)


# Runs of a study share tasks and held-out data, which are opened, rendered and encoded once per process. Caches are
# keyed by the task's canonical JSON.


@functools.lru_cache(maxsize=8)
def _task(key: str) -> Task:
    return load_task(json.loads(key))


@functools.lru_cache(maxsize=32)
def _split(key: str, split: str) -> Examples:
    return _task(key).examples(split)


@functools.lru_cache(maxsize=32)
def _split_digest(key: str, split: str) -> str:
    return examples_digest(_split(key, split))


@functools.lru_cache(maxsize=32)
def _overlap(key: str, size: int, seed: int, counts: tuple[tuple[str, int | None], ...]) -> dict[str, Overlap]:
    held_out = {name: held_out_subset(_split(key, name), count) for name, count in counts}
    return example_overlap(subset(_split(key, "train"), size, seed), held_out)


@functools.lru_cache(maxsize=4)
def _corpus_splits(key: str) -> SplitRecords:
    corpus = configuration.build(CorpusConfig, json.loads(key), "corpus")
    digests, dev = corpus_digests(corpus), CorpusTexts(corpus.dev, "corpus.dev")
    if corpus.prepared is not None:  # its text may be elsewhere
        log.warning("split dev: its texts were not searched for in the training text, which is prepared as token ids")
        return split_records(digests, {"train": read_statistics(corpus.prepared)["documents"], "dev": len(dev)}, {}, {})
    training = CorpusTexts(corpus.train, "corpus.train")
    dropped = {"train": training.dropped, "dev": dev.dropped}
    return split_records(digests, {"train": len(training), "dev": len(dev)}, dropped, text_overlap(training, dev))


@functools.lru_cache(maxsize=8)
def _dev_batches(
    key: str, tokenizer: str, sequence_format: SequenceFormat, examples: int | None, batch_size: int
) -> Batches:
    dev = held_out_subset(_split(key, "dev"), examples)
    return evaluation_batches(
        dev, load_tokenizer(tokenizer), _task(key).template, sequence_format, batch_size=batch_size
    )
