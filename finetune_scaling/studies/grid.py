"""The config of a study (base families, tasks, and a grid of factors for every method), and its settings and runs.

A setting is one combination of task, method, base size, pretraining tokens, PET size and finetuning dataset size. Three
factors are varied one at a time, each with every dataset size: `model` (base size), `pretrain` (pretraining tokens) and
`pet` (PET size). Settings with the defaults of all three are shared by these factors and run once. Learning rates may
be swept at every base size; no law is fitted to that factor.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from finetune_scaling import configuration
from finetune_scaling.configuration import FieldTypes, choose
from finetune_scaling.data.task import TaskBlock
from finetune_scaling.data.tokenizers.training import TokenizerConfig
from finetune_scaling.errors import ConfigError
from finetune_scaling.laws.points.columns import FACTORS, SENSITIVITY_FACTOR
from finetune_scaling.models.ladder import LADDER
from finetune_scaling.names import check_file_names
from finetune_scaling.paths import UserPath
from finetune_scaling.runs.run_config import ModelBlock, RunConfig
from finetune_scaling.tuning.registry import METHODS

RunBlock = Annotated[Mapping[str, Any], FieldTypes(lambda _: RunConfig)]
TokenizerBlock = Annotated[Mapping[str, Any], FieldTypes(lambda _: TokenizerConfig)]


@dataclasses.dataclass(frozen=True)
class PublicLadder:
    """Published models that are the bases of a family.

    source: a directory or a name on the Hugging Face hub, with placeholders {size} and {revision}; without the latter,
      the revision is appended after @.
    models: for each of the family's sizes, the fields of its config.json that determine its shape, so that listing and
      planning a study need no network; a base with another shape is an error. Empty: config.json is read or fetched.
    revisions: one for each of the family's tokens; empty: one base per size, of the newest revision.
    """

    source: UserPath
    models: tuple[Mapping[str, Any], ...] = ()
    revisions: tuple[str, ...] = ()

    def base_source(self, size: str, revision: str | None) -> str:
        """Return the source of one base in the form of `convert --from-hf`."""
        name = self.source.replace("{size}", size)
        if revision is None or "{revision}" in name:
            return name.replace("{revision}", revision or "")
        return f"{name}@{revision}"


@dataclasses.dataclass(frozen=True)
class FamilyConfig:
    """Bases that differ only in size and pretraining tokens; the study pretrains them, or they are public models.

    sizes: names of models of the ladder, or of the public models.
    tokens: pretraining tokens at which a checkpoint is kept; the last is the end of pretraining. Empty for public
      models of which nobody knows them: pretraining is not a factor then.
    factor_size: the size at which pretraining tokens and PET sizes are varied.
    tokenizer: a directory, or the fields of a TokenizerConfig to train one on the corpus; none for public bases.
    pretrain: fields of the pretraining runs' configs, except model, tokenizer and limits.
    model: fields of the model config that all sizes share.
    """

    sizes: tuple[str, ...]
    factor_size: str
    tokens: tuple[int, ...] = ()
    tokenizer: UserPath | TokenizerBlock = ""
    pretrain: RunBlock = dataclasses.field(default_factory=dict)
    public: PublicLadder | None = None
    model: ModelBlock = dataclasses.field(default_factory=dict)
    held_out_sizes: tuple[str, ...] = ()
    held_out_tokens: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.public is None:
            self._check_pretrained()
        else:
            self._check_public(self.public)
        if self.factor_size not in self.sizes:
            raise ConfigError(
                f"families.factor_size = {self.factor_size!r} is not among its sizes {list(self.sizes)}; give one "
                "of them"
            )
        is_missing = not self.tokens and self.public is None
        if is_missing or list(self.tokens) != sorted(set(self.tokens)) or min(self.tokens, default=1) < 1:
            raise ConfigError(
                f"families.tokens = {list(self.tokens)} must be positive and increasing; the last ends pretraining"
            )
        _check_subset(self.held_out_sizes, self.sizes, "families.held_out_sizes")
        _check_subset(self.held_out_tokens, self.tokens, "families.held_out_tokens")

    def _check_pretrained(self) -> None:
        for size in self.sizes:
            choose(LADDER, size, "families.sizes")
        if not self.tokenizer:
            raise ConfigError(
                "families.tokenizer is missing; give a directory or the fields of a TokenizerConfig, or public bases"
            )

    def _check_public(self, public: PublicLadder) -> None:
        for name in ("tokenizer", "pretrain", "model"):
            if getattr(self, name):
                raise ConfigError(f"families.{name} is for bases that the study pretrains; remove it, or remove public")
        given = len(public.revisions)
        if public.models and len(public.models) != len(self.sizes):
            raise ConfigError(
                f"families.public.models has {len(public.models)} entries; give one per entry of sizes, or none"
            )
        if given != len(self.token_levels) and (given or len(self.token_levels) > 1):
            raise ConfigError(
                f"families.public.revisions has {given} entries; give one per entry of tokens, or one without tokens"
            )
        if len(set(self.sizes)) < len(self.sizes) or len(set(public.revisions)) < given:
            raise ConfigError("families.sizes and families.public.revisions must have no duplicates; remove them")
        check_file_names(self.sizes, "families.sizes")
        if len(self.sizes) > 1 and "{size}" not in public.source:
            raise ConfigError(f"families.public.source = {public.source!r} names one model for all sizes; add {{size}}")
        if "{revision}" in public.source and not given:
            raise ConfigError(
                f"families.public.source = {public.source!r} contains {{revision}}; give families.public.revisions"
            )

    @property
    def token_levels(self) -> tuple[int | None, ...]:
        """The numbers of pretraining tokens; (None,) if they are unknown."""
        return self.tokens or (None,)

    def revision(self, tokens: int | None) -> str | None:
        """Return the revision of a public base pretrained on `tokens`; None if there is one base per size."""
        revisions = self.public.revisions if self.public else ()
        return revisions[self.token_levels.index(tokens)] if revisions else None


@dataclasses.dataclass(frozen=True)
class MethodGrid:
    """The grid of one method on one task.

    factors: which of model, pretrain and pet are varied.
    pet_size: the default PET size. pet_sizes: levels of the factor pet, in any order.
    config: fields of the run config that this method changes.
    learning_rates: swept at every size of the family, with the dataset sizes sweep_examples (default:
      finetune_examples).
    """

    finetune_examples: tuple[int, ...]
    held_out_examples: tuple[int, ...] = ()
    pet_size: int | None = None
    pet_sizes: tuple[int, ...] = ()
    held_out_pet_sizes: tuple[int, ...] = ()
    factors: tuple[str, ...] = FACTORS
    config: RunBlock = dataclasses.field(default_factory=dict)
    learning_rates: tuple[float, ...] = ()
    sweep_examples: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        names = {f"{rate:g}" for rate in self.learning_rates}  # as in the names of run directories
        if len(names) < len(self.learning_rates) or not all(0 < rate < math.inf for rate in self.learning_rates):
            raise ConfigError(
                f"methods.learning_rates = {list(self.learning_rates)} must be positive, finite, and different in the "
                "first six digits"
            )
        if self.sweep_examples and not self.learning_rates:
            raise ConfigError("methods.sweep_examples requires methods.learning_rates; add them, or remove it")
        if self.sweep_examples and min(self.sweep_examples) < 1:
            raise ConfigError(f"methods.sweep_examples = {list(self.sweep_examples)} must be positive")
        if not self.finetune_examples or min(self.finetune_examples) < 1:
            raise ConfigError(f"methods.finetune_examples = {list(self.finetune_examples)} must be positive")
        _check_subset(self.factors, FACTORS, "methods.factors")
        _check_subset(self.held_out_examples, self.finetune_examples, "methods.held_out_examples")
        _check_subset(self.held_out_pet_sizes, self.pet_sizes, "methods.held_out_pet_sizes")
        if self.pet_sizes and self.pet_size not in self.pet_sizes:
            raise ConfigError(
                f"methods.pet_size = {self.pet_size} is not among pet_sizes {list(self.pet_sizes)}; add it"
            )


@dataclasses.dataclass(frozen=True)
class TaskGrid:
    """A task, the family of its bases, fields that all its finetuning configs share, and each method's grid."""

    task: TaskBlock
    family: str
    finetune: RunBlock
    methods: Mapping[str, MethodGrid]

    def __post_init__(self) -> None:
        for name, grid in self.methods.items():
            method = choose(METHODS, name, "methods")
            if (grid.pet_size is None) != (method.size_field is None):
                problem = "needs pet_size; add it" if grid.pet_size is None else "has no pet_size; remove it"
                raise ConfigError(f"methods.{name} {problem}")


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    """A study: base families, tasks, and the seeds (random data subsets) that every setting is repeated with.

    size: the parameter count that laws are fitted to, total or non_embedding. notes: sentences for the report.
    """

    name: str
    families: Mapping[str, FamilyConfig]
    tasks: Mapping[str, TaskGrid]
    seeds: tuple[int, ...] = (0,)
    size: Literal["total", "non_embedding"] = "total"
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.tasks or not all(task.methods for task in self.tasks.values()):
            raise ConfigError("tasks must have at least one task, and each task at least one method")
        check_file_names(self.families, "families")
        check_file_names(self.tasks, "tasks")
        for name, task in self.tasks.items():
            choose(self.families, task.family, f"tasks.{name}.family")
        if idle := sorted({*self.tasks} - {setting.task for setting in settings(self)}):
            raise ConfigError(
                f"tasks.{idle[0]}.methods have no runs: their factors vary nothing, and they have no learning_rates. "
                "Fix: add the factor model or learning rates to a method, or remove the task"
            )
        if len(set(self.seeds)) < len(self.seeds) or not self.seeds or min(self.seeds) < 0:
            raise ConfigError(f"seeds = {list(self.seeds)} must be at least one, distinct and not negative")


