"""What a run computes in a step, whatever it runs on: model, method, batch and lengths, read from a run's config."""

import dataclasses

from finetune_scaling import configuration
from finetune_scaling.data.tokenizers.loading import load_tokenizer
from finetune_scaling.decoding.settings import DecodingConfig
from finetune_scaling.errors import ConfigError
from finetune_scaling.files import call_with_timeout, location
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.models.ladder import LADDER, PAPER_VOCABULARY, model_config
from finetune_scaling.runs.checkpoints import CHECKPOINTS, checkpoint_steps, read_metadata
from finetune_scaling.runs.model_loading import check_length
from finetune_scaling.runs.run_config import RunConfig
from finetune_scaling.runs.run_data import task_and_format
from finetune_scaling.training.optimizers import OptimizerConfig
from finetune_scaling.tuning.method import TuningMethod, configure
from finetune_scaling.tuning.registry import METHODS

_PAPER_SIZES = ("1b", "2b", "4b", "8b", "16b")  # whose vocabulary is known without a tokenizer


@dataclasses.dataclass(frozen=True)
class Decoding:
    """Decoding of a batch: tokens of the longest input, and of the longest output, and how it is searched for."""

    input_tokens: int
    new_tokens: int
    bidirectional_input: bool
    settings: DecodingConfig = dataclasses.field(default_factory=DecodingConfig)


@dataclasses.dataclass(frozen=True)
class Workload:
    """One run's step. batch: sequences; length: tokens of a row, soft prompt apart; evaluation_batch: sequences.

    decoding: None where the run decodes nothing.
    """

    model: ModelConfig
    tuning: TuningMethod
    optimizer: OptimizerConfig
    batch: int
    length: int
    evaluation_batch: int
    decoding: Decoding | None = None

    @property
    def positions(self) -> int:
        """Positions of a row that are computed, soft prompt included."""
        return self.length + self.tuning.prefix_length


def read_workload(run_config: RunConfig, model: ModelConfig) -> Workload:
    """The workload of a run config on a model. Raises ConfigError where rows are longer than the model's context."""
    tuning = configure(METHODS, run_config.method)
    length = run_config.batch.row_length or run_config.sequence.length
    check_length(model, tuning, length)
    return Workload(
        model=model,
        tuning=tuning,
        optimizer=run_config.optimizer,
        batch=run_config.batch_size,
        length=length,
        evaluation_batch=run_config.evaluation.batch_size,
        decoding=None if run_config.is_base else _decoding(run_config),
    )


def _decoding(run_config: RunConfig) -> Decoding | None:
    if run_config.evaluation.generate_examples == 0:
        return None
    _, form = task_and_format(run_config)
    longest = form.length - form.max_target_tokens
    settings = run_config.evaluation.decoding
    return Decoding(longest, settings.limit(form.max_target_tokens), form.bidirectional_input, settings)


def planned_model(run_config: RunConfig, rung: str | None = None, vocabulary: int | None = None) -> ModelConfig:
    """The model that a run would train, without reading a parameter.

    rung: of the ladder, in place of what the config says. A finetuning run's model is its base's: read from the base's
    checkpoint where there is one, and otherwise the rung that the last part of base.run names, as in
    runs/pretrain/en_de/16b. vocabulary: its size; without it that of the tokenizer, where it is there, and 128,000 for
    the paper's sizes. Raises ConfigError where size or vocabulary cannot be told.
    """
    block = configuration.plain(run_config.model)
    if rung is not None:
        configuration.choose(LADDER, rung, "--model")
        return _of_rung(rung, {**block, "name": rung}, run_config, vocabulary)
    if run_config.base is None:
        return _of_rung(block.get("name"), block, run_config, vocabulary)
    run = location(run_config.base.run)
    newest = call_with_timeout(run, lambda: next(checkpoint_steps(run), None))
    if newest is not None:
        metadata = read_metadata(run / CHECKPOINTS / str(newest))
        return model_config({**metadata["model"], **block})
    if run.name not in LADDER:
        raise ConfigError(
            f"base.run = {run_config.base.run} has no checkpoint and its name is no size of the ladder; give the size "
            f"of the base by --model, one of: {', '.join(LADDER)}"
        )
    return _of_rung(run.name, {**block, "name": run.name}, run_config, vocabulary)


def _of_rung(name: str | None, block: dict, run_config: RunConfig, vocabulary: int | None) -> ModelConfig:
    if vocabulary is not None:
        block = {**block, "vocab_size": vocabulary}
    if "vocab_size" in block:
        return model_config(block)
    return model_config(block, _vocabulary(name, run_config))


def _vocabulary(rung: str | None, run_config: RunConfig) -> int:
    tokenizer = location(run_config.tokenizer)
    if call_with_timeout(tokenizer, tokenizer.is_dir):
        return load_tokenizer(run_config.tokenizer).vocab_size
    if rung in _PAPER_SIZES:
        return PAPER_VOCABULARY
    raise ConfigError(
        f"tokenizer = {run_config.tokenizer} is not there, so the vocabulary's size is unknown; give it by --vocabulary"
    )
