"""Checks before a study trains anything: every run's config, model and data, as `train` would check them."""

import functools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from finetune_scaling.data.corpus import CorpusTexts
from finetune_scaling.data.preparation.prepared import read_statistics
from finetune_scaling.data.tokenizers.loading import load_tokenizer
from finetune_scaling.errors import CheckpointError, ConfigError, DataError
from finetune_scaling.evaluation.context_checks import check_sequences
from finetune_scaling.evaluation.prepared_evaluation import prepare_evaluators
from finetune_scaling.evaluation.task_evaluation import check_evaluator_splits
from finetune_scaling.evaluation.text_evaluation import check_text_is_named
from finetune_scaling.experiments.checks import check_packed_steps, check_run
from finetune_scaling.files import location
from finetune_scaling.interop.hub import UnreachableError, fetch_files
from finetune_scaling.models.config import count_parameters
from finetune_scaling.runs.evaluators import Evaluator, TaskEvaluator, TextEvaluator
from finetune_scaling.runs.run_config import RunConfig, read_run_config
from finetune_scaling.runs.run_data import check_encoding, check_task_data
from finetune_scaling.sharding.processes import run_on_primary
from finetune_scaling.studies.configs import (
    Base,
    base_of,
    bases,
    conversion,
    family_model,
    finetuning_config,
    pretraining_config,
    tokenizer_path,
    tuned_model,
)
from finetune_scaling.studies.grid import StudyConfig, StudyRun
from finetune_scaling.studies.public_bases import check_same_tokenizer, check_source


def check_runs(study: StudyConfig, workdir: Path, runs: Sequence[StudyRun]) -> None:
    """Check all configs that `runs` need, including those of public models, and open all their text.

    Raises ConfigError, DataError or CheckpointError that names the part of the study's config that is wrong.
    """
    needed = bases(study, runs)
    pretrained = [base for base in needed if not base.is_public]
    for base in pretrained:
        with _within(f"families.{base.family}.pretrain"):
            run_config = read_run_config(pretraining_config(study, workdir, base))
            check_run(run_config, family_model(study.families[base.family], base.size), None)
    for base in {base.family: base for base in pretrained}.values():
        with _within(f"families.{base.family}.pretrain"):
            _open_corpus(study, workdir, base)
    _check_sizes(study, bases(study) if needed else [])  # also those of finished runs
    for group in _groups(runs, "size", "pet_size"):
        with _within_method(group):
            _check_shapes(study, workdir, group)
    for group in _groups(runs):
        with _within_method(group):
            _check_data(study, workdir, group)
    for base in (base for base in needed if base.is_public):
        with _within(f"families.{base.family}.public"):
            check_source(study, workdir, base)


def check_with_tokenizers(study: StudyConfig, workdir: Path, runs: Sequence[StudyRun]) -> None:
    """Check what needs only a tokenizer, where it exists: sentinels, encoding, steps, and evaluators of tasks.

    Of public models on the hub that are not converted yet, all files but the weights are fetched.

    Raises as check_runs.
    """
    load = functools.cache(load_tokenizer)
    paths = {base: _find_tokenizer(study, workdir, base) for base in bases(study, runs)}
    check_same_tokenizer({base: load(path).digest for base, path in paths.items() if path})
    for base, path in paths.items():
        if path and not base.is_public:
            with _within(f"families.{base.family}.pretrain"):
                check_encoding(read_run_config(pretraining_config(study, workdir, base)), load(path))
    for group in _groups(runs, "size", "pet_size"):
        run = group[0]
        run_config = read_run_config(finetuning_config(study, workdir, run))
        path = paths[base_of(study, run.setting)]
        if path is None:
            continue
        evaluators = run_config.evaluation.named_evaluators
        tasks = {name: one for name, one in evaluators.items() if isinstance(one, TaskEvaluator)}
        with _within_method(group):
            model = tuned_model(study.families[run.setting.family], run.setting.size, run_config)
            check_encoding(run_config, load(path))
            prepare_evaluators(tasks, run_config, load(path), model)
    for group in _groups(runs):
        for run in _smallest_of_each_seed(group):
            if path := paths[base_of(study, run.setting)]:
                with _within_method(group):
                    check_packed_steps(read_run_config(finetuning_config(study, workdir, run)), load(path))


def _find_tokenizer(study: StudyConfig, workdir: Path, base: Base) -> str | None:
    """Return the directory of a base's tokenizer; None if it is not trained yet, or the hub cannot be reached."""
    path = tokenizer_path(study, workdir, base)
    if location(path).exists():
        return path
    with _within(f"families.{base.family}.public"):
        return (
            run_on_primary(lambda: _fetch_tokenizer(conversion(study, workdir, base).source))
            if base.is_public
            else None
        )


