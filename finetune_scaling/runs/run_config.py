"""The config of one run, pretraining or finetuning, as a frozen dataclass: what every field of a config file means."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

from ml_collections import ConfigDict

from finetune_scaling import configuration
from finetune_scaling.data.corpus import CorpusConfig
from finetune_scaling.data.encoding import SequenceFormat
from finetune_scaling.data.objectives import ObjectiveConfig
from finetune_scaling.decoding.settings import DecodingConfig
from finetune_scaling.errors import ConfigError
from finetune_scaling.models.ladder import model_config
from finetune_scaling.runs.evaluators import Evaluator, read_evaluators
from finetune_scaling.sharding.mesh import ShardingConfig
from finetune_scaling.training.optimizers import OptimizerConfig, ScheduleConfig
from finetune_scaling.tuning.method import MethodSpec, configure
from finetune_scaling.tuning.registry import METHODS


def _check_counts(block: Any, where: str, names: tuple[str, ...], least: int = 1) -> None:
    """Raises ConfigError where one of these numbers of a block is given and below `least`."""
    for name in names:
        value = getattr(block, name)
        if value is not None and value < least:
            raise ConfigError(f"{where}.{name} = {value} must be at least {least}")


LARGEST_SEED = 2**32 - 1


@dataclasses.dataclass(frozen=True)
class Seeds:
    """Independent seeds: which examples (data), initial parameters, and the order of batches."""

    data: int = 0
    parameters: int = 0
    order: int = 0

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not 0 <= value <= LARGEST_SEED:
                raise ConfigError(f"seeds.{name} = {value} must lie between 0 and {LARGEST_SEED}")


@dataclasses.dataclass(frozen=True)
class BaseConfig:
    """The pretrained run that finetuning starts from; step: which of its checkpoints (None: the last one)."""

    run: str
    step: int | None = None


@dataclasses.dataclass(frozen=True)
class PublicModel:
    """The public model that a base was converted from (interop/conversion.py).

    name: its directory, or its name on the hub; revision: as it was asked for, commit: which that was (None: a
    directory); family: the model_type of its config.json; dtype: of the stored parameters, where another than the
    files' was asked for; pretrain_tokens: that it had seen, where that was told.
    """

    name: str
    family: str
    revision: str | None = None
    commit: str | None = None
    dtype: str | None = None
    pretrain_tokens: int | None = None

    def __post_init__(self) -> None:
        _check_counts(self, "public", ("pretrain_tokens",))


@dataclasses.dataclass(frozen=True)
class ImportedAdapter:
    """The adapter that a run was made of (interop/peft/incoming.py): its directory, and its weights' digest."""

    name: str
    weights_sha256: str


@dataclasses.dataclass(frozen=True)
class BatchConfig:
    """size: sequences a step (rows, where packed); None takes the method's. accumulation: parts, one after another."""

    size: int | None = None
    accumulation: int = 1
    pack: bool = False
    row_length: int | None = None  # of packed finetuning rows; None: one sequence's length

    def __post_init__(self) -> None:
        _check_counts(self, "batch", ("accumulation", "row_length"))
        if self.row_length is not None and not self.pack:
            raise ConfigError("batch.row_length is for packed rows; set batch.pack, or leave it out")
        if self.size is not None and (self.size < 1 or self.size % self.accumulation):
            raise ConfigError(
                f"batch.size = {self.size} must be a positive multiple of accumulation {self.accumulation}"
            )


@dataclasses.dataclass(frozen=True)
class SequenceConfig:
    """length: tokens of a row, prompt apart. The rest is for finetuning; None takes the task's limits."""

    length: int
    max_source_tokens: int | None = None
    max_target_tokens: int | None = None
    bidirectional_input: bool = False
    mode: Literal["", "R", "X", "S"] = ""

    def __post_init__(self) -> None:
        _check_counts(self, "sequence", ("length", "max_source_tokens", "max_target_tokens"))

    def format(self, max_source_tokens: int, max_target_tokens: int) -> SequenceFormat:
        """The form of finetuning sequences, with a task's limits where the config says none."""
        return SequenceFormat(
            length=self.length,
            max_source_tokens=self.max_source_tokens or max_source_tokens,
            max_target_tokens=self.max_target_tokens or max_target_tokens,
            bidirectional_input=self.bidirectional_input,
            mode=self.mode,
        )


