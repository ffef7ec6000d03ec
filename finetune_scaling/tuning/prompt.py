"""Prompt tuning (Lester et al., 2021): trained embeddings before every text, the model itself frozen."""

import dataclasses

import jax
import jax.numpy as jnp

from finetune_scaling.errors import ConfigError
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.models.language_model import Params
from finetune_scaling.tuning.method import Defaults, MethodSpec, TuningMethod

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class PromptOptions:
    """length in virtual tokens; each starts as the embedding of one of the `frequent` commonest vocabulary items."""

    length: int = 100
    frequent: int = 5000

    def __post_init__(self) -> None:
        if self.length < 0:
            raise ConfigError(f"method.length = {self.length} must not be negative")
        if self.frequent < 1:
            raise ConfigError(f"method.frequent = {self.frequent} must be at least 1")


@dataclasses.dataclass(frozen=True)
class SampledVocabulary:
    """Draws the prompt from the embeddings of the commonest tokens.

    Without replacement while the vocabulary lasts, so that no two virtual tokens start equal.
    """

    length: int
    frequent: int

    def __call__(self, rng: Array, config: ModelConfig, base: Params, common_tokens: Array) -> Params:
        candidates = jnp.asarray(common_tokens)[: self.frequent]
        tokens = jax.random.choice(rng, candidates, (self.length,), replace=self.length > len(candidates))
        rows = jnp.asarray(base["embedding"][tokens], jnp.float32)
        # As the layers read them: a soft prompt comes behind the scaling of embeddings.
        return {"prompt": {"embedding": rows if config.embedding_scale is None else rows * config.embedding_scale}}


def _prompt(params: Params) -> Array:
    return params["prompt"]["embedding"]


def build(options: PromptOptions) -> TuningMethod:
    return TuningMethod(
        name="prompt",
        trainable="prompt/embedding",
        size=options.length,
        new_params=SampledVocabulary(options.length, options.frequent),
        prefix=_prompt,
        prefix_length=options.length,
    )


SPEC = MethodSpec("prompt", PromptOptions, build, Defaults(learning_rate=0.3, batch_size=16), size_field="length")
