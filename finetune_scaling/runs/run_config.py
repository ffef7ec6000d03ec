"""The config of one run as frozen dataclasses: the meaning, default and check of every field of a config file."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from finetune_scaling import configuration
from finetune_scaling.configuration import FieldTypes, check_at_least
from finetune_scaling.data.corpus import CorpusConfig
from finetune_scaling.data.encoding import SequenceFormat
from finetune_scaling.data.objectives import ObjectiveConfig
from finetune_scaling.data.task import TaskBlock
from finetune_scaling.decoding.settings import DecodingConfig
from finetune_scaling.errors import ConfigError
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.models.ladder import model_config
from finetune_scaling.paths import UserPath
from finetune_scaling.runs.evaluators import Evaluator, EvaluatorBlock, read_evaluators
from finetune_scaling.sharding.mesh import ShardingConfig
from finetune_scaling.training.optimizers import OptimizerConfig, ScheduleConfig
from finetune_scaling.tuning.method import MethodSpec, TuningMethod, configure
from finetune_scaling.tuning.registry import METHODS

Kind = Literal["pretraining", "finetuning", "converted model", "imported adapter"]
LARGEST_SEED = 2**32 - 1

ModelBlock = Annotated[Mapping[str, Any], FieldTypes(lambda _: ModelConfig, {"name": str})]
ScheduleBlock = Annotated[Mapping[str, Any], FieldTypes(lambda _: ScheduleConfig, {"learning_rate": float | None})]
MethodBlock = Annotated[
    Mapping[str, Any], FieldTypes(lambda block: _method_options(block), {"name": Literal[*METHODS]})
]


def _method_options(block: Mapping[str, Any]) -> Any:
    name = block.get("name")
    return METHODS[name].options if name in list(METHODS) else Any  # a wrong name is an error when the config is read


@dataclasses.dataclass(frozen=True)
class Seeds:
    """Independent random seeds: choice of examples (data), initial parameters, and order of the batches."""

    data: int = 0
    parameters: int = 0
    order: int = 0

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not 0 <= value <= LARGEST_SEED:
                raise ConfigError(f"seeds.{name} = {value} must be between 0 and {LARGEST_SEED}")


@dataclasses.dataclass(frozen=True)
class BaseConfig:
    """The base model of a finetuning run: a run directory, and the step of its checkpoint (None: the newest)."""

    run: UserPath
    step: int | None = None


@dataclasses.dataclass(frozen=True)
class PublicModel:
    """The public model that a base model was converted from (interop/model_import.py).

    name: directory, or name on the Hugging Face hub. revision: as requested; commit: the commit it resolved to (None
    for a directory). family: model_type of its config.json. dtype: of the stored parameters if it differs from the
    files'. pretrain_tokens: number of tokens that it was pretrained on, if known.
    """

    name: str
    family: str
    revision: str | None = None
    commit: str | None = None
    dtype: str | None = None
    pretrain_tokens: int | None = None

    def __post_init__(self) -> None:
        check_at_least(self, ("pretrain_tokens",), 1, "public.")


@dataclasses.dataclass(frozen=True)
class ImportedAdapter:
    """The PEFT adapter that a run was imported from (adapter_import.py): directory, digest of its weights."""

    name: str
    weights_sha256: str


@dataclasses.dataclass(frozen=True)
class BatchConfig:
    """Training batches.

    size: sequences (packed: rows) per step; None: the method's default. accumulation: microbatches per step.
    row_length: tokens of a packed finetuning row; None: sequence.length. buffer: batches that are assembled ahead.
    """

    size: int | None = None
    accumulation: int = 1
    pack: bool = False
    row_length: int | None = None
    buffer: int = 4

    def __post_init__(self) -> None:
        check_at_least(self, ("accumulation", "row_length", "buffer"), 1, "batch.")
        if self.row_length is not None and not self.pack:
            raise ConfigError("batch.row_length applies to packed rows only. Fix: set batch.pack, or remove row_length")
        if self.size is not None and (self.size < 1 or self.size % self.accumulation):
            raise ConfigError(
                f"batch.size = {self.size} must be a positive multiple of batch.accumulation = {self.accumulation}"
            )


@dataclasses.dataclass(frozen=True)
class SequenceConfig:
    """Lengths and format of sequences.

    length: tokens of a row without soft prompt. The other fields apply to finetuning; None: the task's limits.
    """

    length: int
    max_source_tokens: int | None = None
    max_target_tokens: int | None = None
    bidirectional_input: bool = False
    mode: Literal["", "R", "X", "S"] = ""

    def __post_init__(self) -> None:
        check_at_least(self, ("length", "max_source_tokens", "max_target_tokens"), 1, "sequence.")

    def format(self, max_source_tokens: int, max_target_tokens: int) -> SequenceFormat:
        """Return the format of finetuning sequences; the arguments are the task's limits, used where none is set."""
        return SequenceFormat(
            length=self.length,
            max_source_tokens=self.max_source_tokens or max_source_tokens,
            max_target_tokens=self.max_target_tokens or max_target_tokens,
            bidirectional_input=self.bidirectional_input,
            mode=self.mode,
        )


