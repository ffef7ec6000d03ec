"""Shardings of every array of a run: a table of regular expressions for the model's parameters, size for all others."""

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from finetune_scaling.errors import ConfigError
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.sharding.axes import DATA, FSDP, TENSOR, AxisRules, partition_spec, shard_count
from finetune_scaling.sharding.mesh import ShardingConfig
from finetune_scaling.trees import Tree, path_name

# Whole name of a parameter -> logical axes of its dimensions.
PARAMETER_AXES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"embedding", ("vocab", "embed")),
    (r"head", ("embed", "vocab")),
    (r"layers/attention/query/kernel", ("layers", "embed", "heads")),
    (r"layers/attention/(key|value)/kernel", ("layers", "embed", "kv_heads")),
    (r"layers/attention/query/bias", ("layers", "heads")),
    (r"layers/attention/(key|value)/bias", ("layers", "kv_heads")),
    (r"layers/attention/attention_out/kernel", ("layers", "heads", "embed")),
    (r"layers/attention/attention_out/bias", ("layers", None)),
    (r"layers/attention/(query|key)_norm/(scale|bias)", ("layers", None)),
    (r"layers/feed_forward/(gate|up)/kernel", ("layers", "embed", "ffn")),
    (r"layers/feed_forward/(gate|up)/bias", ("layers", "ffn")),
    (r"layers/feed_forward/down/kernel", ("layers", "ffn", "embed")),
    (r"layers/feed_forward/down/bias", ("layers", None)),
    (r"layers/(norm|feed_forward_norm|attention_out_norm|feed_forward_out_norm)/(scale|bias)", ("layers", None)),
    (r"final_norm/(scale|bias)", (None,)),
)
SMALL = 4 * 2**20  # bytes below which an array outside the table is replicated: gathering it would cost more


def parameter_axes(name: str) -> tuple[str | None, ...] | None:
    """Return the logical axes of a parameter, or None if the table does not name it."""
    return next((axes for pattern, axes in PARAMETER_AXES if re.fullmatch(pattern, name)), None)


@dataclasses.dataclass(frozen=True)
class ModelSharding:
    """The shardings of one model's arrays on one mesh."""

    model: ModelConfig
    mesh: Mesh | AbstractMesh
    rules: AxisRules

    def parameters(self, tree: Tree) -> Tree:
        """Return NamedShardings of parameters, trainable or frozen; leaves need only a shape and a dtype."""
        return jax.tree_util.tree_map_with_path(lambda path, leaf: self._parameter(path_name(path), leaf), tree)

    def optimizer(self, tree: Tree, trainable: Tree) -> Tree:
        """Return NamedShardings of the optimizer state over `trainable`: moments are sharded as their parameters."""
        known = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(trainable)}
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: self._like_parameter(path_name(path), leaf, known), tree
        )

    def checkpoint(self, leaves: Mapping[str, Any]) -> dict[str, NamedSharding]:
        """Return NamedShardings of a checkpoint's arrays by name: "trainable/..." and "optimizer/..."."""
        prefix = "trainable/"
        trained = {name.removeprefix(prefix): leaf for name, leaf in leaves.items() if name.startswith(prefix)}
        return {
            name: self._parameter(name.removeprefix(prefix), leaf)
            if name.startswith(prefix)
            else self._like_parameter(name, leaf, trained)
            for name, leaf in leaves.items()
        }

    def constrain(self, tree: Tree) -> Tree:
        """Constrain parameters, or their gradients, to their shardings inside a compiled function."""
        return tree if _single_device(self.mesh) else jax.lax.with_sharding_constraint(tree, self.parameters(tree))

    def constrain_optimizer(self, tree: Tree, trainable: Tree) -> Tree:
        """Constrain an optimizer state to its shardings inside a compiled function."""
        return (
            tree
            if _single_device(self.mesh)
            else jax.lax.with_sharding_constraint(tree, self.optimizer(tree, trainable))
        )

    @contextlib.contextmanager
    def use_mesh(self) -> Iterator[None]:
        """Set the mesh and the model's precision of matrix products for compiled functions."""
        assert isinstance(self.mesh, Mesh)
        with jax.set_mesh(self.mesh), jax.default_matmul_precision(self.model.matmul_precision):
            yield

    def batch(self) -> NamedSharding:
        """Return the sharding of batch-major arrays."""
        return self._named(PartitionSpec(self.rules.batch or None))

    def replicated(self) -> NamedSharding:
        """Return the sharding of replicated arrays."""
        return self._named(PartitionSpec())

    @property
    def batch_shards(self) -> int:
        """Number of shards of a batch's rows."""
        return shard_count(self.mesh, self.rules.batch)

    def _like_parameter(self, name: str, leaf: Any, parameters: Mapping[str, Any]) -> NamedSharding:
        """Return the sharding of an optimizer's array, whose name ends with its parameter's name."""
        of = next((n for n, p in parameters.items() if name.endswith("/" + n) and p.shape == leaf.shape), None)
        return self._by_size(leaf) if of is None else self._parameter(of, leaf)

    def _parameter(self, name: str, leaf: Any) -> NamedSharding:
        logical = parameter_axes(name)
        if logical is None:
            return self._by_size(leaf)
        # A head cannot be split, so a dimension of heads has at most as many shards as heads.
        units = {"heads": self.model.heads, "kv_heads": self.model.kv_heads}
        sizes = [units.get(axis or "", size) for axis, size in zip(logical, leaf.shape, strict=True)]
        return self._named(partition_spec(self.mesh, self.rules, logical, sizes))

    def _by_size(self, leaf: Any) -> NamedSharding:
        """Shard the largest dimension that `other` divides; replicate small arrays and those without one."""
        count = shard_count(self.mesh, self.rules.other)
        divisible = [d for d, size in enumerate(leaf.shape) if size % count == 0]
        if count == 1 or not divisible or leaf.size * np.dtype(leaf.dtype).itemsize < SMALL:
            return self.replicated()
        largest = max(divisible, key=lambda d: leaf.shape[d])
        return self._named(PartitionSpec(*(self.rules.other if d == largest else None for d in range(len(leaf.shape)))))

    def _named(self, entries: PartitionSpec) -> NamedSharding:
        return NamedSharding(self.mesh, entries)


