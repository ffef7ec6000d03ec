"""Rotary positions (Su et al., 2021), of a part of a head or all of it, and their stretching to longer texts."""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp

from finetune_scaling.errors import ConfigError

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class LinearScaling:
    """Positions divided by `factor` (Chen et al., 2023)."""

    factor: float
    kind: Literal["linear"] = "linear"

    def __post_init__(self) -> None:
        _check_positive(self, "factor")

    @property
    def magnitude(self) -> float:
        """What queries and keys are multiplied by."""
        return 1.0

    def stretch(self, frequencies: Array, theta: float) -> Array:
        """New frequencies [half] of the pairs, from those of `theta`."""
        return frequencies / self.factor


@dataclasses.dataclass(frozen=True)
class Llama3Scaling:
    """Slow pairs divided by `factor`, fast ones kept, and a ramp between (Llama 3.1; Grattafiori et al., 2024).

    A pair is slow that turns fewer than low_frequency times in `original_length` positions, and fast from
    high_frequency turns on.
    """

    factor: float
    original_length: int
    low_frequency: float = 1.0
    high_frequency: float = 4.0
    kind: Literal["llama3"] = "llama3"

    def __post_init__(self) -> None:
        _check_positive(self, "factor", "original_length", "low_frequency")
        if not self.low_frequency < self.high_frequency < math.inf:
            raise ConfigError(
                f"model.rope_scaling.high_frequency = {self.high_frequency} must be above low_frequency = "
                f"{self.low_frequency}"
            )

    @property
    def magnitude(self) -> float:
        return 1.0

    def stretch(self, frequencies: Array, theta: float) -> Array:
        turns = self.original_length * frequencies / (2 * math.pi)
        kept = jnp.clip((turns - self.low_frequency) / (self.high_frequency - self.low_frequency), 0.0, 1.0)
        return (1 - kept) * frequencies / self.factor + kept * frequencies


@dataclasses.dataclass(frozen=True)
class YarnScaling:
    """YaRN (Peng et al., 2023): as Llama 3's, with the ramp linear in the pair's number, and longer queries and keys.

    fast_turns, slow_turns: turns in `original_length` positions at which the ramp begins and ends; its ends are whole
    pairs where whole_pairs is set. magnitude: of queries and keys; 0.1 ln(factor) + 1 is the paper's.
    """

    factor: float
    original_length: int
    magnitude: float
    fast_turns: float = 32.0
    slow_turns: float = 1.0
    whole_pairs: bool = True
    kind: Literal["yarn"] = "yarn"

    def __post_init__(self) -> None:
        _check_positive(self, "factor", "original_length", "magnitude", "slow_turns")
        if not self.slow_turns < self.fast_turns < math.inf:
            raise ConfigError(
                f"model.rope_scaling.fast_turns = {self.fast_turns} must be above slow_turns = {self.slow_turns}"
            )

    def stretch(self, frequencies: Array, theta: float) -> Array:
        pairs = frequencies.shape[0]
        first, last = (self._pair(turns, 2 * pairs, theta) for turns in (self.fast_turns, self.slow_turns))
        if self.whole_pairs:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, 2 * pairs - 1)
        width = last - first if last != first else 0.001  # a step, where the ramp has no width
        stretched = jnp.clip((jnp.arange(pairs, dtype=jnp.float32) - first) / width, 0.0, 1.0)
        return stretched * frequencies / self.factor + (1 - stretched) * frequencies

    def _pair(self, turns: float, dim: int, theta: float) -> float:
        """The number of the pair that turns so often, a fraction."""
        return dim * math.log(self.original_length / (turns * 2 * math.pi)) / (2 * math.log(theta))


RopeScaling = LinearScaling | Llama3Scaling | YarnScaling


def rotary_angles(positions: Array, dim: int, theta: float, scaling: RopeScaling | None = None) -> tuple[Array, Array]:
    """Cosines and sines [B, L, 1, dim / 2] for positions [B, L], of `dim` dimensions of a head."""
    half = dim // 2
    frequencies = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    if scaling is not None:
        frequencies = scaling.stretch(frequencies, theta)
    angles = positions[..., None, None].astype(jnp.float32) * frequencies
    cosine, sine = jnp.cos(angles), jnp.sin(angles)
    if scaling is None or scaling.magnitude == 1:
        return cosine, sine
    return cosine * scaling.magnitude, sine * scaling.magnitude


def rotate(x: Array, angles: tuple[Array, Array]) -> Array:
    """Turns the pairs (x_i, x_{i + dim/2}) of the first `dim` of x [B, L, heads, head_dim], the layout of Llama's
    weights; the angles are of those.
    """
    cosine, sine = angles
    dim = 2 * cosine.shape[-1]
    first, second = jnp.split(x[..., :dim].astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1).astype(x.dtype)
    return turned if dim == x.shape[-1] else jnp.concatenate([turned, x[..., dim:]], axis=-1)


def _check_positive(scaling: RopeScaling, *names: str) -> None:
    for name in names:
        if not 0 < getattr(scaling, name) < math.inf:
            raise ConfigError(f"model.rope_scaling.{name} = {getattr(scaling, name)} must be a finite number above 0")
