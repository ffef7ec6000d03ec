"""Logical axes: names of the dimensions of the model's arrays, and the mesh axes that shard them."""

import dataclasses
import math
from collections.abc import Sequence

import jax
from jax.sharding import AbstractMesh, Mesh, PartitionSpec

DATA, FSDP, TENSOR = MESH_AXES = ("data", "fsdp", "tensor")


@dataclasses.dataclass(frozen=True)
class AxisRules:
    """Mesh axes that shard each logical axis; an empty tuple means replicated.

    The defaults are data parallelism over `data` and `fsdp`, fully sharded parameters over `fsdp` (ZeRO-3; Rajbhandari
    et al., 2020) and Megatron's tensor parallelism over `tensor` (Shoeybi et al., 2019).

    other: axes for the largest divisible dimension of other large arrays: adapters, prompts, optimizer state.
    """

    batch: tuple[str, ...] = (DATA, FSDP)
    length: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    embed: tuple[str, ...] = (FSDP,)
    heads: tuple[str, ...] = (TENSOR,)
    kv_heads: tuple[str, ...] = (TENSOR,)
    ffn: tuple[str, ...] = (TENSOR,)
    vocab: tuple[str, ...] = (TENSOR,)
    other: tuple[str, ...] = (FSDP,)


DEFAULT_RULES = AxisRules()


def shard_count(mesh: Mesh | AbstractMesh, axes: Sequence[str]) -> int:
    """Return the number of shards of a dimension over these mesh axes."""
    return math.prod(mesh.shape[axis] for axis in axes)


def platform_in_context() -> str:
    """Return the platform (tpu, gpu or cpu) of the mesh in context, or of this process.

    They differ where programs are compiled for TPUs on machines without them.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return jax.default_backend() if mesh.abstract_device is None else mesh.abstract_device.platform


def constrain(x: jax.Array, rules: AxisRules, *logical: str | None) -> jax.Array:
    """Constrain the sharding of x on the mesh in context by `rules`; without a mesh return x unchanged.

    logical: a logical axis for each dimension, None for replicated. A dimension whose size is not divisible by the size
    of its mesh axes is replicated.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, partition_spec(mesh, rules, logical, x.shape))


def partition_spec(
    mesh: Mesh | AbstractMesh, rules: AxisRules, logical: Sequence[str | None], sizes: Sequence[int]
) -> PartitionSpec:
    """Return the PartitionSpec of an array with these logical axes and sizes."""
    entries = []
    for name, size in zip(logical, sizes, strict=True):
        axes = () if name is None else getattr(rules, name)
        entries.append(axes if axes and size % shard_count(mesh, axes) == 0 else None)
    return PartitionSpec(*entries)
