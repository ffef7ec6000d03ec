"""A digest of a tree's arrays that does not depend on how they lie on devices and hosts.

Every element's bits are mixed with its place, and the mixtures are summed modulo 2^32: integer sums are exact in any
order, so each device sums what it holds. The mixing is MurmurHash3's 32-bit finalizer (Appleby, public domain), and
four sums under different constants make 128 bits a leaf. It finds damage and mix-ups, not forgeries.
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

from finetune_scaling.trees import path_name

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
    leaves = _in_order({path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)})
    if not leaves:
        return _digest({}, None)
    on_host = all(isinstance(leaf, np.ndarray) for leaf in leaves.values())
    with jax.default_device(_host()) if on_host else contextlib.nullcontext():
        sums = _make_sums(_mesh(leaves.values()))(list(leaves.values()))
    return _digest(leaves, np.asarray(sums))


class StreamingDigest:
    """The same digest of leaves that are never in memory together: each piece is summed by itself.

    leaves: all by name, of which shapes and dtypes are taken. Pieces may come in any order, from several threads.
    """

    def __init__(self, leaves: Mapping[str, Any]):
        self._leaves = _in_order(leaves)
        large = [name for name, leaf in self._leaves.items() if math.prod(leaf.shape) >= _SMALL]
        self._rows = {name: row for row, name in enumerate(large)}
        small = [name for name in self._leaves if name not in self._rows]
        sizes = [math.prod(self._leaves[name].shape) for name in small]
        self._firsts = dict(zip(small, itertools.accumulate(sizes, initial=0), strict=False))
        self._small = len(large)

    def of(self, name: str, piece: np.ndarray, start: Sequence[int]) -> list[int]:
        """The four sums of a piece of a leaf whose first element is at `start` there."""
        strides = _strides(self._leaves[name].shape)
        first = self._firsts.get(name, 0) + sum(place * stride for place, stride in zip(start, strides, strict=True))
        with jax.default_device(_host()):
            sums = _piece_sums(piece, np.uint32(first % 2**32), strides)
        return np.asarray(sums).tolist()

    def digest(self, pieces: Iterable[tuple[str, Sequence[int]]]) -> str:
        """The digest of all leaves from the names and sums of all their pieces."""
        total = np.zeros((self._small + 1, len(_FACTORS)), np.uint32)
        for name, sums in pieces:
            total[self._rows.get(name, self._small)] += np.asarray(sums, np.uint32)
        return _digest(self._leaves, total)


def _in_order(leaves: Mapping[str, Any]) -> dict[str, Any]:
    for name, leaf in leaves.items():
        if np.dtype(leaf.dtype).itemsize not in _UNSIGNED:
            raise TypeError(f"{name}: {leaf.dtype} has more than 32 bits")
    return dict(sorted(leaves.items()))


def _digest(leaves: Mapping[str, Any], sums: np.ndarray | None) -> str:
    """Of leaves in order and their sums, uint32[large leaves + 1, 4]."""
    total = hashlib.sha256()
    for name, leaf in leaves.items():
        total.update(f"{name} {tuple(leaf.shape)} {leaf.dtype};".encode())
    if sums is not None:
        total.update(sums.astype("<u4").tobytes())
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
        return jnp.stack([reduce(_mixtures(bits)) for bits in (*map(_bits, large), together)])

    return jax.jit(sums, out_shardings=None if mesh is None else NamedSharding(mesh, PartitionSpec()))


@functools.partial(jax.jit, static_argnames="strides")
def _piece_sums(piece: Array, first: Array, strides: tuple[int, ...]) -> Array:
    """The four sums of a piece whose first element is at place `first`; strides: of the whole leaf, in elements."""
    return _one_pass(_mixtures(_bits(piece), first + _places(piece.shape, strides)))


def _bits(leaf: Array) -> Array:
    """The bits of every element as uint32, in the leaf's shape."""
    if leaf.dtype == jnp.bool_:
        return leaf.astype(jnp.uint32)
    return jax.lax.bitcast_convert_type(leaf, _UNSIGNED[leaf.dtype.itemsize]).astype(jnp.uint32)


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Elements between neighbours along each axis, in row-major order."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _places(shape: tuple[int, ...], strides: tuple[int, ...]) -> Array:
    """Every element's place in row-major order, modulo 2^32; computed where the element lies."""
    places = jnp.zeros(shape, jnp.uint32)
    for axis, stride in enumerate(strides):
        places += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride % 2**32)
    return places


def _mixtures(bits: Array, places: Array | None = None) -> list[Array]:
    """Four arrays in which every bit of an element and of its place, by default in order, bears on every bit."""
    places = _finalize(_places(bits.shape, _strides(bits.shape)) if places is None else places)
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
