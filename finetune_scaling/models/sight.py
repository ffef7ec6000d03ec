"""What layers need to know of where tokens stand, computed once for all of them, or for each of their two kinds.

Local layers attend to a window and may have rotary angles of their own; the others see all. Layers are scanned, so
which kind each is goes along the scan as data.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from finetune_scaling.models.config import ModelConfig
from finetune_scaling.models.layout import Layout, visible
from finetune_scaling.models.rope import rotary_angles

Array = jax.Array


class Sight(NamedTuple):
    """Of one kind of layers.

    angles: rotary cosines and sines, [B, L, 1, rotary_dim / 2] each, where there are any. seen: who sees whom, bool
    [B, L, S], or the layout [B, L] for the forms of attention that compute masks block by block. window: int32 scalar
    beside a layout, where there is one.
    """

    angles: tuple[Array, Array] | None
    seen: Array | Layout
    window: Array | None = None


class Sights(NamedTuple):
    """Of all layers: `near` of local ones, `far` of the others; None where a model has none of a kind."""

    near: Sight | None
    far: Sight | None

    def of(self, local: Array | bool | None) -> Sight:
        """That of a layer: whether it is local, a value or traced; None where all layers are of one kind."""
        if self.near is None or self.far is None:
            one = self.near or self.far
            assert one is not None
            return one
        if isinstance(local, bool):
            return self.near if local else self.far
        assert local is not None
        return jax.tree.map(lambda near, far: jnp.where(local, near, far), self.near, self.far)


def sights(config: ModelConfig, layout: Layout, plain: bool = False) -> Sights:
    """Of attention among the tokens of a layout; plain: by masks, whatever the form of attention."""
    by_blocks = config.attention in ("blockwise", "flash") and not plain

    def sight(local: bool) -> Sight:
        angles = _angles(config, layout.positions, local)
        window = config.window if local else None
        if not by_blocks:
            return Sight(angles, visible(layout, layout, window))
        return Sight(angles, layout, _window(config, window))

    return _of_kinds(config, sight)


def cached_sights(config: ModelConfig, positions: Array, seen: Array, seen_near: Array | None) -> Sights:
    """Of attention to a cache: positions [B, L] of the queries, and which slots each sees, bool [B, L, S], in all
    layers and in local ones.
    """

    def sight(local: bool) -> Sight:
        mask = seen_near if local else seen
        assert mask is not None, "a model with windows needs seen_near"
        return Sight(_angles(config, positions, local), mask)

    return _of_kinds(config, sight)


def kinds(config: ModelConfig) -> tuple[bool, ...] | None:
    """Of each layer, whether it is local; None where they are all of one kind."""
    return config.local_layers if len(set(config.local_layers)) > 1 else None


def _of_kinds(config: ModelConfig, sight: Callable[[bool], Sight]) -> Sights:
    local = config.local_layers
    return Sights(near=sight(True) if any(local) else None, far=sight(False) if not all(local) else None)


def _window(config: ModelConfig, window: int | None) -> Array | None:
    """A layer that is not local has a window too beside those that are: all there is."""
    if config.window is None:
        return None
    return jnp.int32(jnp.iinfo(jnp.int32).max if window is None else window)


def _angles(config: ModelConfig, positions: Array, local: bool) -> tuple[Array, Array] | None:
    if config.positions != "rope":
        return None
    if local and config.local_rope_theta is not None:
        return rotary_angles(positions, config.rotary_dim, config.local_rope_theta)
    return rotary_angles(positions, config.rotary_dim, config.rope_theta, config.rope_scaling)