def _single_device(mesh: Mesh | AbstractMesh) -> bool:
    return mesh.empty or mesh.size == 1


def sharding_table(arrays: Tree, shardings: Tree = None) -> str:
    """Return one line per array: name, dtype, shape, sharding and bytes per device.

    shardings: given if the leaves of `arrays` are shapes only.
    """
    leaves = jax.tree_util.tree_leaves_with_path(arrays)
    where = [leaf.sharding for _, leaf in leaves] if shardings is None else jax.tree.leaves(shardings)
    rows = []
    for (path, leaf), sharding in zip(leaves, where, strict=True):
        held = int(np.prod(sharding.shard_shape(leaf.shape))) * np.dtype(leaf.dtype).itemsize
        rows.append(
            (
                path_name(path),
                str(leaf.dtype),
                str(list(leaf.shape)),
                _sharded_dimensions(sharding) or "replicated",
                held,
            )
        )
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(4)]
    return "\n".join(
        "  " + "  ".join(f"{row[i]:<{widths[i]}}" for i in range(4)) + f"  {row[4]:>14,} bytes per device"
        for row in rows
    )


def _sharded_dimensions(sharding: NamedSharding) -> str:
    """Return the sharded dimensions with their mesh axes, as in "1:fsdp"; axes of size 1 shard nothing."""
    entries = [axes if isinstance(axes, tuple) else (axes,) for axes in sharding.spec]
    sharding_axes = [[axis for axis in axes if axis is not None and sharding.mesh.shape[axis] > 1] for axes in entries]
    return " ".join(f"{d}:{'x'.join(axes)}" for d, axes in enumerate(sharding_axes) if axes)


def check_fits(config: ModelConfig, sharding: ShardingConfig, mesh: Mesh | AbstractMesh) -> None:
    """Raise ConfigError if the model's dimensions are not divisible by the mesh axes that shard them."""
    for axis, field, size in (
        ("embed", "model_dim", config.model_dim),
        ("heads", "heads", config.heads),
        ("ffn", "ffn_dim", config.ffn_dim),
    ):
        count = shard_count(mesh, getattr(sharding.axes, axis))
        if size % count:
            shape = ", ".join(f"{name} {mesh.shape[name]}" for name in (DATA, FSDP, TENSOR))
            raise ConfigError(
                f"model.{field} = {size} is not divisible by {count} shards on the mesh {shape}. Fix: lower "
                "sharding.fsdp or sharding.tensor"
            )
