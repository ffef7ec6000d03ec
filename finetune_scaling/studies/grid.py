"""A study as data: base families, tasks, and per method a grid of factors; expanded to settings and runs.

A setting is one cell: task, method, base size, pretraining tokens, PET size, finetuning examples. Three factors vary
one thing at a time: `model` the base's size, `pretrain` its tokens and `pet` the PET size, each with every number of
examples. The cells where all three are at their defaults serve every factor and are run once.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from finetune_scaling import configuration
from finetune_scaling.configuration import choose
from finetune_scaling.errors import ConfigError
from finetune_scaling.models.ladder import LADDER
from finetune_scaling.tuning.registry import METHODS

FACTORS = ("model", "pretrain", "pet")


@dataclasses.dataclass(frozen=True)
class FamilyConfig:
    """Bases that differ in size and pretraining tokens only.

    tokenizer: a directory, or the fields of a TokenizerConfig to train one on the family's corpus.
    pretrain: fields of the pretraining runs' configs, model, tokenizer and limits apart.
    model: fields changed on every rung. sizes: rungs. tokens: checkpoints kept, the last of them the whole run.
    factor_size: the size at which pretraining tokens and PET sizes are varied.
    """

    tokenizer: str | Mapping[str, Any]
    pretrain: Mapping[str, Any]
    sizes: tuple[str, ...]
    tokens: tuple[int, ...]
    factor_size: str
    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    held_out_sizes: tuple[str, ...] = ()
    held_out_tokens: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for size in self.sizes:
            choose(LADDER, size, "families.sizes")
        if self.factor_size not in self.sizes:
            raise ConfigError(f"families.factor_size = {self.factor_size!r} is not among its sizes {list(self.sizes)}")
        if list(self.tokens) != sorted(set(self.tokens)) or not self.tokens or self.tokens[0] < 1:
            raise ConfigError(
                f"families.tokens = {list(self.tokens)} must rise from above 0, the last being the whole pretraining"
            )
        _check_subset(self.held_out_sizes, self.sizes, "families.held_out_sizes")
        _check_subset(self.held_out_tokens, self.tokens, "families.held_out_tokens")


@dataclasses.dataclass(frozen=True)
class MethodGrid:
    """One method's grid on one task.

    factors: which of model, pretrain, pet are varied. pet_sizes: the default first is not needed; `pet_size` names it.
    config: fields changed on the method's runs.
    """

    finetune_examples: tuple[int, ...]
    held_out_examples: tuple[int, ...] = ()
    pet_size: int | None = None
    pet_sizes: tuple[int, ...] = ()
    held_out_pet_sizes: tuple[int, ...] = ()
    factors: tuple[str, ...] = FACTORS
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.finetune_examples or min(self.finetune_examples) < 1:
            raise ConfigError(f"methods.finetune_examples = {list(self.finetune_examples)} must be numbers above 0")
        _check_subset(self.factors, FACTORS, "methods.factors")
        _check_subset(self.held_out_examples, self.finetune_examples, "methods.held_out_examples")
        _check_subset(self.held_out_pet_sizes, self.pet_sizes, "methods.held_out_pet_sizes")
        if self.pet_sizes and self.pet_size not in self.pet_sizes:
            raise ConfigError(f"methods.pet_size = {self.pet_size} is not among pet_sizes {list(self.pet_sizes)}")


@dataclasses.dataclass(frozen=True)
class TaskGrid:
    """A task, the family it is finetuned on, fields shared by all its finetuning configs, and its methods' grids."""

    task: Mapping[str, Any]
    family: str
    finetune: Mapping[str, Any]
    methods: Mapping[str, MethodGrid]

    def __post_init__(self) -> None:
        for name, grid in self.methods.items():
            method = choose(METHODS, name, "methods")
            if (grid.pet_size is None) != (method.size_field is None):
                needs = "needs" if grid.pet_size is None else "has no"
                raise ConfigError(f"methods.{name} {needs} pet_size")


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    """A study: base families, tasks on them, and the seeds (random data subsets) that every setting is repeated with.

    size: which parameter count the laws see, total or non_embedding. notes: lines for the report.
    """

    name: str
    families: Mapping[str, FamilyConfig]
    tasks: Mapping[str, TaskGrid]
    seeds: tuple[int, ...] = (0,)
    size: Literal["total", "non_embedding"] = "total"
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, task in self.tasks.items():
            choose(self.families, task.family, f"tasks.{name}.family")
        if len(set(self.seeds)) < len(self.seeds) or not self.seeds or min(self.seeds) < 0:
            raise ConfigError(f"seeds = {list(self.seeds)} must be different, none negative, and at least one")