@dataclasses.dataclass(frozen=True)
class Setting:
    """One combination of factor levels.

    tokens: None if unknown.
    factors: the factors that share this setting; it is listed under the first.
    learning_rate: a rate of a sweep; None: the rate of the method's config.
    """

    task: str
    family: str
    method: str
    size: str
    tokens: int | None
    pet_size: int | None
    finetune_examples: int
    factors: tuple[str, ...]
    learning_rate: float | None = None


@dataclasses.dataclass(frozen=True)
class StudyRun:
    """A setting with one seed."""

    setting: Setting
    seed: int

    @property
    def directory(self) -> str:
        """The run directory, relative to the study's directory."""
        s = self.setting
        tokens = "" if s.tokens is None else f"_t{s.tokens}"
        pet = "" if s.pet_size is None else f"_p{s.pet_size}"
        rate = "" if s.learning_rate is None else f"_lr{s.learning_rate:g}"
        return f"runs/{s.task}/{s.method}/{s.size}{tokens}{pet}_d{s.finetune_examples}{rate}_s{self.seed}"


def read_study(config: Mapping[str, Any]) -> StudyConfig:
    """Build a study from its config. Raises ConfigError that names the first wrong field."""
    return configuration.build(StudyConfig, config, "config")


def settings(study: StudyConfig) -> list[Setting]:
    """Return every setting once, in an order that keeps equal bases and methods together."""
    factors_of: dict[Setting, dict[str, None]] = {}  # a dict of None is an ordered set
    for task_name, task in study.tasks.items():
        for method, grid in task.methods.items():
            swept = (SENSITIVITY_FACTOR,) if grid.learning_rates else ()
            for factor in (*(factor for factor in FACTORS if factor in grid.factors), *swept):
                for setting in _settings_of_factor(study, task_name, method, factor):
                    factors_of.setdefault(setting, {})[factor] = None
    found = [dataclasses.replace(setting, factors=tuple(factors)) for setting, factors in factors_of.items()]
    size_order = {(name, size): i for name, f in study.families.items() for i, size in enumerate(_ordered_sizes(f))}
    methods = list(METHODS)

    def order(s: Setting) -> tuple:
        return s.family, size_order[s.family, s.size], s.task, methods.index(s.method), s.pet_size or 0, s.tokens or 0

    return sorted(found, key=order)


