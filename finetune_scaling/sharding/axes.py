"""Logical axes: names of the dimensions of the model's arrays, and the mesh axes that they are divided over."""

import dataclasses
import math
from collections.abc import Sequence

import jax
from jax.sharding import AbstractMesh, Mesh, PartitionSpec

DATA, FSDP, TENSOR = MESH_AXES = ("data", "fsdp", "tensor")


@dataclasses.dataclass(frozen=True)
class AxisRules:
    """Logical axis -> mesh axes that it is divided over; none: every device has all of it.

    The defaults are data parallelism over `data` and `fsdp`, fully sharded parameters over `fsdp` (ZeRO-3; Rajbhandari
    et al., 2020) and Megatron's tensor parallelism over `tensor` (Shoeybi et al., 2019). other: of parameters that the
    model's table does not name, adapters and prompts among them, and of the optimizer's own arrays: their largest axis
    that divides, where they are large enough to be worth it.
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
    """Into how many parts these mesh axes divide a dimension."""
    return math.prod(mesh.shape[axis] for axis in axes)


def constrain(x: jax.Array, rules: AxisRules, *logical: str | None) -> jax.Array:
    """x with its dimensions divided over the mesh in context as `rules` say; as it is where there is no mesh.

    logical: a name for each dimension, None for one that is not divided. A dimension that its mesh axes do not divide
    stays whole.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, partition_spec(mesh, rules, logical, x.shape))


def partition_spec(
    mesh: Mesh | AbstractMesh, rules: AxisRules, logical: Sequence[str | None], sizes: Sequence[int]
) -> PartitionSpec:
    """How an array with these logical axes is divided; sizes: into how many pieces each dimension could be cut."""
    entries = []
    for name, size in zip(logical, sizes, strict=True):
        axes = () if name is None else getattr(rules, name)
        entries.append(axes if axes and size % shard_count(mesh, axes) == 0 else None)
    return PartitionSpec(*entries)