@dataclasses.dataclass(frozen=True)
class Setting:
    """One cell of the grid. factors: those that it serves, the first of them the one that it is listed under."""

    task: str
    family: str
    method: str
    size: str
    tokens: int
    pet_size: int | None
    finetune_examples: int
    factors: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Run:
    """A setting with one seed, and where its directory is, relative to the study's."""

    setting: Setting
    seed: int

    @property
    def directory(self) -> str:
        s = self.setting
        pet = "" if s.pet_size is None else f"_p{s.pet_size}"
        return f"runs/{s.task}/{s.method}/{s.size}_t{s.tokens}{pet}_d{s.finetune_examples}_s{self.seed}"


def read_study(config: Mapping[str, Any]) -> StudyConfig:
    """The study of a config; ConfigError names the first wrong field."""
    return configuration.build(StudyConfig, config, "config")


def settings(study: StudyConfig) -> list[Setting]:
    """Every setting once, in an order that keeps equal bases and methods together."""
    cells: dict[Setting, dict[str, None]] = {}  # with the factors that each serves, in the order of FACTORS
    for task_name, task in study.tasks.items():
        for method, grid in task.methods.items():
            for factor in (factor for factor in FACTORS if factor in grid.factors):
                for cell in _cells(study, task_name, method, factor):
                    cells.setdefault(cell, {})[factor] = None
    found = [dataclasses.replace(cell, factors=tuple(factors)) for cell, factors in cells.items()]
    rank = {size: place for place, size in enumerate(LADDER)}
    methods = {method: place for place, method in enumerate(METHODS)}
    return sorted(found, key=lambda s: (s.family, rank[s.size], s.task, methods[s.method], s.pet_size or 0, s.tokens))


def runs(study: StudyConfig) -> list[Run]:
    """Every setting with every seed."""
    return [Run(setting, seed) for setting in settings(study) for seed in study.seeds]


def x_of(setting: Setting, factor: str, parameters: int) -> int:
    """The factor's value at a setting: parameters of the model, pretraining tokens, or PET size."""
    values = {"model": parameters, "pretrain": setting.tokens, "pet": setting.pet_size}
    value = values[factor]
    if value is None:
        raise ValueError(f"{setting.method} has no {factor} size")
    return value


def held_out(study: StudyConfig, setting: Setting) -> bool:
    """Whether a setting is kept from the fits to score their extrapolation: its X or its number of examples is."""
    family = study.families[setting.family]
    grid = study.tasks[setting.task].methods[setting.method]
    return (
        setting.size in family.held_out_sizes
        or setting.tokens in family.held_out_tokens
        or setting.pet_size in grid.held_out_pet_sizes
        or setting.finetune_examples in grid.held_out_examples
    )


def _cells(study: StudyConfig, task_name: str, method: str, factor: str) -> Iterator[Setting]:
    task = study.tasks[task_name]
    family, grid = study.families[task.family], task.methods[method]
    sizes = family.sizes if factor == "model" else (family.factor_size,)
    tokens = family.tokens if factor == "pretrain" else family.tokens[-1:]
    pets = (grid.pet_sizes or (grid.pet_size,)) if factor == "pet" else (grid.pet_size,)
    if factor == "pet" and grid.pet_size is None:
        return  # full tuning has no PET size to vary
    for size in sizes:
        for token_count in tokens:
            for pet in pets:
                for examples in grid.finetune_examples:
                    yield Setting(task_name, task.family, method, size, token_count, pet, examples, ())


def _check_subset(part: tuple, whole: tuple, where: str) -> None:
    for value in part:
        if value not in whole:
            raise ConfigError(f"{where}: {value!r} is not among {list(whole)}")
