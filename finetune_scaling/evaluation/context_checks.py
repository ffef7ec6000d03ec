"""Checks that sequences, and prompts with generated tokens, fit a model's context."""

from finetune_scaling.data.encoding import SequenceFormat
from finetune_scaling.decoding.generation import check_beams
from finetune_scaling.decoding.settings import DecodingConfig
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.tuning.context import check_context
from finetune_scaling.tuning.method import TuningMethod


def check_sequences(length: int, model: ModelConfig, tuning: TuningMethod) -> None:
    """Raise ConfigError if evaluated sequences of `length` tokens and a soft prompt exceed the model's context."""
    fix = "lower shots, max_shot_tokens, length, or the task's max_source_tokens and max_target_tokens"
    check_context(f"sequences of {length} tokens (with demonstrations)", length, model, tuning, fix)


def check_generation(
    decoding: DecodingConfig,
    sequence_format: SequenceFormat,
    model: ModelConfig,
    tuning: TuningMethod,
    inputs: str = "prompts",
    fix: str = "lower max_new_tokens",
) -> None:
    """Raise ConfigError if the longest input and its completion exceed the context, or beams the vocabulary.

    inputs: what has the longest input, as the message names it.
    """
    check_beams(decoding, model)
    new = decoding.limit(sequence_format.max_target_tokens)
    longest = sequence_format.length - sequence_format.max_target_tokens
    what = f"decoding.max_new_tokens = {new} after {inputs} of up to {longest} tokens"
    check_context(what, longest + new, model, tuning, fix)