def _fetch_tokenizer(source: str) -> str | None:
    try:
        return fetch_files(source).directory
    except UnreachableError:  # which the conversion raises, unless another process converts the base
        return None


def _check_sizes(study: StudyConfig, needed: Sequence[Base]) -> None:
    """Raise ConfigError if two sizes of a family have equally many parameters, by which tables identify models."""
    for kind in {"total", study.size}:
        found: dict[tuple[str, int], str] = {}
        for base in needed:
            count = getattr(count_parameters(family_model(study.families[base.family], base.size)), kind)
            other = found.setdefault((base.family, count), base.size)
            if other != base.size:
                raise ConfigError(
                    f"families.{base.family}.sizes: {other} and {base.size} both have {count:,} parameters "
                    f"({kind.replace('_', '-')}), so their points would be one setting. Fix: remove one, or give it a "
                    "family and a task of its own"
                )


def _check_shapes(study: StudyConfig, workdir: Path, group: Sequence[StudyRun]) -> None:
    """Check lengths and steps of runs that differ in dataset size, pretraining tokens, learning rate and seed only."""
    smallest = min(group, key=_examples)  # with the fewest steps
    setting = smallest.setting
    run_config = read_run_config(finetuning_config(study, workdir, smallest))
    model = tuned_model(study.families[setting.family], setting.size, run_config)
    check_run(run_config, model, setting.finetune_examples)
    for name, evaluator in run_config.evaluation.named_evaluators.items():
        with _within(f"evaluator {name}"):
            if isinstance(evaluator, TextEvaluator) and study.families[setting.family].public:
                check_text_is_named(evaluator)
            length = _least_length(study, workdir, smallest, evaluator, run_config)
            check_sequences(length, model, run_config.tuning)


def _check_data(study: StudyConfig, workdir: Path, group: Sequence[StudyRun]) -> None:
    """Open the data of runs of one task and method; the largest dataset contains the others."""
    run_config = read_run_config(finetuning_config(study, workdir, max(group, key=_examples)))
    check_task_data(run_config)
    for name, evaluator in run_config.evaluation.named_evaluators.items():
        with _within(f"evaluator {name}"):
            if isinstance(evaluator, TaskEvaluator):
                check_evaluator_splits(evaluator, run_config)


def _smallest_of_each_seed(group: Sequence[StudyRun]) -> list[StudyRun]:
    """Return one run with the smallest dataset for each seed: other seeds choose other examples, in other rows."""
    smallest = min(map(_examples, group))
    return list({run.seed: run for run in group if _examples(run) == smallest}.values())


def _examples(run: StudyRun) -> int:
    return run.setting.finetune_examples


def _least_length(study: StudyConfig, workdir: Path, run: StudyRun, evaluator: Evaluator, run_config: RunConfig) -> int:
    """Return the tokens of an evaluator's sequences, without demonstrations, whose length a tokenizer determines."""
    if isinstance(evaluator, TextEvaluator):
        base = base_of(study, run.setting)
        return evaluator.length or read_run_config(pretraining_config(study, workdir, base)).sequence.length
    return run_config.sequence.length


def _open_corpus(study: StudyConfig, workdir: Path, base: Base) -> None:
    corpus = read_run_config(pretraining_config(study, workdir, base)).corpus
    if corpus is None:
        raise ConfigError("corpus is missing; add the text that the bases are pretrained on")
    if corpus.prepared is None:
        CorpusTexts(corpus.train, "corpus.train")
    else:
        read_statistics(corpus.prepared)  # its tokenizer may not exist yet; each base compares it
    CorpusTexts(corpus.dev, "corpus.dev")


def _groups(runs: Sequence[StudyRun], *fields: str) -> list[list[StudyRun]]:
    """Return the runs by task, method and other fields of their settings."""
    groups: dict[tuple, list[StudyRun]] = {}
    for run in runs:
        key = tuple(getattr(run.setting, field) for field in ("task", "method", *fields))
        groups.setdefault(key, []).append(run)
    return list(groups.values())


def _within_method(group: Sequence[StudyRun]) -> AbstractContextManager[None]:
    setting = group[0].setting
    return _within(f"tasks.{setting.task}.methods.{setting.method}")


@contextmanager
def _within(field: str) -> Iterator[None]:
    """Prefix errors with the field of the study's config that is being checked."""
    try:
        yield
    except (ConfigError, DataError, CheckpointError) as error:
        raise type(error)(f"{field}: {error}") from error