def runs(study: StudyConfig) -> list[StudyRun]:
    """Return every setting with every seed."""
    return [StudyRun(setting, seed) for setting in settings(study) for seed in study.seeds]


def factor_value(setting: Setting, factor: str, parameters: int, learning_rate: float) -> int | float:
    """Return the level of a factor at a setting: parameters, pretraining tokens, PET size, or learning rate."""
    levels = {"model": parameters, "pretrain": setting.tokens, "pet": setting.pet_size}
    value = (levels | {SENSITIVITY_FACTOR: learning_rate})[factor]
    if value is None:
        raise ValueError(f"{setting.method} has no level of the factor {factor}")
    return value


def held_out(study: StudyConfig, setting: Setting) -> bool:
    """Return whether laws are not fitted to a setting but tested on it: a factor level or dataset size is held out."""
    family = study.families[setting.family]
    grid = study.tasks[setting.task].methods[setting.method]
    return (
        setting.size in family.held_out_sizes
        or setting.tokens in family.held_out_tokens
        or setting.pet_size in grid.held_out_pet_sizes
        or setting.finetune_examples in grid.held_out_examples
    )


def _settings_of_factor(study: StudyConfig, task_name: str, method: str, factor: str) -> Iterator[Setting]:
    task = study.tasks[task_name]
    family, grid = study.families[task.family], task.methods[method]
    sizes = family.sizes if factor in ("model", SENSITIVITY_FACTOR) else (family.factor_size,)
    tokens = family.token_levels if factor == "pretrain" else family.token_levels[-1:]
    pet_sizes = (grid.pet_sizes or (grid.pet_size,)) if factor == "pet" else (grid.pet_size,)
    if (factor == "pet" and grid.pet_size is None) or (factor == "pretrain" and not family.tokens):
        return  # full tuning has no PET size to vary, and unknown tokens are no level
    rates: list[float | None] = [None]
    dataset_sizes = grid.finetune_examples
    if factor == SENSITIVITY_FACTOR:
        default = _default_learning_rate(task, method, grid)
        rates = [None if rate == default else rate for rate in grid.learning_rates]
        dataset_sizes = grid.sweep_examples or dataset_sizes
    for size, count, pet_size, examples, rate in itertools.product(sizes, tokens, pet_sizes, dataset_sizes, rates):
        yield Setting(task_name, task.family, method, size, count, pet_size, examples, (), rate)


def _default_learning_rate(task: TaskGrid, method: str, grid: MethodGrid) -> float:
    """Return the learning rate of a method's runs outside the sweep: the config's, or else the method's default."""
    for fields in (grid.config, task.finetune):
        rate = fields.get("schedule", {}).get("learning_rate")
        if rate is not None:
            return float(rate)
    return METHODS[method].defaults.learning_rate


def _ordered_sizes(family: FamilyConfig) -> list[str]:
    """Return the sizes from small to large; those of public models in the config's order."""
    return list(family.sizes) if family.public else sorted(family.sizes, key=list(LADDER).index)


def _check_subset(values: tuple, allowed: tuple, where: str) -> None:
    for value in values:
        if value not in allowed:
            raise ConfigError(f"{where}: {value!r} is not among {list(allowed)}; remove it or give one of these")