@dataclasses.dataclass(frozen=True)
class LimitsConfig:
    """When training ends: at the earliest of these.

    max_tokens: positions computed (pretraining), batch x length a step.
    patience: evaluations without a better dev loss.
    tolerance: where dev loss still fell by more than this (nats a token) between the last two evaluations before
    another limit, the run was stopped by its budget and not by its optimum, and its record says so.
    """

    max_steps: int | None = None
    max_epochs: float | None = None
    max_tokens: int | None = None
    patience: int | None = None
    tolerance: float = 0.02

    def __post_init__(self) -> None:
        if self.max_steps is None and self.max_epochs is None and self.max_tokens is None:
            raise ConfigError("limits: give max_steps, max_epochs or max_tokens")
        _check_counts(self, "limits", ("max_steps", "max_tokens", "patience"))
        if self.max_epochs is not None and not 0 < self.max_epochs < math.inf:
            raise ConfigError(f"limits.max_epochs = {self.max_epochs} must be a finite number above 0")
        if not self.tolerance >= 0:
            raise ConfigError(f"limits.tolerance = {self.tolerance} must be at least 0")

    def last_step(self, steps_per_epoch: float, tokens_per_step: int) -> tuple[int, str]:
        """The step at which training ends at the latest, and the name of the limit that ends it."""
        limits = {
            "max_steps": self.max_steps,
            "max_epochs": None if self.max_epochs is None else math.ceil(self.max_epochs * steps_per_epoch),
            "max_tokens": None if self.max_tokens is None else round(self.max_tokens / tokens_per_step),
        }
        name, steps = min(((n, s) for n, s in limits.items() if s is not None), key=lambda limit: limit[1])
        return max(1, steps), name


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """What is measured, and when.

    every_steps, or times: dev loss so often, in steps or in all. Example numbers of None mean all there are.
    generate_examples: test segments decoded at the end, as `decoding` says; 0 for none.
    evaluators: what else is scored, by name (runs/evaluators.py).
    """

    every_steps: int | None = None
    times: int = 10
    batch_size: int = 32
    dev_examples: int | None = None
    test_examples: int | None = None
    generate_examples: int | None = 0
    decoding: DecodingConfig = dataclasses.field(default_factory=DecodingConfig)
    evaluators: Mapping[str, Mapping[str, Any]] | None = None

    def __post_init__(self) -> None:
        _check_counts(self, "evaluation", ("every_steps", "times", "batch_size", "dev_examples", "test_examples"))
        _check_counts(self, "evaluation", ("generate_examples",), least=0)
        read_evaluators(self.evaluators)

    @property
    def named_evaluators(self) -> dict[str, Evaluator]:
        """The evaluators by name."""
        return read_evaluators(self.evaluators)

    def interval(self, total_steps: int) -> int:
        """Steps between two evaluations."""
        return self.every_steps or max(1, math.ceil(total_steps / self.times))


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """every_steps: how often the newest state is saved, beside every better one; keep_tokens: token counts kept."""

    every_steps: int = 1000
    keep_tokens: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _check_counts(self, "checkpoint", ("every_steps",))


