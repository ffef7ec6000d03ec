"""The model's interface for the rest of the code: pure functions of a plain tree of parameters."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from finetune_scaling.models.adapters import LayerAdapter
from finetune_scaling.models.attention import CacheSlot, LayerCache
from finetune_scaling.models.attention_choice import check_attention, resolve_attention
from finetune_scaling.models.attention_masks import AttentionMasks, attention_masks, cached_attention_masks, local_flags
from finetune_scaling.models.cache import Cache, apply_layers
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.models.decoder import Block, Decoder
from finetune_scaling.models.layers import Norm
from finetune_scaling.models.token_layout import TokenLayout
from finetune_scaling.sharding.axes import DEFAULT_RULES, AxisRules, platform_in_context

Array = jax.Array
Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """A decoder with an optional adapter in its layers. Hashable: it keys caches of compiled functions.

    axes: how its arrays are sharded over the mesh in context, if any.
    """

    config: ModelConfig
    adapter: LayerAdapter | None = None
    axes: AxisRules = DEFAULT_RULES

    def init(self, rng: Array) -> Params:
        """Return all parameters in float32, adapter leaves included; layers are stacked on a leading axis."""
        layout = TokenLayout(*(jnp.ones((1, 1), dtype) for dtype in (jnp.int32, jnp.int32, bool)))
        embeddings = jnp.zeros((1, 1, self.config.model_dim), self.config.compute_dtype)
        return self._decoder.init(rng, embeddings, layout)["params"]

    def embed(self, params: Params, tokens: Array) -> Array:
        """Return token embeddings, [B, L] -> [B, L, D]."""
        return self._apply(params, tokens, method="embed")

    def forward(
        self,
        params: Params,
        embeddings: Array,
        layout: TokenLayout,
        cache: Cache | None = None,
        dropout_rng: Array | None = None,
    ) -> tuple[Array, Cache | None]:
        """Return hidden states after the final norm, [B, L, D] -> [B, L, D], and the cache.

        cache: an empty one, which is returned with these tokens in its first L slots. dropout_rng: a key in training
        with an adapter that uses dropout. Raises ConfigError if the attention is not for the platform in context.
        """
        model = self._resolved(layout.positions.shape[1])
        if cache is None:
            rngs = None if dropout_rng is None else {"dropout": dropout_rng}
            return model._apply(params, embeddings, layout, rngs=rngs), None
        return model._through(params, embeddings, attention_masks(model.config, layout), cache, 0)

    def extend(
        self,
        params: Params,
        embeddings: Array,
        positions: Array,
        visible: Array,
        cache: Cache,
        end: Array,
        visible_locally: Array | None = None,
    ) -> tuple[Array, Cache]:
        """Return hidden states of L tokens that follow those in a cache, [B, L, D] -> [B, L, D], and the new cache.

        positions: int32 [B, L]. visible: bool [B, L, S], the slots that each token attends to, its own included.
        visible_locally: the same within the window (`token_layout.in_window`), if the model has one. end: int32 scalar,
        the first free slot, where the new tokens are written.
        """
        return self._through(
            params, embeddings, cached_attention_masks(self.config, positions, visible, visible_locally), cache, end
        )

    def unembed(self, params: Params, hidden: Array) -> Array:
        """Return float32 logits, [..., D] -> [..., V]."""
        return self._apply(params, hidden, method="unembed")

    def head(self, params: Params, hidden: Array) -> tuple[Array, Array]:
        """Return states [..., D] and a table [V, D] such that states @ table.T are the logits before a soft cap."""
        return self._apply(params, hidden, method="head_parts")

    def _resolved(self, length: int) -> "LanguageModel":
        """Return this model with the attention of rows of `length` tokens on the platform in context."""
        platform = platform_in_context()
        config = resolve_attention(self.config, platform, length)
        check_attention(config, platform)
        return dataclasses.replace(self, config=config)

    def _through(
        self, params: Params, embeddings: Array, masks: AttentionMasks, cache: Cache, end: Array | int
    ) -> tuple[Array, Cache]:
        block = Block(self.config, self.adapter, self.axes)

        def layer(weights: Params, x: Array, part: LayerCache, slot: CacheSlot, local: Array | bool | None) -> Any:
            return block.apply({"params": weights}, x, part, masks, slot, local)

        hidden, cache = apply_layers(layer, params["layers"], embeddings, cache, end, local_flags(self.config))
        normed: Any = Norm(self.config).apply({"params": params["final_norm"]}, hidden)
        return normed, cache

    def _apply(self, params: Params, *inputs: Any, method: str | None = None, rngs: Any = None) -> Any:
        return self._decoder.apply({"params": params}, *inputs, method=method, rngs=rngs)

    @property
    def _decoder(self) -> Decoder:
        return Decoder(self.config, self.adapter, self.axes)
