"""Checks before a study trains anything: configs, sources, fields, and numbers of examples."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from finetune_scaling.data.corpus import CorpusTexts
from finetune_scaling.data.preparation.prepared import read_statistics
from finetune_scaling.errors import CheckpointError, ConfigError, DataError
from finetune_scaling.evaluation.task_evaluation import check_evaluator_splits
from finetune_scaling.evaluation.text_evaluation import check_text_is_named
from finetune_scaling.runs.evaluators import TaskEvaluator
from finetune_scaling.runs.model_loading import check_length
from finetune_scaling.runs.run_config import read_run_config
from finetune_scaling.runs.run_data import check_task_data
from finetune_scaling.studies.configs import Base, bases, finetuning_config, pretraining_config, tuned_model
from finetune_scaling.studies.grid import StudyConfig, StudyRun
from finetune_scaling.studies.public_bases import check_source


def check_runs(study: StudyConfig, workdir: Path, runs: Sequence[StudyRun]) -> None:
    """Read all configs that `runs` need, including those of public models, and open all their text.

    Raises ConfigError, DataError or CheckpointError that names the part of the study's config that is wrong.
    """
    needed = bases(study, runs)
    pretrained = [base for base in needed if base.tokens is None]
    for base in pretrained:
        with _within(f"families.{base.family}.pretrain"):
            read_run_config(pretraining_config(study, workdir, base))
    for base in {base.family: base for base in pretrained}.values():
        with _within(f"families.{base.family}.pretrain"):
            _open_corpus(study, workdir, base)
    for run, sizes in _largest_runs(runs):
        setting, family = run.setting, study.families[run.setting.family]
        with _within(f"tasks.{setting.task}.methods.{setting.method}"):
            run_config = read_run_config(finetuning_config(study, workdir, run))
            for size in sizes:  # public models may differ in context length
                model = tuned_model(family, size, run_config)
                check_length(model, run_config.tuning, run_config.sequence.length)
            check_task_data(run_config)
            for name, evaluator in run_config.evaluation.named_evaluators.items():
                with _within(f"evaluator {name}"):
                    if isinstance(evaluator, TaskEvaluator):
                        check_evaluator_splits(evaluator, run_config)
                    elif family.public:
                        check_text_is_named(evaluator)
    for base in (base for base in needed if base.tokens is not None):
        with _within(f"families.{base.family}.public"):
            check_source(study, workdir, base)


def _open_corpus(study: StudyConfig, workdir: Path, base: Base) -> None:
    corpus = read_run_config(pretraining_config(study, workdir, base)).corpus
    if corpus is None:
        raise ConfigError("corpus is missing; add the text that the bases are pretrained on")
    if corpus.prepared is None:
        CorpusTexts(corpus.train, "corpus.train")
    else:
        read_statistics(corpus.prepared)  # its tokenizer may not exist yet; each base compares it
    CorpusTexts(corpus.dev, "corpus.dev")


def _largest_runs(runs: Sequence[StudyRun]) -> Iterator[tuple[StudyRun, list[str]]]:
    """Yield, per task, method and PET size, the run with the most examples (others read a subset) and all sizes."""
    groups: dict[tuple, list[StudyRun]] = {}
    for run in runs:
        groups.setdefault((run.setting.task, run.setting.method, run.setting.pet_size), []).append(run)
    for group in groups.values():
        sizes = dict.fromkeys(run.setting.size for run in group)
        yield max(group, key=lambda run: run.setting.finetune_examples), list(sizes)


@contextmanager
def _within(field: str) -> Iterator[None]:
    """Prefix errors with the field of the study's config that is being checked."""
    try:
        yield
    except (ConfigError, DataError, CheckpointError) as error:
        raise type(error)(f"{field}: {error}") from error