@dataclasses.dataclass(frozen=True)
class LimitsConfig:
    """Limits of training, which stops at the earliest of them.

    max_tokens: positions computed (pretraining), batch x length per step.
    patience: dev evaluations without improvement (early stopping).
    tolerance: if dev loss fell by more than this (nats per token) between the last two evaluations before a limit, the
        result record says stopped_by = "budget": the run had not converged.
    """

    max_steps: int | None = None
    max_epochs: float | None = None
    max_tokens: int | None = None
    patience: int | None = None
    tolerance: float = 0.02

    def __post_init__(self) -> None:
        if self.max_steps is None and self.max_epochs is None and self.max_tokens is None:
            raise ConfigError("limits is empty. Fix: set max_steps, max_epochs or max_tokens")
        check_at_least(self, ("max_steps", "max_tokens", "patience"), 1, "limits.")
        if self.max_epochs is not None and not 0 < self.max_epochs < math.inf:
            raise ConfigError(f"limits.max_epochs = {self.max_epochs} must be a finite number above 0")
        if not self.tolerance >= 0:
            raise ConfigError(f"limits.tolerance = {self.tolerance} must be at least 0")

    def last_step(self, steps_per_epoch: float, tokens_per_step: int) -> tuple[int, str]:
        """Return the last step of training without early stopping, and the name of the limit that sets it.

        steps_per_epoch: infinity where it is unknown, which needs another limit than max_epochs.
        """
        is_endless = self.max_epochs is None or math.isinf(steps_per_epoch)
        limits = {
            "max_steps": self.max_steps,
            "max_epochs": None if is_endless else math.ceil((self.max_epochs or 0) * steps_per_epoch),
            "max_tokens": None if self.max_tokens is None else round(self.max_tokens / tokens_per_step),
        }
        name, steps = min(((n, s) for n, s in limits.items() if s is not None), key=lambda limit: limit[1])
        return max(1, steps), name


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """Settings of evaluation.

    every_steps, times: interval of dev loss in steps, or the number of evaluations per run. dev_examples,
    test_examples, generate_examples (test examples decoded at the end with `decoding`): None: all, 0: none.
    evaluators: further evaluations by name (runs/evaluators.py).
    """

    every_steps: int | None = None
    times: int = 10
    batch_size: int = 32
    dev_examples: int | None = None
    test_examples: int | None = None
    generate_examples: int | None = 0
    decoding: DecodingConfig = dataclasses.field(default_factory=DecodingConfig)
    evaluators: Mapping[str, EvaluatorBlock] | None = None

    def __post_init__(self) -> None:
        check_at_least(self, ("every_steps", "times", "batch_size", "dev_examples", "test_examples"), 1, "evaluation.")
        check_at_least(self, ("generate_examples",), 0, "evaluation.")
        read_evaluators(self.evaluators)

    @property
    def named_evaluators(self) -> dict[str, Evaluator]:
        """The evaluators by name."""
        return read_evaluators(self.evaluators)

    def interval(self, total_steps: int) -> int:
        """Return the number of steps between two evaluations of dev loss."""
        return self.every_steps or max(1, math.ceil(total_steps / self.times))


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When checkpoints are saved, in addition to every improvement.

    every_steps: interval in steps. keep_tokens: token counts at whose steps a checkpoint is saved and kept.
    """

    every_steps: int = 1000
    keep_tokens: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_at_least(self, ("every_steps",), 1, "checkpoint.")


@dataclasses.dataclass(frozen=True)
class LoggingConfig:
    """Logging of metrics.

    every_steps: interval of training loss. writers: tensorboard, wandb, in addition to metrics.jsonl. profile_steps:
    first and last step, counted from 1, of a trace that TensorBoard reads; take later steps than the first, which
    compiles.
    """

    every_steps: int = 50
    writers: tuple[str, ...] = ()
    profile_steps: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        check_at_least(self, ("every_steps",), 1, "logging.")
        if self.profile_steps is not None and not 1 <= self.profile_steps[0] <= self.profile_steps[1]:
            raise ConfigError(
                f"logging.profile_steps = {list(self.profile_steps)} must be a first and a last step, counted from 1"
            )


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """The config of one run. One block sets its `kind`:

    corpus: pretraining. task: finetuning, of `base` or from scratch, or further training of an imported `adapter`.
    public: a converted public model, which is not trained. adapter without task: an imported adapter of `base`.

    model: the name of a size of the ladder, or model fields; with a base, only the fields that differ from the base's.
    schedule.learning_rate and batch.size default to the method's. tokenizer: a directory; empty: the base's own.
    """

    sequence: SequenceConfig
    limits: LimitsConfig
    tokenizer: UserPath = ""
    name: str = ""
    model: ModelBlock = dataclasses.field(default_factory=dict)
    method: MethodBlock = dataclasses.field(default_factory=lambda: {"name": "full"})
    corpus: CorpusConfig | None = None
    objective: ObjectiveConfig = dataclasses.field(default_factory=ObjectiveConfig)
    task: TaskBlock | None = None
    base: BaseConfig | None = None
    public: PublicModel | None = None
    adapter: ImportedAdapter | None = None
    finetune_examples: int | None = None
    seeds: Seeds = Seeds()
    batch: BatchConfig = BatchConfig()
    sharding: ShardingConfig = dataclasses.field(default_factory=ShardingConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    schedule: ScheduleBlock = dataclasses.field(default_factory=dict)
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    logging: LoggingConfig = LoggingConfig()

    def __post_init__(self) -> None:
        _check_blocks(self, self.kind)
        check_at_least(self, ("finetune_examples",), 1, "config.")

    @property
    def kind(self) -> Kind:
        """The kind of run. Raises ConfigError if no block, or more than one, sets it."""
        kinds: dict[Kind, Any] = {"pretraining": self.corpus, "finetuning": self.task, "converted model": self.public}
        found: list[Kind] = [kind for kind, block in kinds.items() if block is not None]
        if len(found) > 1 or (not found and self.adapter is None):
            raise ConfigError(
                f"the config has {' and '.join(found) or 'neither corpus nor task'}. Fix: give either a corpus "
                "(pretraining) or a task (finetuning)"
            )
        return found[0] if found else "imported adapter"

    @property
    def is_base(self) -> bool:
        """Whether this run's model is a base model: pretrained here, or a converted public model."""
        return self.kind in ("pretraining", "converted model")

    @property
    def method_declaration(self) -> MethodSpec:
        """The method that `method.name` names."""
        return configuration.choose(METHODS, self.method.get("name", ""), "method.name")

    @property
    def tuning(self) -> TuningMethod:
        """The method with the options of the method block. Raises ConfigError for an unknown one."""
        return configure(METHODS, self.method)

    @property
    def batch_size(self) -> int:
        """Sequences (packed: rows) per step."""
        return self.batch.size or self.method_declaration.defaults.batch_size

    @property
    def bidirectional(self) -> bool:
        """Whether training rows may have bidirectional inputs (prefix LM)."""
        return self.objective.bidirectional if self.is_base else self.sequence.bidirectional_input

    @property
    def row_length(self) -> int:
        """Tokens of a row without soft prompt."""
        return self.batch.row_length or self.sequence.length

    @property
    def tokens_per_step(self) -> int:
        """Positions computed per step without soft prompts."""
        return self.batch_size * self.row_length

    @property
    def schedule_config(self) -> ScheduleConfig:
        """The learning-rate schedule."""
        default = {"learning_rate": self.method_declaration.defaults.learning_rate}
        return configuration.build(ScheduleConfig, {**default, **self.schedule}, "schedule")


