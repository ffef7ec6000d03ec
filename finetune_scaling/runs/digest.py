"""A digest of a tree's arrays that does not depend on their sharding.

The bits of each element are hashed together with its index, and the hashes are summed modulo 2^32: integer sums are
exact in any order, so each device sums its own shards. The hash is MurmurHash3's 32-bit finalizer (Appleby, public
domain); four sums with different constants give 128 bits per leaf. The digest detects damage and mix-ups, not forgery.
"""

import contextlib
import functools
import hashlib
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from finetune_scaling.sharding.mesh import host_device
from finetune_scaling.trees import flatten

Array = jax.Array

_UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}  # by bytes
_SMALL = 1 << 16  # elements; smaller leaves are summed together, as each loop takes time to compile
_FACTORS = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F)  # odd, so that no two indices share a product
_OFFSETS = (0x165667B1, 0x7F4A7C15, 0xD6E8FEB8, 0x94D049BB)


def digest(tree: Any, dtypes: Mapping[str, Any] | None = None) -> str:
    """Return the SHA-256 (hex) of names, shapes, dtypes and sums of all leaves, in name order.

    dtypes: the digest is that of the leaves cast to these dtypes, by name; no cast copy is made.

    All processes of a distributed run must call it; each gets the same value. Raises TypeError for dtypes of more than
    32 bits. Indices are taken modulo 2^32.
    """
    leaves = _in_order(flatten(tree))
    if not leaves:
        return _digest({}, None)
    casts = tuple(np.dtype((dtypes or {}).get(name, leaf.dtype)) for name, leaf in leaves.items())
    on_host = all(isinstance(leaf, np.ndarray) for leaf in leaves.values())
    with jax.default_device(host_device()) if on_host else contextlib.nullcontext():
        sums = _make_sums(_mesh(leaves.values()), casts)(list(leaves.values()))
    hashed = {name: jax.ShapeDtypeStruct(leaves[name].shape, cast) for name, cast in zip(leaves, casts, strict=True)}
    return _digest(hashed, np.asarray(sums))


class StreamingDigest:
    """Computes the same digest from chunks of leaves, for trees larger than memory.

    leaves: all leaves by name; only their shapes and dtypes are used. Chunks may be summed in any order and by several
    threads.
    """

    def __init__(self, leaves: Mapping[str, Any]):
        self._leaves = _in_order(leaves)
        large = [name for name, leaf in self._leaves.items() if math.prod(leaf.shape) >= _SMALL]
        self._rows = {name: row for row, name in enumerate(large)}
        small = [name for name in self._leaves if name not in self._rows]
        sizes = [math.prod(self._leaves[name].shape) for name in small]
        self._firsts = dict(zip(small, itertools.accumulate(sizes, initial=0), strict=False))
        self._small = len(large)

    def sums_of_chunk(self, name: str, chunk: np.ndarray, start: Sequence[int]) -> list[int]:
        """Return the four sums of a chunk of a leaf; start: index of its first element in the leaf."""
        strides = _strides(self._leaves[name].shape)
        first = self._firsts.get(name, 0) + sum(index * stride for index, stride in zip(start, strides, strict=True))
        with jax.default_device(host_device()):
            sums = _chunk_sums(chunk, np.uint32(first % 2**32), strides)
        return np.asarray(sums).tolist()

    def digest(self, chunks: Iterable[tuple[str, Sequence[int]]]) -> str:
        """Return the digest of all leaves from the leaf name and the sums of every chunk."""
        total = np.zeros((self._small + 1, len(_FACTORS)), np.uint32)
        for name, sums in chunks:
            total[self._rows.get(name, self._small)] += np.asarray(sums, np.uint32)
        return _digest(self._leaves, total)


def _in_order(leaves: Mapping[str, Any]) -> dict[str, Any]:
    for name, leaf in leaves.items():
        if np.dtype(leaf.dtype).itemsize not in _UNSIGNED:
            raise TypeError(f"{name}: {leaf.dtype} has more than 32 bits")
    return dict(sorted(leaves.items()))


