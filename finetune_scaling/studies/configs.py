"""The configs of a study's runs: pretraining of its bases, finetuning of its settings."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune_scaling import configuration
from finetune_scaling.data.tokenizer import TokenizerConfig, load_tokenizer
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.models.ladder import model_config
from finetune_scaling.studies.grid import FamilyConfig, Run, StudyConfig
from finetune_scaling.training.experiment import Experiment, read_experiment
from finetune_scaling.training.flops import training_flops
from finetune_scaling.tuning.method import configure
from finetune_scaling.tuning.registry import METHODS

Config = dict[str, Any]


def tokenizer_path(study: StudyConfig, workdir: Path, family: str) -> str:
    """Where a family's tokenizer is: the one it names, or the one that the study trains."""
    tokenizer = study.families[family].tokenizer
    return tokenizer if isinstance(tokenizer, str) else str(workdir / "tokenizers" / family)


def base_directory(workdir: Path, family: str, size: str) -> Path:
    """The pretraining run of one base."""
    return workdir / "bases" / family / size


def pretraining_config(study: StudyConfig, workdir: Path, family: str, size: str) -> Config:
    """The config that pretrains one base once, keeping a checkpoint at every token count of the family."""
    base = study.families[family]
    common: Config = {
        "name": f"{family} {size}",
        "model": {**base.model, "name": size},
        "tokenizer": tokenizer_path(study, workdir, family),
        "limits": {"max_tokens": base.tokens[-1]},
        "checkpoint": {"keep_tokens": list(base.tokens)},
    }
    return merge(configuration.plain(base.pretrain), common)


def finetuning_config(study: StudyConfig, workdir: Path, run: Run) -> Config:
    """The config of one finetuning run."""
    setting = run.setting
    task = study.tasks[setting.task]
    grid = task.methods[setting.method]
    field = METHODS[setting.method].size_field
    pet: Config = {} if field is None else {field: setting.pet_size}
    own: Config = {
        "name": Path(run.directory).relative_to("runs").as_posix(),
        "task": configuration.plain(task.task),
        "method": {"name": setting.method, **pet},
        "tokenizer": tokenizer_path(study, workdir, setting.family),
        "base": {
            "run": str(base_directory(workdir, setting.family, setting.size)),
            "step": pretraining_step(study, workdir, setting.family, setting.size, setting.tokens),
        },
        "finetune_examples": setting.finetune_examples,
        "seeds": {"data": run.seed, "parameters": run.seed, "order": run.seed},
    }
    return merge(merge(configuration.plain(task.finetune), configuration.plain(grid.config)), own)


def pretraining_step(study: StudyConfig, workdir: Path, family: str, size: str, tokens: int) -> int:
    """The pretraining step at which `tokens` had been seen."""
    experiment = read_experiment(pretraining_config(study, workdir, family, size))
    return round(tokens / (experiment.batch_size * experiment.sequence.length))


def family_model(family: FamilyConfig, size: str) -> ModelConfig:
    """The model of one rung, without reading a tokenizer where its size is known from the config."""
    if isinstance(family.tokenizer, str):
        vocabulary = load_tokenizer(family.tokenizer).vocab_size
    else:
        vocabulary = configuration.build(TokenizerConfig, family.tokenizer, "families.tokenizer").vocab_size
    return model_config({**family.model, "name": size}, vocabulary)


def expected_flops(experiment: Experiment, model: ModelConfig, examples: int) -> float:
    """FLOPs of a finetuning run that goes to its limits."""
    row = experiment.row_length
    steps, _ = experiment.limits.ending(examples / experiment.batch_size, experiment.batch_size * row)
    tuning = configure(METHODS, experiment.method)
    return training_flops(model, tuning, steps, experiment.batch_size, row)


def pretraining_flops(study: StudyConfig, workdir: Path, family: str, size: str) -> float:
    """FLOPs of one base's pretraining."""
    experiment = read_experiment(pretraining_config(study, workdir, family, size))
    model = family_model(study.families[family], size)
    return expected_flops(experiment, model, math.inf)  # type: ignore[arg-type]


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> Config:
    """`base` with `changes`; groups of fields are merged, all else replaced."""
    merged = dict(base)
    for name, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = merge(merged[name], value) if both else value
    return merged