def _check_blocks(config: RunConfig, kind: Kind) -> None:
    """Raise ConfigError if a block is missing, does not apply to this kind of run, or contradicts another one."""
    if kind == "pretraining" and config.base is not None:
        raise ConfigError("base applies to finetuning; pretraining starts from random parameters. Fix: remove base")
    if kind == "pretraining" and config.batch.pack:
        raise ConfigError("batch.pack applies to finetuning; pretraining rows are always packed. Fix: remove it")
    if config.adapter is not None and config.base is None:
        raise ConfigError("base is missing: an imported adapter needs its base model. Fix: set base.run")
    if config.base is None and not config.model:
        raise ConfigError("model is missing. Fix: set model.name to a size of the ladder, or give a base to finetune")
    if config.row_length < config.sequence.length:
        raise ConfigError(
            f"batch.row_length = {config.row_length} must be at least sequence.length = {config.sequence.length}, as "
            "each packed row holds complete sequences"
        )


_OPEN_BLOCKS = ("model", "method", "task", "schedule")  # blocks whose fields other modules define


def read_run_config(config: Mapping[str, Any]) -> RunConfig:
    """Return the RunConfig of a config mapping. Raises ConfigError that names the first wrong field."""
    blocks = configuration.plain(config)
    for name in _OPEN_BLOCKS:
        if isinstance(blocks.get(name), dict):
            blocks[name] = configuration.without_unset(blocks[name])
    run_config = configuration.build(RunConfig, blocks, "config")
    if run_config.batch_size % run_config.batch.accumulation:
        raise ConfigError(
            f"batch.accumulation = {run_config.batch.accumulation} must divide the batch of {run_config.batch_size} "
            "sequences. Fix: change it, or set batch.size"
        )
    # Fields of the open blocks are checked now, before anything slow starts.
    run_config.schedule_config  # noqa: B018
    run_config.tuning  # noqa: B018
    if run_config.base is None:
        model_config(run_config.model, vocab_size=1)
    return run_config
