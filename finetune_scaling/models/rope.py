"""Rotary positions (RoPE; Su et al., 2021) of all or some dimensions of a head, and their scaling to long contexts."""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

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
        """Factor of queries and keys."""
        return 1.0

    def scale(self, frequencies: np.ndarray, theta: float) -> np.ndarray:
        """Return scaled frequencies [half] of the pairs, from those of `theta`."""
        return frequencies / self.factor


@dataclasses.dataclass(frozen=True)
class Llama3Scaling:
    """Low frequencies divided by `factor`, high ones unchanged, a ramp between (Llama 3.1; Grattafiori et al., 2024).

    A pair has a low frequency if it makes fewer than low_frequency turns in `original_length` positions, and a high one
    from high_frequency turns on.
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

    def scale(self, frequencies: np.ndarray, theta: float) -> np.ndarray:
        turns = self.original_length * frequencies / (2 * math.pi)
        kept = np.clip((turns - self.low_frequency) / (self.high_frequency - self.low_frequency), 0.0, 1.0)
        return (1 - kept) * frequencies / self.factor + kept * frequencies


@dataclasses.dataclass(frozen=True)
class YarnScaling:
    """YaRN (Peng et al., 2023): a ramp that is linear in the pair's index, and scaled queries and keys.

    fast_turns, slow_turns: turns in `original_length` positions at which the ramp begins and ends; whole_pairs rounds
    its ends to pairs (Hugging Face: truncate). magnitude: factor of queries and keys, 0.1 ln(factor) + 1 in the paper.
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

    def scale(self, frequencies: np.ndarray, theta: float) -> np.ndarray:
        pairs = frequencies.shape[0]
        first, last = (self._pair(turns, 2 * pairs, theta) for turns in (self.fast_turns, self.slow_turns))
        if self.whole_pairs:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, 2 * pairs - 1)
        width = last - first if last != first else 0.001  # a step, if the ramp has no width
        interpolated = np.clip((np.arange(pairs, dtype=np.float32) - first) / width, 0.0, 1.0)
        return interpolated * frequencies / self.factor + (1 - interpolated) * frequencies

    def _pair(self, turns: float, dim: int, theta: float) -> float:
        """Return the fractional index of the pair with this number of turns."""
        return dim * math.log(self.original_length / (turns * 2 * math.pi)) / (2 * math.log(theta))


RopeScaling = LinearScaling | Llama3Scaling | YarnScaling


def rotary_angles(positions: Array, dim: int, theta: float, scaling: RopeScaling | None = None) -> tuple[Array, Array]:
    """Return cosines and sines [B, L, 1, dim / 2] for positions [B, L] and `dim` dimensions of a head."""
    frequencies = _frequencies(dim, theta)
    if scaling is not None:
        frequencies = scaling.scale(frequencies, theta).astype(np.float32)
    angles = positions[..., None, None].astype(jnp.float32) * frequencies
    cosine, sine = jnp.cos(angles), jnp.sin(angles)
    if scaling is None or scaling.magnitude == 1:
        return cosine, sine
    return cosine * scaling.magnitude, sine * scaling.magnitude


def _frequencies(dim: int, theta: float) -> np.ndarray:
    """Return radians per position of each pair, float32 [dim / 2], rounded as Hugging Face's models round them.

    NumPy computes them: powers on accelerators are off by several units in the last place, which at large positions
    changes queries and keys visibly.
    """
    exponents = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    return np.float32(1) / (theta ** exponents.astype(np.float64)).astype(np.float32)


def rotate(x: Array, angles: tuple[Array, Array]) -> Array:
    """Rotate the pairs (x_i, x_{i + dim/2}) of the first `dim` dimensions of x [B, L, heads, head_dim], as Llama."""
    cosine, sine = angles
    dim = 2 * cosine.shape[-1]
    first, second = jnp.split(x[..., :dim].astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1).astype(x.dtype)
    return rotated if dim == x.shape[-1] else jnp.concatenate([rotated, x[..., dim:]], axis=-1)


def _check_positive(scaling: RopeScaling, *names: str) -> None:
    for name in names:
        if not 0 < getattr(scaling, name) < math.inf:
            raise ConfigError(f"model.rope_scaling.{name} = {getattr(scaling, name)} must be a finite number above 0")
