"""What a tuning method is: a declaration that the training step, checkpoints and decoding all read."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from finetune_scaling import configuration
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.models.language_model import LanguageModel, Params
from finetune_scaling.models.layers import DenseAdapter
from finetune_scaling.models.token_layout import SOFT_PROMPT, TokenLayout

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Defaults:
    """What a method trains well with; any config overrides it. Learning rates and batches: arXiv 2402.17193, 3.1."""

    learning_rate: float
    batch_size: int


@dataclasses.dataclass(frozen=True)
class TuningMethod:
    """A method with its settings filled in. Hashable: it keys caches of compiled functions.

    trainable:  regular expression; parameters whose whole name matches train, all others are frozen
    size:       the PET size that scaling laws see (prompt length, rank); None where the method has none
    adapter:    extends the model's dense layers with parameters of its own
    new_params: (rng, the model's config, base parameters, token ids from the commonest on) -> further parameters, to
                graft on the base's
    prefix:     parameters -> soft prompt embeddings [P, D] that go before every text
    prefix_length: P, so that positions and cache sizes are known before there are parameters
    """

    name: str
    trainable: str
    size: int | None = None
    adapter: DenseAdapter | None = None
    new_params: Callable[[Array, ModelConfig, Params, Array], Params] | None = None
    prefix: Callable[[Params], Array] | None = None
    prefix_length: int = 0

    def embed(
        self, model: LanguageModel, params: Params, tokens: Array, layout: TokenLayout
    ) -> tuple[Array, TokenLayout]:
        """Token embeddings with the soft prompt in front: [B, L] -> [B, P + L, D] and where everything stands."""
        embeddings = model.embed(params, tokens)
        if self.prefix is None:
            return embeddings, layout
        return prepend(self.prefix(params), embeddings, layout)


def prepend(prompt: Array, embeddings: Array, layout: TokenLayout) -> tuple[Array, TokenLayout]:
    """Puts a soft prompt [P, D] before each row of [B, L, D] and moves the rows' positions behind it.

    Rows may be packed: every segment's positions continue from the one prompt, which all of them see.
    """
    batch, length = embeddings.shape[0], prompt.shape[0]
    rows = jnp.broadcast_to(prompt.astype(embeddings.dtype), (batch, *prompt.shape))
    front = TokenLayout(
        positions=jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (batch, length)),
        segments=jnp.full((batch, length), SOFT_PROMPT, jnp.int32),
        prefix=jnp.zeros((batch, length), bool),
    )
    moved = layout._replace(positions=layout.positions + length)
    joined = TokenLayout(*(jnp.concatenate(parts, axis=1) for parts in zip(front, moved, strict=True)))
    return jnp.concatenate([rows, embeddings], axis=1), joined


@dataclasses.dataclass(frozen=True)
class MethodSpec:
    """A tuning method as users name it in configs.

    options:    a frozen dataclass, the method's fields in a config's `method` block
    build:      options -> TuningMethod
    size_field: the option that is the PET size, varied by studies of the `pet` factor
    """

    name: str
    options: type
    build: Callable[[Any], TuningMethod]
    defaults: Defaults
    size_field: str | None = None


def configure(methods: Mapping[str, MethodSpec], block: Mapping[str, Any]) -> TuningMethod:
    """The TuningMethod that a config's `method` block describes; ConfigError for an unknown method or option."""
    fields = dict(configuration.plain(block))
    method = configuration.choose(methods, fields.pop("name", ""), "method.name")
    return method.build(configuration.build(method.options, fields, "method"))
