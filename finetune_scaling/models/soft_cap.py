"""Soft caps of attention scores and logits (Gemma Team, 2024)."""

import jax
import jax.numpy as jnp

Array = jax.Array


def soft_cap(values: Array, cap: float | None) -> Array:
    """Return cap tanh(values / cap), or the values if cap is None."""
    return values if cap is None else cap * jnp.tanh(values / cap)


def soft_cap_slope(capped: Array, cap: float | None) -> Array | float:
    """Return the derivative of `soft_cap`, from its result."""
    return 1.0 if cap is None else 1 - jnp.square(capped / cap)
