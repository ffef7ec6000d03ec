"""Soft caps of attention scores and logits (Gemma Team, 2024)."""

import jax
import jax.numpy as jnp

Array = jax.Array


def soft_cap(values: Array, cap: float | None) -> Array:
    """cap tanh(values / cap), within (-cap, cap); None caps nothing."""
    return values if cap is None else cap * jnp.tanh(values / cap)


def soft_cap_slope(capped: Array, cap: float | None) -> Array | float:
    """The derivative of `soft_cap`, from its result."""
    return 1.0 if cap is None else 1 - jnp.square(capped / cap)
