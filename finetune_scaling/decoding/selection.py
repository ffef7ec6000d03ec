"""The largest of many logits without sorting them: sorts of a vocabulary are slow everywhere, sums over it are not."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Array = jax.Array

_BLOCK = 64  # logits whose largest stands for them


def most_likely(logits: Array) -> Array:
    """Index of the largest of [..., V]; the lowest among equals. int32 [...]."""
    # Two passes that vectorise: argmax, which carries pairs, does not on CPUs.
    places = jnp.arange(logits.shape[-1], dtype=jnp.int32)
    is_largest = logits == logits.max(axis=-1, keepdims=True)
    return jnp.where(is_largest, places, logits.shape[-1]).min(axis=-1)


def top_k(logits: Array, count: int) -> tuple[Array, Array]:
    """The `count` largest of [..., V] and their places, the largest first: [..., count] and int32 [..., count].

    They lie in those `count` blocks whose largest logits are largest, so that only these are looked through.
    """
    size = logits.shape[-1]
    blocks = -(-size // _BLOCK)
    if blocks <= 2 * count:
        return jax.lax.top_k(logits, count)
    padding = [(0, 0)] * (logits.ndim - 1) + [(0, blocks * _BLOCK - size)]
    divided = jnp.pad(logits, padding, constant_values=-jnp.inf).reshape(*logits.shape[:-1], blocks, _BLOCK)
    # In the order of their places, so that the lowest place still comes first among equals.
    chosen = jnp.sort(jax.lax.top_k(divided.max(axis=-1), count)[1], axis=-1)
    places = (chosen[..., None] * _BLOCK + jnp.arange(_BLOCK, dtype=jnp.int32)).reshape(*logits.shape[:-1], -1)
    candidates = jnp.take_along_axis(divided, chosen[..., None], axis=-2).reshape(places.shape)
    values, among = jax.lax.top_k(candidates, count)
    return values, jnp.take_along_axis(places, among, axis=-1)


def threshold(values: Array, reached: Callable[[Array], Array]) -> Array:
    """The largest float32 t for which reached(values >= t): [..., V] -> [...], by bisection over all floats.

    reached: bool [..., V] -> bool [...], which holds for a set if it holds for a part of it. No value is NaN; where it
    never holds, t is -inf.
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
    """Integers in the order of the floats."""
    bits = jax.lax.bitcast_convert_type(values.astype(jnp.float32) + 0.0, jnp.int32)  # + 0.0 makes -0.0 a 0.0
    return jnp.where(bits < 0, bits ^ jnp.int32(0x7FFFFFFF), bits)


def _unordered(integers: Array) -> Array:
    bits = jnp.where(integers < 0, integers ^ jnp.int32(0x7FFFFFFF), integers)
    return jax.lax.bitcast_convert_type(bits, jnp.float32)