def _digest(leaves: Mapping[str, Any], sums: np.ndarray | None) -> str:
    """Return the digest of leaves in name order with their sums, uint32[large leaves + 1, 4]."""
    total = hashlib.sha256()
    for name, leaf in leaves.items():
        total.update(f"{name} {tuple(leaf.shape)} {leaf.dtype};".encode())
    if sums is not None:
        total.update(sums.astype("<u4").tobytes())
    return total.hexdigest()


def _mesh(leaves: Any) -> Mesh | None:
    """Return the mesh that the leaves are sharded over; None if each is on one device."""
    for leaf in leaves:
        if isinstance(leaf, jax.Array) and isinstance(leaf.sharding, NamedSharding):
            assert isinstance(leaf.sharding.mesh, Mesh)  # not an abstract mesh: these are concrete arrays
            return leaf.sharding.mesh
    return None


@functools.lru_cache(maxsize=64)
def _make_sums(mesh: Mesh | None, dtypes: tuple[np.dtype, ...]) -> Callable[[Sequence[Array]], Array]:
    """Return a function leaves -> uint32[large leaves + 1, 4], replicated; the last row sums all small leaves.

    dtypes: of the leaves when they are hashed.

    On one device one variadic reduction computes the four sums. Over a mesh it would all-gather each leaf first, which
    separate sums do not.
    """
    reduce = _one_pass if mesh is None else _separate_sums

    def sums(stored: Sequence[Array]) -> Array:
        leaves = [leaf.astype(dtype) for leaf, dtype in zip(stored, dtypes, strict=True)]
        large = [leaf for leaf in leaves if leaf.size >= _SMALL]
        small = [_bits(leaf).reshape(-1) for leaf in leaves if leaf.size < _SMALL]
        together = jnp.concatenate(small) if small else jnp.zeros(0, jnp.uint32)
        return jnp.stack([reduce(_hashes(bits)) for bits in (*map(_bits, large), together)])

    return jax.jit(sums, out_shardings=None if mesh is None else NamedSharding(mesh, PartitionSpec()))


@functools.partial(jax.jit, static_argnames="strides")
def _chunk_sums(chunk: Array, first: Array, strides: tuple[int, ...]) -> Array:
    """Return the four sums of a chunk whose first element has index `first`; strides: of the leaf, in elements."""
    return _one_pass(_hashes(_bits(chunk), first + _indices(chunk.shape, strides)))


def _bits(leaf: Array) -> Array:
    """Return the bits of every element as uint32, in the leaf's shape."""
    if leaf.dtype == jnp.bool_:
        return leaf.astype(jnp.uint32)
    return jax.lax.bitcast_convert_type(leaf, _UNSIGNED[leaf.dtype.itemsize]).astype(jnp.uint32)


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the row-major strides of a shape, in elements."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _indices(shape: tuple[int, ...], strides: tuple[int, ...]) -> Array:
    """Return every element's row-major index modulo 2^32, computed on the element's own device."""
    indices = jnp.zeros(shape, jnp.uint32)
    for axis, stride in enumerate(strides):
        indices += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride % 2**32)
    return indices


def _hashes(bits: Array, indices: Array | None = None) -> list[Array]:
    """Return four hashes of every element and its index (by default row-major)."""
    indices = _finalize(_indices(bits.shape, _strides(bits.shape)) if indices is None else indices)
    return [
        _finalize(bits ^ (indices * jnp.uint32(factor) + jnp.uint32(offset)))
        for factor, offset in zip(_FACTORS, _OFFSETS, strict=True)
    ]


def _finalize(x: Array) -> Array:
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def _one_pass(hashes: list[Array]) -> Array:
    add = lambda left, right: [a + b for a, b in zip(left, right, strict=True)]  # noqa: E731
    return jnp.stack(jax.lax.reduce(hashes, [np.uint32(0)] * len(hashes), add, range(hashes[0].ndim)))


def _separate_sums(hashes: list[Array]) -> Array:
    return jnp.stack([jnp.sum(one, dtype=jnp.uint32) for one in hashes])