@dataclasses.dataclass(frozen=True)
class LoggingConfig:
    """every_steps: training loss in the metrics so often; writers: tensorboard, wandb, beside metrics.jsonl."""

    every_steps: int = 50
    writers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_counts(self, "logging", ("every_steps",))


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """One run: pretraining where `corpus` is given, finetuning where `task` is; neither for an `adapter` alone, nor for
    a base that came in from elsewhere, which `public` tells.

    model: a rung of the ladder by name, or its fields; while finetuning, only fields to change on the base's.
    schedule.learning_rate and batch.size may be left out: the method has defaults.
    """

    sequence: SequenceConfig
    limits: LimitsConfig
    tokenizer: str
    name: str = ""
    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    method: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"name": "full"})
    corpus: CorpusConfig | None = None
    objective: ObjectiveConfig = dataclasses.field(default_factory=ObjectiveConfig)
    task: Mapping[str, Any] | None = None
    base: BaseConfig | None = None
    public: PublicModel | None = None
    adapter: ImportedAdapter | None = None
    finetune_examples: int | None = None
    seeds: Seeds = Seeds()
    batch: BatchConfig = BatchConfig()
    sharding: ShardingConfig = dataclasses.field(default_factory=ShardingConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    schedule: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    logging: LoggingConfig = LoggingConfig()

    def __post_init__(self) -> None:
        ways = [block for block in (self.corpus, self.task, self.public) if block is not None]
        if len(ways) > 1 or (not ways and self.adapter is None):
            raise ConfigError("give the config a corpus (pretraining) or a task (finetuning), and not both")
        if self.corpus is not None and self.base is not None:
            raise ConfigError("base is for finetuning; pretraining starts from nothing, so remove it")
        if self.corpus is not None and self.batch.pack:
            raise ConfigError("batch.pack is for finetuning; pretraining's rows are always packed, so leave it out")
        if self.adapter is not None and self.base is None:
            raise ConfigError("base is missing; an adapter that came in stands on one")
        if self.base is None and not self.model:
            raise ConfigError("model is missing; name a rung of the ladder, or give a base to finetune")
        if self.finetune_examples is not None and self.finetune_examples < 1:
            raise ConfigError(f"finetune_examples = {self.finetune_examples} must be at least 1")

    @property
    def is_base(self) -> bool:
        """Whether what comes out is a base: a pretraining run, or a public model that was converted."""
        return self.corpus is not None or self.public is not None

    @property
    def method_declaration(self) -> MethodSpec:
        """The method that `method.name` names."""
        return configuration.choose(METHODS, self.method.get("name", ""), "method.name")

    @property
    def batch_size(self) -> int:
        """Sequences a step, the method's default where the config says none."""
        return self.batch.size or self.method_declaration.defaults.batch_size

    @property
    def row_length(self) -> int:
        """Tokens of a row, soft prompt apart."""
        return self.batch.row_length or self.sequence.length

    @property
    def schedule_config(self) -> ScheduleConfig:
        """The schedule, with the method's learning rate where the config says none."""
        default = {"learning_rate": self.method_declaration.defaults.learning_rate}
        return configuration.build(ScheduleConfig, {**default, **self.schedule}, "schedule")

    def sequence_format(self, max_source_tokens: int, max_target_tokens: int) -> SequenceFormat:
        """The form of this run's finetuning sequences, with the task's limits where the config says none."""
        return self.sequence.format(max_source_tokens, max_target_tokens)


def read_run_config(config: Mapping[str, Any]) -> RunConfig:
    """The run config of a config. Raises ConfigError that names the first wrong field."""
    config = {
        name: configuration.without_unset(block) if _is_open(name, block) else block for name, block in config.items()
    }
    run_config = configuration.build(RunConfig, config, "config")
    if run_config.batch_size % run_config.batch.accumulation:
        raise ConfigError(f"batch.accumulation must divide the batch of {run_config.batch_size} sequences")
    # The fields of open blocks are checked now, before anything heavy starts.
    run_config.schedule_config  # noqa: B018
    configure(METHODS, run_config.method)
    if run_config.base is None:
        model_config(run_config.model, vocab_size=1)
    return run_config


def _is_open(name: str, block: Any) -> bool:
    """Whether a block's fields are defined elsewhere; None in it means not given."""
    return name in ("model", "method", "task", "schedule") and isinstance(block, Mapping | ConfigDict)
