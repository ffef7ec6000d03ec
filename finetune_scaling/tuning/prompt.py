"""Prompt tuning (Lester et al., 2021): trained embeddings before every text of a frozen model."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from finetune_scaling.configuration import Text
from finetune_scaling.errors import ConfigError
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.models.language_model import LanguageModel, Params
from finetune_scaling.tuning.method import Defaults, MethodSpec, TuningMethod

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class PromptOptions:
    """Options of prompt tuning; length: number of virtual tokens.

    initialization: `vocabulary` starts from embeddings of tokens sampled among the `frequent` most frequent ones,
    `text` from those of `text` (repeated or cut to the length), `random` from a normal distribution of their standard
    deviation.

    attends_to_input: whether the virtual tokens attend to the input where it is bidirectional (prefix LM), as those of
    the paper do in T5's encoder. Without effect on a causal model.
    """

    length: int = 100
    frequent: int = 5000
    initialization: Literal["vocabulary", "text", "random"] = "vocabulary"
    text: Text = ""
    attends_to_input: bool = True

    def __post_init__(self) -> None:
        if self.length < 0:
            raise ConfigError(f"method.length = {self.length} must not be negative")
        if self.frequent < 1:
            raise ConfigError(f"method.frequent = {self.frequent} must be at least 1")
        if (self.initialization == "text") != bool(self.text.strip()):
            raise ConfigError(
                f"method.text = {self.text!r} does not fit method.initialization = {self.initialization!r}. Fix: give "
                "both a text and initialization = 'text', or neither"
            )


@dataclasses.dataclass(frozen=True)
class PromptInitializer:
    """Creates the soft prompt from embeddings of the model's tokens."""

    options: PromptOptions

    def __call__(self, rng: Array, config: ModelConfig, params: Params, tokens: Array) -> Params:
        length = self.options.length
        model = LanguageModel(dataclasses.replace(config, compute_dtype="float32"))
        if self.options.initialization == "random":
            table = model.embed(params, jnp.arange(config.vocab_size)[None])[0]
            return {"prompt": {"embedding": table.std() * jax.random.normal(rng, (length, config.model_dim))}}
        if self.options.initialization == "text":
            chosen = jnp.resize(jnp.asarray(tokens), (length,))
        else:
            chosen = sample_tokens(rng, tokens, self.options.frequent, length)
        # As the layers read them: a soft prompt is not scaled again.
        return {"prompt": {"embedding": model.embed(params, chosen[None])[0]}}


def sample_tokens(rng: Array, tokens: Array, frequent: int, length: int) -> Array:
    """Return `length` of the first `frequent` tokens, without replacement if there are enough."""
    candidates = jnp.asarray(tokens)[:frequent]
    return jax.random.choice(rng, candidates, (length,), replace=length > len(candidates))


def _soft_prompt(params: Params) -> Array:
    return params["prompt"]["embedding"]


def build(options: PromptOptions) -> TuningMethod:
    """Return prompt tuning with these options."""
    return TuningMethod(
        name="prompt",
        trainable="prompt/embedding",
        size=options.length,
        new_params=PromptInitializer(options),
        initial_text=options.text or None,
        frequent_tokens=options.frequent if options.initialization == "vocabulary" else 0,
        soft_prompt=_soft_prompt,
        prompt_length=options.length,
        prompt_attends_to_input=options.attends_to_input,
    )


SPEC = MethodSpec(
    "prompt",
    PromptOptions,
    build,
    Defaults(learning_rate=0.3, batch_size=16),
    size_field="length",
    display_name="prompt tuning",
)
