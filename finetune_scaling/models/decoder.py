"""The decoder: an embedding table, scanned blocks and a head."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from finetune_scaling.models.adapters import LayerAdapter
from finetune_scaling.models.attention import Attention
from finetune_scaling.models.attention_masks import attention_masks, local_flags
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.models.layers import FeedForward, Norm
from finetune_scaling.models.soft_cap import soft_cap
from finetune_scaling.models.token_layout import TokenLayout
from finetune_scaling.sharding.axes import DEFAULT_RULES, AxisRules, constrain

Array = jax.Array


class Block(nn.Module):
    """x + attention(norm x) + feed_forward(norm x), or one after the other in a sequential block.

    Norms can also, or only, follow attention and feed-forward layer.
    """

    config: ModelConfig
    adapter: LayerAdapter | None = None
    axes: AxisRules = DEFAULT_RULES

    @nn.compact
    def __call__(
        self, x, cache, masks, slot, is_local
    ):  # x [B, L, D]; cache and is_local: one layer's; masks and slot: shared
        attention = Attention(self.config, self.adapter, self.axes, name="attention")
        feed_forward = FeedForward(self.config, self.adapter, self.axes, name="feed_forward")
        x = checkpoint_name(constrain(x, self.axes, "batch", "length", None), _BLOCK_INPUT)
        normed = self._norm("norm", x)
        mixed, cache = attention(normed, masks.select(is_local), cache, slot)
        mixed = self._norm("attention_out_norm", mixed)
        after = x + mixed
        if self.config.block == "sequential":
            normed = self._norm("feed_forward_norm", after)
        elif not self.config.shared_norm:
            normed = self._norm("feed_forward_norm", x)
        return after + self._norm("feed_forward_out_norm", feed_forward(normed)), cache

    def _norm(self, name, x):
        return Norm(self.config, name=name)(x) if name in self.config.layer_norms else x


_BLOCK_INPUT = "block input"
_REMAT_POLICIES = {
    "full": None,
    "dots": jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims,
    "offload": jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=[_BLOCK_INPUT],
        offload_src="device",
        offload_dst="pinned_host",
    ),
}


class Decoder(nn.Module):
    """Embeddings to hidden states; embedding and head are separate methods, so that soft prompts can be added."""

    config: ModelConfig
    adapter: LayerAdapter | None = None
    axes: AxisRules = DEFAULT_RULES

    def setup(self) -> None:
        config = self.config
        self.embedding = self.param(
            "embedding", nn.initializers.normal(config.embedding_std), (config.vocab_size, config.model_dim)
        )
        self.layers = _scanned_block(config)(config, self.adapter, self.axes)
        self.final_norm = Norm(config)
        if not config.tied_head:
            self.head = self.param(
                "head", nn.initializers.normal(config.model_dim**-0.5), (config.model_dim, config.vocab_size)
            )

    def embed(self, tokens: Array) -> Array:
        """Return token embeddings in the compute dtype, [B, L] -> [B, L, D]."""
        # Each device looks up its own columns of the table for all rows that share them, then rows are exchanged:
        # neither the table nor its gradient is all-gathered.
        shared = dataclasses.replace(self.axes, batch=tuple(a for a in self.axes.batch if a not in self.axes.embed))
        embeddings = jnp.take(self.embedding, constrain(tokens, shared, "batch", "length"), axis=0)
        columns = constrain(embeddings, shared, "batch", "length", "embed").astype(self.config.compute_dtype)
        if self.config.embedding_scale is not None:
            columns = columns * jnp.asarray(self.config.embedding_scale, columns.dtype)
        return constrain(columns, self.axes, "batch", "length", None)

    def __call__(self, embeddings: Array, layout: TokenLayout) -> Array:
        """Return hidden states after the final norm, [B, L, D] -> [B, L, D]."""
        local = local_flags(self.config)
        hidden, _ = self.layers(
            embeddings,
            None,
            attention_masks(self.config, layout, materialize=self.is_initializing()),
            None,
            None if local is None else jnp.array(local),
        )
        return self.final_norm(hidden)

    def head_parts(self, hidden: Array) -> tuple[Array, Array]:
        """Return scaled states [..., D] and the head's table [V, D], whose product is the logits before a soft cap."""
        config = self.config
        if config.scale_logits:
            hidden = hidden * config.model_dim**-0.5
        return hidden, self.embedding if config.tied_head else self.head.T

    def unembed(self, hidden: Array) -> Array:
        """Return float32 logits, [..., D] -> [..., V]."""
        states, table = self.head_parts(hidden)
        logits = jnp.matmul(states, table.T.astype(states.dtype), preferred_element_type=jnp.float32)
        return soft_cap(logits, self.config.logit_softcap)


def _scanned_block(config: ModelConfig) -> type[nn.Module]:
    block: type[nn.Module] = Block
    if config.remat != "none":
        block = nn.remat(Block, policy=_REMAT_POLICIES[config.remat], prevent_cse=False)
    return nn.scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=(0, nn.broadcast, nn.broadcast, 0),
        length=config.layers,
    )
