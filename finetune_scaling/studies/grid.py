"""A study as data: base families, tasks, and per method a grid of factors; expanded to settings and runs.

A setting is one cell: task, method, base size, pretraining tokens, PET size, finetuning examples. Three factors vary
one thing at a time: `model` the base's size, `pretrain` its tokens and `pet` the PET size, each with every number of
examples. The cells where all three are at their defaults serve every factor and are run once. A fourth, the learning
rate, is swept at every size; no law is fitted to it.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from finetune_scaling import configuration
from finetune_scaling.configuration import choose
from finetune_scaling.errors import ConfigError
from finetune_scaling.models.ladder import LADDER
from finetune_scaling.tuning.registry import METHODS

FACTORS = ("model", "pretrain", "pet")
SWEEP = "learning_rate"
_DIRECTORY = re.compile(r"\w([\w.-]*\w)?")


@dataclasses.dataclass(frozen=True)
class PublicLadder:
    """Where a family's bases come from that others pretrained.

    source: a directory or a name on the hub, in which {size} and {revision} stand for the base's own; a revision that
    is not in it follows the name after @. models: one for each of the family's sizes, the fields of its config.json
    that bear on its shape, so that a study is listed and costed before anything is fetched; a base that has another
    shape is refused. revisions: one for each of the family's tokens; empty: one base a size, the newest.
    """

    source: str
    models: tuple[Mapping[str, Any], ...]
    revisions: tuple[str, ...] = ()

    def of(self, size: str, revision: str | None) -> str:
        """The source of one base, as `convert --from-hf` takes it."""
        name = self.source.replace("{size}", size)
        if revision is None or "{revision}" in name:
            return name.replace("{revision}", revision or "")
        return f"{name}@{revision}"


@dataclasses.dataclass(frozen=True)
class FamilyConfig:
    """Bases that differ in size and pretraining tokens only: a ladder that the study pretrains, or a public one.

    tokenizer: a directory, or the fields of a TokenizerConfig to train one on the family's corpus; a public ladder has
    its own. pretrain: fields of the pretraining runs' configs, model, tokenizer and limits apart.
    model: fields changed on every rung. sizes: rungs. tokens: checkpoints kept, the last of them the whole run.
    factor_size: the size at which pretraining tokens and PET sizes are varied.
    """

    sizes: tuple[str, ...]
    tokens: tuple[int, ...]
    factor_size: str
    tokenizer: str | Mapping[str, Any] = ""
    pretrain: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    public: PublicLadder | None = None
    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    held_out_sizes: tuple[str, ...] = ()
    held_out_tokens: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.public is None:
            self._check_own()
        else:
            self._check_public(self.public)
        if self.factor_size not in self.sizes:
            raise ConfigError(f"families.factor_size = {self.factor_size!r} is not among its sizes {list(self.sizes)}")
        if list(self.tokens) != sorted(set(self.tokens)) or not self.tokens or self.tokens[0] < 1:
            raise ConfigError(
                f"families.tokens = {list(self.tokens)} must rise from above 0, the last being the whole pretraining"
            )
        _check_subset(self.held_out_sizes, self.sizes, "families.held_out_sizes")
        _check_subset(self.held_out_tokens, self.tokens, "families.held_out_tokens")

    def _check_own(self) -> None:
        for size in self.sizes:
            choose(LADDER, size, "families.sizes")
        if not self.tokenizer:
            raise ConfigError(
                "families.tokenizer is missing; give a directory or how to train one, or name public bases"
            )

    def _check_public(self, public: PublicLadder) -> None:
        for name in ("tokenizer", "pretrain", "model"):
            if getattr(self, name):
                raise ConfigError(f"families.{name} is for bases that the study pretrains; leave it out beside public")
        if len(public.models) != len(self.sizes):
            raise ConfigError(
                f"families.public.models are {len(public.models)}, families.sizes {len(self.sizes)}; give one for each"
            )
        if public.revisions and len(public.revisions) != len(self.tokens):
            raise ConfigError(
                f"families.public.revisions are {len(public.revisions)}, families.tokens {len(self.tokens)}; give one "
                "for each"
            )
        if len(set(self.sizes)) < len(self.sizes) or len(set(public.revisions)) < len(public.revisions):
            raise ConfigError("families.sizes and families.public.revisions must name none twice: each is another base")
        if strange := [size for size in self.sizes if not _DIRECTORY.fullmatch(size)]:
            raise ConfigError(
                f"families.sizes: {strange[0]!r} is to name directories; take letters, digits, and . - _ between them"
            )
        if len(self.sizes) > 1 and "{size}" not in public.source:
            raise ConfigError(
                f"families.public.source = {public.source!r} names one model for all sizes; put in {{size}}"
            )
        if not public.revisions and len(self.tokens) > 1:
            raise ConfigError("families.public.revisions is missing; families.tokens has more than one number")
        if "{revision}" in public.source and not public.revisions:
            raise ConfigError(
                f"families.public.source = {public.source!r} asks for a revision; give families.public.revisions"
            )

    def revision(self, tokens: int) -> str | None:
        """The revision of a public base that has seen so many tokens; None where there is one base a size."""
        revisions = self.public.revisions if self.public else ()
        return revisions[self.tokens.index(tokens)] if revisions else None


@dataclasses.dataclass(frozen=True)
class MethodGrid:
    """One method's grid on one task.

    factors: which of model, pretrain, pet are varied. pet_sizes: the default first is not needed; `pet_size` names it.
    config: fields changed on the method's runs. learning_rates: swept at every size of the family, with
    sweep_examples (those of finetune_examples where it is empty).
    """

    finetune_examples: tuple[int, ...]
    held_out_examples: tuple[int, ...] = ()
    pet_size: int | None = None
    pet_sizes: tuple[int, ...] = ()
    held_out_pet_sizes: tuple[int, ...] = ()
    factors: tuple[str, ...] = FACTORS
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    learning_rates: tuple[float, ...] = ()
    sweep_examples: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        names = {f"{rate:g}" for rate in self.learning_rates}  # by which their runs' directories differ
        if len(names) < len(self.learning_rates) or not all(0 < rate < math.inf for rate in self.learning_rates):
            raise ConfigError(
                f"methods.learning_rates = {list(self.learning_rates)} must be finite numbers above 0 that differ in "
                "their first six digits"
            )
        if self.sweep_examples and not self.learning_rates:
            raise ConfigError("methods.sweep_examples is of a sweep; give methods.learning_rates, or leave it out")
        if self.sweep_examples and min(self.sweep_examples) < 1:
            raise ConfigError(f"methods.sweep_examples = {list(self.sweep_examples)} must be numbers above 0")
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
        if not self.tasks or not all(task.methods for task in self.tasks.values()):
            raise ConfigError("tasks must name one at least, and each of them a method: there is nothing to run")
        for name, task in self.tasks.items():
            choose(self.families, task.family, f"tasks.{name}.family")
        if len(set(self.seeds)) < len(self.seeds) or not self.seeds or min(self.seeds) < 0:
            raise ConfigError(f"seeds = {list(self.seeds)} must be different, none negative, and at least one")


@dataclasses.dataclass(frozen=True)
class Setting:
    """One cell of the grid. factors: those that it serves, the first of them the one that it is listed under.

    learning_rate: one of a sweep; None is that of the method's config.
    """

    task: str
    family: str
    method: str
    size: str
    tokens: int
    pet_size: int | None
    finetune_examples: int
    factors: tuple[str, ...]
    learning_rate: float | None = None


@dataclasses.dataclass(frozen=True)
class Run:
    """A setting with one seed, and where its directory is, relative to the study's."""

    setting: Setting
    seed: int

    @property
    def directory(self) -> str:
        s = self.setting
        pet = "" if s.pet_size is None else f"_p{s.pet_size}"
        rate = "" if s.learning_rate is None else f"_lr{s.learning_rate:g}"
        return f"runs/{s.task}/{s.method}/{s.size}_t{s.tokens}{pet}_d{s.finetune_examples}{rate}_s{self.seed}"


