"""Checks that sequences, and prompts with generated tokens, fit a model's context."""

from finetune_scaling.data.encoding import SequenceFormat
from finetune_scaling.decoding.generation import check_beams
from finetune_scaling.decoding.settings import DecodingConfig
from finetune_scaling.errors import ConfigError
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.tuning.method import TuningMethod


def check_sequences(length: int, model: ModelConfig, tuning: TuningMethod) -> None:
    """Raise ConfigError if evaluated sequences of `length` tokens and a soft prompt exceed the model's context."""
    needed = length + tuning.prompt_length
    if needed > model.max_length:
        raise ConfigError(
            f"sequences of {length} tokens (with demonstrations) and a soft prompt of {tuning.prompt_length} make "
            f"{needed} tokens, more than the model's context length, max_length = {model.max_length}; lower shots, "
            "max_shot_tokens, length, or the task's max_source_tokens and max_target_tokens"
        )


def check_generation(
    decoding: DecodingConfig, sequence_format: SequenceFormat, model: ModelConfig, tuning: TuningMethod
) -> None:
    """Raise ConfigError if the longest prompt and decoding.max_new_tokens exceed the context, or beams the vocabulary.

    Without max_new_tokens as many tokens are generated as the longest target has, which check_sequences covers.
    """
    check_beams(decoding, model)
    prompt = sequence_format.length - sequence_format.max_target_tokens + tuning.prompt_length
    needed = prompt + (decoding.max_new_tokens or 0)
    if needed > model.max_length:
        raise ConfigError(
            f"decoding.max_new_tokens = {decoding.max_new_tokens} after prompts of up to {prompt} tokens make {needed} "
            f"tokens, more than the model's context length, max_length = {model.max_length}. Fix: lower max_new_tokens"
        )
