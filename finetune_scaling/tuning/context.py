"""The check that tokens and a method's soft prompt fit a model's context."""

from finetune_scaling.errors import ConfigError
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.tuning.method import TuningMethod


def check_context(what: str, tokens: int, model: ModelConfig, tuning: TuningMethod, fix: str) -> None:
    """Raise ConfigError if `tokens` tokens and the soft prompt are more than the model's context length.

    what: what has these tokens, as the message names it; fix: how to have fewer.
    """
    prompt = tuning.prompt_length
    if tokens + prompt > model.max_length:
        soft = f" with a soft prompt of {prompt}" if prompt else ""
        raise ConfigError(
            f"{what}: {tokens + prompt} tokens{soft}, more than the model's context length, max_length = "
            f"{model.max_length}. Fix: {fix}"
        )