def read_study(config: Mapping[str, Any]) -> StudyConfig:
    """The study of a config; ConfigError names the first wrong field."""
    return configuration.build(StudyConfig, config, "config")


def settings(study: StudyConfig) -> list[Setting]:
    """Every setting once, in an order that keeps equal bases and methods together."""
    cells: dict[Setting, dict[str, None]] = {}  # with the factors that each serves, in the order of FACTORS
    for task_name, task in study.tasks.items():
        for method, grid in task.methods.items():
            swept = (SWEEP,) if grid.learning_rates else ()
            for factor in (*(factor for factor in FACTORS if factor in grid.factors), *swept):
                for cell in _cells(study, task_name, method, factor):
                    cells.setdefault(cell, {})[factor] = None
    found = [dataclasses.replace(cell, factors=tuple(factors)) for cell, factors in cells.items()]
    rank = {(name, size): place for name, f in study.families.items() for place, size in enumerate(_ordered(f))}
    methods = {method: place for place, method in enumerate(METHODS)}
    return sorted(
        found, key=lambda s: (s.family, rank[s.family, s.size], s.task, methods[s.method], s.pet_size or 0, s.tokens)
    )


def runs(study: StudyConfig) -> list[Run]:
    """Every setting with every seed."""
    return [Run(setting, seed) for setting in settings(study) for seed in study.seeds]


def x_of(setting: Setting, factor: str, parameters: int, learning_rate: float) -> int | float:
    """The factor's value at a setting: parameters of the model, pretraining tokens, PET size, or learning rate."""
    values = {"model": parameters, "pretrain": setting.tokens, "pet": setting.pet_size, SWEEP: learning_rate}
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
    sizes = family.sizes if factor in ("model", SWEEP) else (family.factor_size,)
    tokens = family.tokens if factor == "pretrain" else family.tokens[-1:]
    pets = (grid.pet_sizes or (grid.pet_size,)) if factor == "pet" else (grid.pet_size,)
    if factor == "pet" and grid.pet_size is None:
        return  # full tuning has no PET size to vary
    swept = factor == SWEEP
    rates = (
        [None if rate == own_rate(task, method, grid) else rate for rate in grid.learning_rates] if swept else [None]
    )
    every = (grid.sweep_examples if swept else ()) or grid.finetune_examples
    for size, token_count, pet, examples, rate in itertools.product(sizes, tokens, pets, every, rates):
        yield Setting(task_name, task.family, method, size, token_count, pet, examples, (), rate)


def own_rate(task: TaskGrid, method: str, grid: MethodGrid) -> float:
    """The learning rate that a method's runs have outside the sweep: the config's, or else the method's default."""
    for fields in (grid.config, task.finetune):
        rate = fields.get("schedule", {}).get("learning_rate")
        if rate is not None:
            return float(rate)
    return METHODS[method].defaults.learning_rate


def _ordered(family: FamilyConfig) -> list[str]:
    """Sizes from small to large, where that is known: else in the config's order."""
    rungs = list(LADDER)
    return list(family.sizes) if family.public else sorted(family.sizes, key=rungs.index)


def _check_subset(part: tuple, whole: tuple, where: str) -> None:
    for value in part:
        if value not in whole:
            raise ConfigError(f"{where}: {value!r} is not among {list(whole)}")
