"""Largest logits without sorting a vocabulary, which is slow on every platform."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Array = jax.Array

_BLOCK = 64  # logits per block, of which only the maximum is compared


def argmax(logits: Array) -> Array:
    """Return the index of the largest of [..., V], the lowest among equals; int32 [...]."""
    # Two vectorized passes: jnp.argmax, which reduces pairs, is not vectorized on CPUs.
    indices = jnp.arange(logits.shape[-1], dtype=jnp.int32)
    is_largest = logits == logits.max(axis=-1, keepdims=True)
    return jnp.where(is_largest, indices, logits.shape[-1]).min(axis=-1)


def top_k(logits: Array, count: int) -> tuple[Array, Array]:
    """Return the `count` largest of [..., V], largest first, and their indices: [..., count] and int32 [..., count].

    They are in the `count` blocks with the largest maxima, so that only these are searched.
    """
    size = logits.shape[-1]
    blocks = -(-size // _BLOCK)
    if blocks <= 2 * count:
        return jax.lax.top_k(logits, count)
    padding = [(0, 0)] * (logits.ndim - 1) + [(0, blocks * _BLOCK - size)]
    blocked = jnp.pad(logits, padding, constant_values=-jnp.inf).reshape(*logits.shape[:-1], blocks, _BLOCK)
    # In order of their indices, so that the lowest index still comes first among equals.
    chosen = jnp.sort(jax.lax.top_k(blocked.max(axis=-1), count)[1], axis=-1)
    indices = (chosen[..., None] * _BLOCK + jnp.arange(_BLOCK, dtype=jnp.int32)).reshape(*logits.shape[:-1], -1)
    candidates = jnp.take_along_axis(blocked, chosen[..., None], axis=-2).reshape(indices.shape)
    values, positions = jax.lax.top_k(candidates, count)
    return values, jnp.take_along_axis(indices, positions, axis=-1)


def threshold(values: Array, reached: Callable[[Array], Array]) -> Array:
    """Return the largest float32 t with reached(values >= t), [..., V] -> [...], by bisection over all floats.

    reached: bool [..., V] -> bool [...], monotone in the set. No value is NaN; t is -inf if it never holds.
    """
    ordered = _ordered(values)

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds  # holds at low, not at high
        middle = (low >> 1) + (high >> 1) + (low & high & 1)
        holds = reached(ordered >= middle[..., None])
        return jnp.where(holds, middle, low), jnp.where(holds, high, middle)

    shape = values.shape[:-1]
    bounds = jnp.full(shape, _ordered(jnp.float32(-jnp.inf))), jnp.full(shape, jnp.iinfo(jnp.int32).max)
    return _unordered(jax.lax.fori_loop(0, 32, halve, bounds)[0])


def _ordered(values: Array) -> Array:
    """Return int32 values in the order of the floats."""
    bits = jax.lax.bitcast_convert_type(values.astype(jnp.float32) + 0.0, jnp.int32)  # + 0.0 makes -0.0 a 0.0
    return jnp.where(bits < 0, bits ^ jnp.int32(0x7FFFFFFF), bits)


def _unordered(integers: Array) -> Array:
    bits = jnp.where(integers < 0, integers ^ jnp.int32(0x7FFFFFFF), integers)
    return jax.lax.bitcast_convert_type(bits, jnp.float32)
