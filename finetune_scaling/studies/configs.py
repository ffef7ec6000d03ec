"""The run configs of a study: pretraining or conversion of its bases, finetuning of its settings."""

import dataclasses
import functools
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from finetune_scaling import configuration
from finetune_scaling.configuration import merge
from finetune_scaling.data.tokenizers.loading import load_tokenizer
from finetune_scaling.data.tokenizers.training import TokenizerConfig
from finetune_scaling.errors import ConfigError
from finetune_scaling.interop.families.registry import parse_config
from finetune_scaling.interop.hub import UnreachableError
from finetune_scaling.interop.import_source import read_source_config
from finetune_scaling.interop.model_import import ModelImport
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.models.ladder import model_config
from finetune_scaling.runs.model_loading import with_model_changes
from finetune_scaling.runs.run_config import RunConfig, read_run_config
from finetune_scaling.runs.run_paths import TOKENIZER
from finetune_scaling.studies.grid import FamilyConfig, Setting, StudyConfig, StudyRun, runs
from finetune_scaling.training.flops import training_flops
from finetune_scaling.tuning.registry import METHODS

Config = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Base:
    """One directory below bases/: a pretraining run with all its checkpoints, or one revision of a public model.

    tokens: pretraining tokens of the revision; None for a pretraining run, and where they are unknown.
    """

    family: str
    size: str
    tokens: int | None = None
    is_public: bool = False

    @property
    def name(self) -> str:
        """The name in listings, and the path below bases/."""
        return f"{self.family}/{self.size}" + ("" if self.tokens is None else f"/t{self.tokens}")

    def directory(self, workdir: Path) -> Path:
        """Return the base's directory below a study's directory."""
        return workdir / "bases" / self.name


def base_of(study: StudyConfig, setting: Setting) -> Base:
    """Return the base that a setting is finetuned from."""
    if study.families[setting.family].public is None:
        return Base(setting.family, setting.size)
    return Base(setting.family, setting.size, setting.tokens, is_public=True)


def bases(study: StudyConfig, of_runs: Iterable[StudyRun] | None = None) -> list[Base]:
    """Return the distinct bases that `of_runs` (default: all runs) need."""
    return list(dict.fromkeys(base_of(study, run.setting) for run in (runs(study) if of_runs is None else of_runs)))


def tokenizer_path(study: StudyConfig, workdir: Path, base: Base) -> str:
    """Return the path of a base's tokenizer: the family's, one that the study trains, or the public model's own."""
    family = study.families[base.family]
    if family.public:
        return str(base.directory(workdir) / TOKENIZER)
    return family.tokenizer if isinstance(family.tokenizer, str) else str(workdir / "tokenizers" / base.family)


def conversion(study: StudyConfig, workdir: Path, base: Base) -> ModelImport:
    """Return the settings with which a public base is converted."""
    family = study.families[base.family]
    assert family.public is not None
    source = family.public.base_source(base.size, family.revision(base.tokens))
    return ModelImport(source, str(base.directory(workdir)), pretrain_tokens=base.tokens)


def pretraining_config(study: StudyConfig, workdir: Path, base: Base) -> Config:
    """Return the config that pretrains a base, keeping a checkpoint at every token count of the family."""
    family = study.families[base.family]
    common: Config = {
        "name": f"{base.family} {base.size}",
        "model": {**family.model, "name": base.size},
        "tokenizer": tokenizer_path(study, workdir, base),
        "limits": {"max_tokens": family.tokens[-1]},
        "checkpoint": {"keep_tokens": list(family.tokens)},
    }
    return merge(configuration.plain(family.pretrain), common)


def finetuning_config(study: StudyConfig, workdir: Path, run: StudyRun) -> Config:
    """Return the config of one finetuning run. Raises ConfigError if the study lacks what every run needs."""
    setting = run.setting
    task = study.tasks[setting.task]
    grid = task.methods[setting.method]
    field = METHODS[setting.method].size_field
    pet: Config = {} if field is None else {field: setting.pet_size}
    rate: Config = {} if setting.learning_rate is None else {"schedule": {"learning_rate": setting.learning_rate}}
    base = base_of(study, setting)
    setting_fields: Config = {
        "name": Path(run.directory).relative_to("runs").as_posix(),
        "task": configuration.plain(task.task),
        "method": {"name": setting.method, **pet},
        "tokenizer": tokenizer_path(study, workdir, base),
        "base": {"run": str(base.directory(workdir)), "step": base_step(study, workdir, base, setting.tokens)},
        "finetune_examples": setting.finetune_examples,
        "seeds": {"data": run.seed, "parameters": run.seed, "order": run.seed},
        **rate,
    }
    given = merge(configuration.plain(task.finetune), configuration.plain(grid.config))
    for name in ("sequence", "limits"):
        if name not in given:
            raise ConfigError(f"tasks.{setting.task}.finetune.{name} is missing; give it a value")
    return merge(given, setting_fields)


def base_step(study: StudyConfig, workdir: Path, base: Base, tokens: int | None) -> int:
    """Return the step at which a base was trained on `tokens` tokens; 0 for a converted base, its only step."""
    if tokens is None or base.is_public:
        return 0
    run_config = read_run_config(pretraining_config(study, workdir, base))
    return round(tokens / (run_config.batch_size * run_config.sequence.length))


def family_model(family: FamilyConfig, size: str) -> ModelConfig:
    """Return the model of one size, without reading a tokenizer if the config gives its vocabulary size.

    A public model's shape is the one that the config lists, or else that of the config.json of its first revision.
    Raises UnreachableError if it would have to be fetched, and cannot be.
    """
    if family.public and family.public.models:
        fields = family.public.models[family.sizes.index(size)]
        return parse_config(configuration.plain(fields), f"families.public.models, {size}")[1]
    if family.public:
        return _source_model(family.public.base_source(size, next(iter(family.public.revisions), None)))
    if isinstance(family.tokenizer, str):
        vocabulary = load_tokenizer(family.tokenizer).vocab_size
    else:
        vocabulary = configuration.build(TokenizerConfig, family.tokenizer, "families.tokenizer").vocab_size
    return model_config({**family.model, "name": size}, vocabulary)


@functools.lru_cache(maxsize=64)
def _source_model(source: str) -> ModelConfig:
    try:
        return read_source_config(source)
    except UnreachableError as error:
        raise UnreachableError(f"{error} Or list the model's shape in families.public.models.") from error


def tuned_model(family: FamilyConfig, size: str, run_config: RunConfig) -> ModelConfig:
    """Return the model of a finetuning run: the model of its base, with the changes of the run's config."""
    return with_model_changes(family_model(family, size), run_config.model)


def expected_flops(run_config: RunConfig, model: ModelConfig, examples: float) -> float:
    """Return the FLOPs of a finetuning run that stops at its limits."""
    row = run_config.row_length
    steps, _ = run_config.limits.last_step(examples / run_config.batch_size, run_config.batch_size * row)
    tuning = run_config.tuning
    return training_flops(model, tuning, steps, run_config.batch_size, row)


def pretraining_flops(study: StudyConfig, workdir: Path, base: Base) -> float:
    """Return the FLOPs of pretraining a base; 0 for a public base."""
    if base.is_public:
        return 0.0
    run_config = read_run_config(pretraining_config(study, workdir, base))
    model = family_model(study.families[base.family], base.size)
    return expected_flops(run_config, model, math.inf)
