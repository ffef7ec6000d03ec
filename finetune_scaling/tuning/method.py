"""The declaration of a tuning method, which training, checkpoints, decoding, planning and FLOP counts read."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from finetune_scaling import configuration
from finetune_scaling.models.adapters import LayerAdapter
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.models.language_model import LanguageModel, Params
from finetune_scaling.models.token_layout import SOFT_PROMPT, TokenLayout
from finetune_scaling.trees import merge

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Defaults:
    """Hyperparameters that a method trains well with; any config overrides them."""

    learning_rate: float
    batch_size: int


@dataclasses.dataclass(frozen=True)
class ShortRuns:
    """Hyperparameters of runs of hundreds of steps on small base models (runs/config_template.py).

    learning_rate: None is the method's default. parameter_scale: of Adafactor; off for methods that initialize
    parameters with zeros, which it would hardly change in so few steps.
    """

    learning_rate: float | None = None
    parameter_scale: bool = True


@dataclasses.dataclass(frozen=True)
class TuningMethod:
    """A tuning method with its options filled in. Hashable: it keys caches of compiled functions.

    trainable:     regular expression; parameters whose whole name matches train, all others are frozen
    size:          the PET size of scaling laws (prompt length, rank, width); None if the method has none
    adapter:       computation that the method adds to the model's layers (models/adapters.py)
    new_params:    (rng, model config, parameters, token ids) -> parameters to add or replace
    initial_text:  a text whose token ids `new_params` receives; None: the most frequent token ids
    frequent_tokens: number of the most frequent token ids that `new_params` receives without an initial_text
    soft_prompt:   parameters -> embeddings [P, D] that precede every text
    prompt_length: P, which positions and cache sizes need before there are parameters
    prompt_attends_to_input: whether the soft prompt attends to the input of a prefix LM
    derived:       (model config, parameters) -> parameters computed from trained ones and not stored
    learning_rate_multipliers: (regular expression, factor) pairs; the first that matches a whole name applies
    step_flops:    model config -> FLOPs per training step that do not depend on the batch
    """

    name: str
    trainable: str
    size: int | None = None
    adapter: LayerAdapter | None = None
    new_params: Callable[[Array, ModelConfig, Params, Array], Params] | None = None
    initial_text: str | None = None
    frequent_tokens: int = 0
    soft_prompt: Callable[[Params], Array] | None = None
    prompt_length: int = 0
    prompt_attends_to_input: bool = False
    derived: Callable[[ModelConfig, Params], Params] | None = None
    learning_rate_multipliers: tuple[tuple[str, float], ...] = ()
    step_flops: Callable[[ModelConfig], float] | None = None

    @property
    def trains_all(self) -> bool:
        """Whether every parameter of the model trains."""
        return self.trainable == ".*"

    @property
    def mergeable(self) -> bool:
        """Whether a plain model computes the same as the tuned one."""
        return self.soft_prompt is None and (self.adapter is None or self.adapter.mergeable)

    @property
    def uses_dropout(self) -> bool:
        """Whether the training step needs a dropout key."""
        return self.adapter is not None and self.adapter.uses_dropout

    def embed(self, model: LanguageModel, params: Params, tokens: Array, layout: TokenLayout) -> tuple[Array, Any]:
        """Return token embeddings behind the soft prompt, [B, L] -> [B, P + L, D], and their layout."""
        embeddings = model.embed(params, tokens)
        if self.soft_prompt is None:
            return embeddings, layout
        return prepend(self.soft_prompt(params), embeddings, layout, self.prompt_attends_to_input)

    def model_params(self, config: ModelConfig, params: Params) -> Params:
        """Return the parameters that the model reads, with those that the method derives from trained ones."""
        return params if self.derived is None else merge(params, self.derived(config, params))


def prepend(
    prompt: Array, embeddings: Array, layout: TokenLayout, attends_to_input: bool = False
) -> tuple[Array, TokenLayout]:
    """Put a soft prompt [P, D] before each row of [B, L, D] and shift the rows' positions by P.

    Rows may be packed: the positions of every segment follow the one prompt, which all segments attend to.
    attends_to_input: the prompt belongs to the input of a row that has one (prefix LM), unless several texts share it.
    """
    batch, length = embeddings.shape[0], prompt.shape[0]
    if layout.prefix is None:
        layout = layout._replace(prefix=jnp.zeros(layout.segments.shape, bool))
    assert layout.prefix is not None
    rows = jnp.broadcast_to(prompt.astype(embeddings.dtype), (batch, *prompt.shape))
    has_one_input = layout.prefix.any(axis=1, keepdims=True) & (layout.segments.max(axis=1, keepdims=True) == 1)
    front = TokenLayout(
        positions=jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (batch, length)),
        segments=jnp.full((batch, length), SOFT_PROMPT, jnp.int32),
        prefix=jnp.broadcast_to(has_one_input & attends_to_input, (batch, length)),
    )
    shifted = layout._replace(positions=layout.positions + length)
    joined = jax.tree.map(lambda *pair: jnp.concatenate(pair, axis=1), front, shifted)
    return jnp.concatenate([rows, embeddings], axis=1), joined


@dataclasses.dataclass(frozen=True)
class MethodSpec:
    """A tuning method as the registry declares it and configs name it.

    options:      a frozen dataclass, the fields of a config's `method` block
    build:        options -> TuningMethod
    size_field:   the option that is the PET size, which studies of the factor `pet` vary
    display_name: the name in reports
    """

    name: str
    options: type
    build: Callable[[Any], TuningMethod]
    defaults: Defaults
    size_field: str | None = None
    display_name: str | None = None
    short_runs: ShortRuns = ShortRuns()


def configure(methods: Mapping[str, MethodSpec], block: Mapping[str, Any]) -> TuningMethod:
    """Return the TuningMethod of a config's `method` block; ConfigError for an unknown method or option."""
    fields = dict(configuration.plain(block))
    method = configuration.choose(methods, fields.pop("name", ""), "method.name")
    return method.build(configuration.build(method.options, fields, "method"))
