"""A digest of a tree's arrays that does not depend on how they lie on devices and hosts.

Every element's bits are mixed with its place, and the mixtures are summed modulo 2^32: integer sums are exact in any
order, so each device sums what it holds. The mixing is MurmurHash3's 32-bit finalizer (Appleby, public domain), and
four sums under different constants make 128 bits a leaf. It finds damage and mix-ups, not forgeries.
"""

import contextlib
import functools
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from finetune_scaling.tuning.partition import path_name

Array = jax.Array

_UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}  # by bytes
_SMALL = 1 << 16  # elements; smaller leaves are taken together, since each loop costs compilation
_FACTORS = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F)  # odd, so that no two places share a product
_OFFSETS = (0x165667B1, 0x7F4A7C15, 0xD6E8FEB8, 0x94D049BB)


def digest(tree: Any) -> str:
    """SHA-256, in hex, over names, shapes, dtypes and the sums of all leaves, in name order.

    Every process of a run over several must call it, and each gets the same. Leaves are numbers of up to 32 bits, or
    truth values; raises TypeError for others. Elements of a leaf 2^32 apart count as being in one place.
    """
    leaves = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    leaves = dict(sorted(leaves.items()))
    for name, leaf in leaves.items():
        if np.dtype(leaf.dtype).itemsize not in _UNSIGNED:
            raise TypeError(f"{name}: {leaf.dtype} has more than 32 bits")
    total = hashlib.sha256()
    for name, leaf in leaves.items():
        total.update(f"{name} {tuple(leaf.shape)} {leaf.dtype};".encode())
    if leaves:
        on_host = all(isinstance(leaf, np.ndarray) for leaf in leaves.values())
        with jax.default_device(_host()) if on_host else contextlib.nullcontext():
            sums = _make_sums(_mesh(leaves.values()))(list(leaves.values()))
        total.update(np.asarray(sums).astype("<u4").tobytes())
    return total.hexdigest()


def _host() -> jax.Device | None:
    """The processor, whose memory holds what an accelerator's may not; None where JAX_PLATFORMS leaves it out."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None


def _mesh(leaves: Any) -> Mesh | None:
    """The mesh that the leaves are laid out on; None where each is on one device."""
    for leaf in leaves:
        if isinstance(leaf, jax.Array) and isinstance(leaf.sharding, NamedSharding):
            assert isinstance(leaf.sharding.mesh, Mesh)  # an array that exists lies on devices that exist
            return leaf.sharding.mesh
    return None


@functools.cache
def _make_sums(mesh: Mesh | None) -> Callable[[Sequence[Array]], Array]:
    """Builds leaves -> uint32[large leaves + 1, 4], on every device of the mesh; the last row is of all small leaves.

    On one device a single pass gives the four sums. Over a mesh it would gather each leaf on every device first, which
    plain sums do not.
    """
    reduce = _one_pass if mesh is None else _plain_sums

    def sums(leaves: Sequence[Array]) -> Array:
        large = [leaf for leaf in leaves if leaf.size >= _SMALL]
        small = [_bits(leaf).reshape(-1) for leaf in leaves if leaf.size < _SMALL]
        together = jnp.concatenate(small) if small else jnp.zeros(0, jnp.uint32)
        return jnp.stack([*(reduce(_mixtures(_bits(leaf))) for leaf in large), reduce(_mixtures(together))])

    return jax.jit(sums, out_shardings=None if mesh is None else NamedSharding(mesh, PartitionSpec()))


def _bits(leaf: Array) -> Array:
    """The bits of every element as uint32, in the leaf's shape."""
    if leaf.dtype == jnp.bool_:
        return leaf.astype(jnp.uint32)
    return jax.lax.bitcast_convert_type(leaf, _UNSIGNED[leaf.dtype.itemsize]).astype(jnp.uint32)


def _places(shape: tuple[int, ...]) -> Array:
    """Every element's place in row-major order, modulo 2^32; computed where the element lies."""
    places, stride = jnp.zeros(shape, jnp.uint32), 1
    for axis in reversed(range(len(shape))):
        places += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride % 2**32)
        stride *= shape[axis]
    return places


def _mixtures(bits: Array) -> list[Array]:
    """Four arrays in which every bit of an element and of its place bears on every bit."""
    places = _finalize(_places(bits.shape))
    return [
        _finalize(bits ^ (places * jnp.uint32(factor) + jnp.uint32(offset)))
        for factor, offset in zip(_FACTORS, _OFFSETS, strict=True)
    ]


def _finalize(x: Array) -> Array:
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def _one_pass(mixtures: list[Array]) -> Array:
    add = lambda left, right: [a + b for a, b in zip(left, right, strict=True)]  # noqa: E731
    return jnp.stack(jax.lax.reduce(mixtures, [np.uint32(0)] * len(mixtures), add, range(mixtures[0].ndim)))


def _plain_sums(mixtures: list[Array]) -> Array:
    return jnp.stack([jnp.sum(mixture, dtype=jnp.uint32) for mixture in mixtures])
