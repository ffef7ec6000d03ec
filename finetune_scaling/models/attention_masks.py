"""Masks and rotary angles, computed once per forward pass for all layers or for each of their two kinds.

Local layers attend within a sliding window and may have their own rotary angles; global layers attend to everything.
Since layers are scanned, each layer's kind is a scanned input.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from finetune_scaling.models.config import ModelConfig
from finetune_scaling.models.rope import rotary_angles
from finetune_scaling.models.token_layout import TokenLayout, attention_mask

Array = jax.Array


class AttentionMask(NamedTuple):
    """Mask and rotary angles of one kind of layer.

    angles: rotary cosines and sines, [B, L, 1, rotary_dim / 2] each; None without rotary positions.
    visible: bool [B, L, S], or the layout [B, L] if attention computes its mask block by block.
    window: int32 scalar next to a layout; None if no layer has a window.
    """

    angles: tuple[Array, Array] | None
    visible: Array | TokenLayout
    window: Array | None = None


class AttentionMasks(NamedTuple):
    """Masks and rotary angles of one forward pass: `local` for sliding-window layers, `global_` for the others.

    None for a kind that the model does not have.
    """

    local: AttentionMask | None
    global_: AttentionMask | None

    def select(self, is_local: Array | bool | None) -> AttentionMask:
        """Return the mask of one layer. is_local: a bool, a traced bool, or None if all layers are of one kind."""
        if self.local is None or self.global_ is None:
            only = self.local or self.global_
            assert only is not None
            return only
        if isinstance(is_local, bool):
            return self.local if is_local else self.global_
        assert is_local is not None
        return jax.tree.map(lambda local, global_: jnp.where(is_local, local, global_), self.local, self.global_)


def attention_masks(config: ModelConfig, layout: TokenLayout, materialize: bool = False) -> AttentionMasks:
    """Return the masks of self-attention within a layout; materialize: as arrays for every attention kernel."""
    by_blocks = config.attention in ("blockwise", "flash") and not materialize

    def mask(is_local: bool) -> AttentionMask:
        angles = _angles(config, layout.positions, is_local)
        window = config.window if is_local else None
        if not by_blocks:
            return AttentionMask(angles, attention_mask(layout, layout, window))
        return AttentionMask(angles, layout, _window(config, window))

    return _per_kind(config, mask)


def cached_attention_masks(
    config: ModelConfig, positions: Array, visible: Array, visible_locally: Array | None
) -> AttentionMasks:
    """Return the masks of attention to a KV cache.

    positions: int32 [B, L] of the queries. visible, visible_locally: bool [B, L, S], the slots that each query attends
    to in global and in local layers.
    """

    def mask(is_local: bool) -> AttentionMask:
        slots = visible_locally if is_local else visible
        assert slots is not None, "a model with windows needs visible_locally"
        return AttentionMask(_angles(config, positions, is_local), slots)

    return _per_kind(config, mask)


def local_flags(config: ModelConfig) -> tuple[bool, ...] | None:
    """Return for each layer whether it is local; None if all layers are of one kind."""
    return config.local_layers if len(set(config.local_layers)) > 1 else None


def _per_kind(config: ModelConfig, mask: Callable[[bool], AttentionMask]) -> AttentionMasks:
    local = config.local_layers
    return AttentionMasks(local=mask(True) if any(local) else None, global_=mask(False) if not all(local) else None)


def _window(config: ModelConfig, window: int | None) -> Array | None:
    """Return a window for every layer of a model with local layers: global layers get an unbounded one."""
    if config.window is None:
        return None
    return jnp.int32(jnp.iinfo(jnp.int32).max if window is None else window)


def _angles(config: ModelConfig, positions: Array, is_local: bool) -> tuple[Array, Array] | None:
    if config.positions != "rope":
        return None
    if is_local and config.local_rope_theta is not None:
        return rotary_angles(positions, config.rotary_dim, config.local_rope_theta)
    return rotary_angles(positions, config.rotary_dim, config.rope_theta, config.rope_scaling)
