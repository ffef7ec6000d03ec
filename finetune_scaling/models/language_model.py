"""The face of the model that the rest of the code sees: pure functions over a plain tree of parameters."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from finetune_scaling.models.attention import LayerCache
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.models.decoder import Cache, Decoder
from finetune_scaling.models.layers import DenseAdapter
from finetune_scaling.models.layout import Layout
from finetune_scaling.sharding.axes import PLAIN_RULES, AxisRules, constrain

Array = jax.Array
Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """A decoder with an optional adapter on its dense layers. Hashable: it keys caches of compiled functions.

    axes: how its arrays are divided over the mesh in context, where there is one.
    """

    config: ModelConfig
    adapter: DenseAdapter | None = None
    axes: AxisRules = PLAIN_RULES

    def init(self, rng: Array) -> Params:
        """All parameters, float32, adapter leaves included; layers are stacked on a leading axis."""
        layout = Layout(*(jnp.ones((1, 1), dtype) for dtype in (jnp.int32, jnp.int32, bool)))
        embeddings = jnp.zeros((1, 1, self.config.model_dim), self.config.compute_dtype)
        return self._decoder.init(rng, embeddings, layout)["params"]

    def embed(self, params: Params, tokens: Array) -> Array:
        """Token embeddings: [B, L] -> [B, L, D]."""
        return self._apply(params, tokens, method="embed")

    def forward(
        self, params: Params, embeddings: Array, layout: Layout, cache: Cache | None = None
    ) -> tuple[Array, Cache | None]:
        """Hidden states after the final norm, [B, L, D] -> [B, L, D], and the extended cache where one is given."""
        return self._apply(params, embeddings, layout, cache)

    def unembed(self, params: Params, hidden: Array) -> Array:
        """Float32 logits, [..., D] -> [..., V]."""
        return self._apply(params, hidden, method="unembed")

    def head(self, params: Params, hidden: Array) -> tuple[Array, Array]:
        """States [..., D] and table [V, D] whose product, table transposed, is `unembed`'s logits."""
        return self._apply(params, hidden, method="head_parts")

    def empty_cache(self, batch: int, slots: int) -> Cache:
        """A cache for `slots` tokens a row, in the compute dtype."""
        config = self.config
        shape = (config.layers, batch, slots, config.kv_heads, config.head_dim)
        keys = jnp.zeros(shape, config.compute_dtype)
        keys = constrain(keys, self.axes, "layers", "batch", None, "kv_heads", None)
        layout = Layout(*(jnp.zeros((batch, slots), dtype) for dtype in (jnp.int32, jnp.int32, bool)))
        return Cache(LayerCache(keys, jnp.zeros_like(keys)), layout, jnp.zeros((), jnp.int32))

    def _apply(self, params: Params, *inputs: Any, method: str | None = None) -> Any:
        return self._decoder.apply({"params": params}, *inputs, method=method)

    @property
    def _decoder(self) -> Decoder:
        return Decoder(self.config, self.adapter, self.axes)
