"""Checks of a run, by its config and its model's shape, before its data is encoded and its base is loaded.

`train` checks its run, `study` every run before the first one is trained.
"""

import functools
import math

import jax

from finetune_scaling.data.tokenizers.interface import Tokenizer
from finetune_scaling.errors import ConfigError
from finetune_scaling.evaluation.context_checks import check_generation
from finetune_scaling.models.attention_choice import check_attention
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.models.model_sharding import check_fits
from finetune_scaling.runs.metrics import check_writers
from finetune_scaling.runs.model_loading import check_length
from finetune_scaling.runs.run_config import RunConfig
from finetune_scaling.runs.run_data import task_and_format, training_batches
from finetune_scaling.sharding.mesh import check_batch, make_mesh
from finetune_scaling.training.optimizers import learning_rate_factors
from finetune_scaling.training.step import learning_rate_multipliers
from finetune_scaling.trees import Tree
from finetune_scaling.tuning.attach import attach
from finetune_scaling.tuning.method import TuningMethod


def check_run(run_config: RunConfig, model: ModelConfig, examples: int | None) -> None:
    """Raise ConfigError if a run cannot be trained or scored to its end on the available devices.

    model: the run's model. examples: its number of training examples; None for pretraining.
    """
    sharding, tuning = run_config.sharding, run_config.tuning
    mesh = make_mesh(sharding)
    check_batch(run_config.batch_size, run_config.batch.accumulation, sharding, mesh)
    check_fits(model, sharding, mesh)
    check_attention(model, jax.default_backend())
    check_length(model, tuning, run_config.sequence.length)
    if run_config.batch.pack and run_config.sequence.bidirectional_input and tuning.prompt_attends_to_input:
        raise ConfigError(
            "method.attends_to_input = True: packed texts share one soft prompt, which would mix their inputs. "
            "Fix: set batch.pack = False or method.attends_to_input = False"
        )
    check_writers(run_config.logging.writers)
    multipliers = learning_rate_multipliers(run_config.optimizer, tuning)
    learning_rate_factors(multipliers, _trainable_shapes(model, tuning))
    if examples is not None:
        _, sequence_format = task_and_format(run_config)
        if run_config.evaluation.generate_examples != 0:
            check_generation(run_config.evaluation.decoding, sequence_format, model, tuning)
    if examples is not None or run_config.limits.max_steps or run_config.limits.max_tokens:
        epoch = math.inf if examples is None else examples / run_config.batch_size  # fewer with packed rows
        check_steps(run_config, *run_config.limits.last_step(epoch, run_config.tokens_per_step))


def check_steps(run_config: RunConfig, total: int, limit: str) -> frozenset[int]:
    """Return the steps of checkpoint.keep_tokens. Raises ConfigError if they or the warm-up exceed the run's steps.

    total: the run's steps; limit: the field of `limits` that sets them.
    """
    warmup, per_step = run_config.schedule_config.warmup_steps, run_config.tokens_per_step
    if warmup > total:
        raise ConfigError(
            f"schedule.warmup_steps = {warmup} is more than the run's {total} steps (set by limits.{limit}), so its "
            "learning rate would never reach schedule.learning_rate. Fix: lower warmup_steps, or raise the limit"
        )
    keep = {round(tokens / per_step) for tokens in run_config.checkpoint.keep_tokens}
    if any(not 1 <= step <= total for step in keep):
        raise ConfigError(
            f"checkpoint.keep_tokens = {list(run_config.checkpoint.keep_tokens)} must be between one step "
            f"({per_step:,} tokens) and the run's {total * per_step:,} tokens. Fix: remove the others, or raise "
            f"limits.{limit}"
        )
    if len(keep) < len(set(run_config.checkpoint.keep_tokens)):
        raise ConfigError(
            f"checkpoint.keep_tokens = {list(run_config.checkpoint.keep_tokens)}: two of them are the same step of "
            f"{per_step:,} tokens. Fix: give counts at least that far apart"
        )
    return frozenset(keep)


def check_packed_steps(run_config: RunConfig, tokenizer: Tokenizer) -> None:
    """Raise ConfigError as check_steps for packed rows, which only the encoded examples of the run determine."""
    is_set = run_config.schedule_config.warmup_steps or run_config.checkpoint.keep_tokens
    if run_config.batch.pack and run_config.limits.max_epochs is not None and is_set:
        epoch = training_batches(run_config, tokenizer).batches_per_epoch
        check_steps(run_config, *run_config.limits.last_step(epoch, run_config.tokens_per_step))


@functools.lru_cache(maxsize=64)
def _trainable_shapes(model: ModelConfig, tuning: TuningMethod) -> Tree:
    """Return the shapes of a method's trainable parameters. Raises ConfigError if its options do not fit the model."""
    tokens = tuple(range(model.vocab_size))  # the shapes do not depend on the ids
    rng = jax.eval_shape(jax.random.key, 0)
    return jax.eval_shape(lambda key: attach(model, tuning, key, None, tokens), rng)[0]
