"""The workload of a run's step, independent of hardware: model, method, batch and lengths, read from a config."""

import dataclasses

from finetune_scaling import configuration
from finetune_scaling.data.tokenizers.loading import load_tokenizer
from finetune_scaling.decoding.settings import DecodingConfig
from finetune_scaling.errors import ConfigError
from finetune_scaling.files import call_with_timeout, location
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.models.ladder import LADDER, PAPER_VOCABULARY, model_config
from finetune_scaling.runs.checkpoints import CHECKPOINTS, checkpoint_steps, read_metadata
from finetune_scaling.runs.model_loading import base_model_fields, check_length
from finetune_scaling.runs.run_config import RunConfig
from finetune_scaling.runs.run_data import task_and_format
from finetune_scaling.runs.run_directory import is_public_model, public_model_error
from finetune_scaling.training.optimizers import OptimizerConfig
from finetune_scaling.tuning.method import TuningMethod

_PAPER_SIZES = ("1b", "2b", "4b", "8b", "16b")  # their vocabulary is known without a tokenizer


@dataclasses.dataclass(frozen=True)
class DecodingWorkload:
    """Decoding of a batch: tokens of the longest input and output, and the search settings."""

    input_tokens: int
    new_tokens: int
    bidirectional_input: bool
    settings: DecodingConfig = dataclasses.field(default_factory=DecodingConfig)


@dataclasses.dataclass(frozen=True)
class Workload:
    """The step of one run.

    batch, evaluation_batch: sequences.
    length: tokens per row, without soft prompt.
    decoding: None if the run does not decode.
    bidirectional: whether rows may have bidirectional inputs (prefix LM).
    """

    model: ModelConfig
    tuning: TuningMethod
    optimizer: OptimizerConfig
    batch: int
    length: int
    evaluation_batch: int
    decoding: DecodingWorkload | None = None
    bidirectional: bool = True

    @property
    def positions(self) -> int:
        """Return the positions per row, including the soft prompt."""
        return self.length + self.tuning.prompt_length


def read_workload(run_config: RunConfig, model: ModelConfig) -> Workload:
    """Return the workload of a run. Raises ConfigError if rows are longer than the model's context."""
    tuning = run_config.tuning
    length = run_config.row_length
    check_length(model, tuning, length)
    return Workload(
        model=model,
        tuning=tuning,
        optimizer=run_config.optimizer,
        batch=run_config.batch_size,
        length=length,
        evaluation_batch=run_config.evaluation.batch_size,
        decoding=None if run_config.is_base else _decoding(run_config),
        bidirectional=run_config.bidirectional,
    )


def _decoding(run_config: RunConfig) -> DecodingWorkload | None:
    if run_config.evaluation.generate_examples == 0:
        return None
    _, limits = task_and_format(run_config)
    longest = limits.length - limits.max_target_tokens
    settings = run_config.evaluation.decoding
    return DecodingWorkload(longest, settings.limit(limits.max_target_tokens), limits.bidirectional_input, settings)


def planned_model(run_config: RunConfig, size: str | None = None, vocabulary: int | None = None) -> ModelConfig:
    """Return the model that a run trains, without reading parameters.

    A finetuning run's model is that of its base model: from the base's checkpoint if it exists, otherwise the size that
    the last part of base.run names, as in runs/pretrain/en_de/16b.

    size: a model of the ladder, in place of the config's.
    vocabulary: vocabulary size; default: that of the tokenizer if it exists, 128,000 for the paper's sizes.

    Raises ConfigError if size or vocabulary are unknown.
    """
    fields = configuration.plain(run_config.model)
    if size is not None:
        configuration.choose(LADDER, size, "--model")
    elif run_config.base is not None:
        run = location(run_config.base.run)
        newest = call_with_timeout(run, lambda: next(checkpoint_steps(run), None))
        if newest is not None:
            metadata = read_metadata(run / CHECKPOINTS / str(newest))
            return model_config({**base_model_fields(metadata), **fields})
        if is_public_model(run):
            raise public_model_error(run)
        size = run.name
        if size not in LADDER:
            raise ConfigError(
                f"base.run = {run_config.base.run} has no checkpoint and its name is not a size of the ladder; give "
                f"the size of the base as --model, one of: {', '.join(LADDER)}"
            )
    fields |= {} if size is None else {"name": size}
    fields |= {} if vocabulary is None else {"vocab_size": vocabulary}
    return model_config(fields, None if "vocab_size" in fields else _vocabulary(fields.get("name"), run_config))


def _vocabulary(size: str | None, run_config: RunConfig) -> int:
    tokenizer = location(run_config.tokenizer)
    if call_with_timeout(tokenizer, tokenizer.is_dir):
        return load_tokenizer(run_config.tokenizer).vocab_size
    if size in _PAPER_SIZES:
        return PAPER_VOCABULARY
    raise ConfigError(
        f"tokenizer = {run_config.tokenizer} does not exist, so the vocabulary size is unknown; give it as --vocabulary"
    )
