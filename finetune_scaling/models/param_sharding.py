"""How every array of a run is divided over the mesh: one table names the model's parameters by regular expression,
whatever it does not name goes by size.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from finetune_scaling.errors import ConfigError
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.sharding.axes import DATA, FSDP, TENSOR, AxisRules, parts, spec
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
SMALL = 4 * 2**20  # bytes below which an array outside the table stays whole: to gather it would cost more


def parameter_axes(name: str) -> tuple[str | None, ...] | None:
    """Logical axes of a parameter of the model; None for one that the table does not name."""
    return next((axes for pattern, axes in PARAMETER_AXES if re.fullmatch(pattern, name)), None)


@dataclasses.dataclass(frozen=True)
class Placement:
    """Says where everything of one model lives on one mesh."""

    model: ModelConfig
    mesh: Mesh | AbstractMesh
    rules: AxisRules

    def parameters(self, tree: Tree) -> Tree:
        """NamedShardings for parameters, trainable or frozen; leaves need a shape and a dtype only."""
        return jax.tree_util.tree_map_with_path(lambda path, leaf: self._parameter(path_name(path), leaf), tree)

    def optimizer(self, tree: Tree, trainable: Tree) -> Tree:
        """NamedShardings for an optimizer's state over `trainable`: moments lie as their parameters do."""
        known = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(trainable)}
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: self._like_parameter(path_name(path), leaf, known), tree
        )

    def named(self, leaves: Mapping[str, Any]) -> dict[str, NamedSharding]:
        """NamedShardings for a checkpoint's arrays by name: "trainable/...", and "optimizer/..." of its state."""
        prefix = "trainable/"
        trained = {name.removeprefix(prefix): leaf for name, leaf in leaves.items() if name.startswith(prefix)}
        return {
            name: self._parameter(name.removeprefix(prefix), leaf)
            if name.startswith(prefix)
            else self._like_parameter(name, leaf, trained)
            for name, leaf in leaves.items()
        }

    def keep(self, tree: Tree) -> Tree:
        """Inside a compiled function: parameters, or their gradients, held to where they live."""
        return tree if _alone(self.mesh) else jax.lax.with_sharding_constraint(tree, self.parameters(tree))

    def keep_optimizer(self, tree: Tree, trainable: Tree) -> Tree:
        """Inside a compiled function: an optimizer's state held to where it lives."""
        return tree if _alone(self.mesh) else jax.lax.with_sharding_constraint(tree, self.optimizer(tree, trainable))

    def in_use(self) -> Any:
        """A context in which compiled functions find the mesh."""
        assert isinstance(self.mesh, Mesh)
        return jax.set_mesh(self.mesh)

    def batch(self) -> NamedSharding:
        """Of arrays whose first dimension counts a batch's rows."""
        return self._named(PartitionSpec(self.rules.batch or None))

    def whole(self) -> NamedSharding:
        """Of what every device has."""
        return self._named(PartitionSpec())

    @property
    def batch_parts(self) -> int:
        """Parts into which a batch's rows are divided."""
        return parts(self.mesh, self.rules.batch)

    def _like_parameter(self, name: str, leaf: Any, parameters: Mapping[str, Any]) -> NamedSharding:
        """Of an array of an optimizer's, whose name ends in that of its parameter."""
        of = next((n for n, p in parameters.items() if name.endswith("/" + n) and p.shape == leaf.shape), None)
        return self._by_size(leaf) if of is None else self._parameter(of, leaf)

    def _parameter(self, name: str, leaf: Any) -> NamedSharding:
        logical = parameter_axes(name)
        if logical is None:
            return self._by_size(leaf)
        # A head may not be cut, so a dimension of heads has as many pieces as heads.
        units = {"heads": self.model.heads, "kv_heads": self.model.kv_heads}
        sizes = [units.get(axis or "", size) for axis, size in zip(logical, leaf.shape, strict=True)]
        return self._named(spec(self.mesh, self.rules, logical, sizes))

    def _by_size(self, leaf: Any) -> NamedSharding:
        """The largest dimension that `other` divides; whole where the array is small or none does."""
        count = parts(self.mesh, self.rules.other)
        divisible = [d for d, size in enumerate(leaf.shape) if size % count == 0]
        if count == 1 or not divisible or leaf.size * np.dtype(leaf.dtype).itemsize < SMALL:
            return self.whole()
        largest = max(divisible, key=lambda d: leaf.shape[d])
        return self._named(PartitionSpec(*(self.rules.other if d == largest else None for d in range(len(leaf.shape)))))

    def _named(self, entries: PartitionSpec) -> NamedSharding:
        return NamedSharding(self.mesh, entries)


def _alone(mesh: Mesh | AbstractMesh) -> bool:
    return mesh.empty or mesh.size == 1


def placement_table(arrays: Tree, shardings: Tree = None) -> str:
    """A line for each array: name, dtype, shape, how it is divided and the bytes that one device holds of it.

    shardings: of leaves that are shapes only.
    """
    leaves = jax.tree_util.tree_leaves_with_path(arrays)
    where = [leaf.sharding for _, leaf in leaves] if shardings is None else jax.tree.leaves(shardings)
    rows = []
    for (path, leaf), sharding in zip(leaves, where, strict=True):
        held = int(np.prod(sharding.shard_shape(leaf.shape))) * np.dtype(leaf.dtype).itemsize
        rows.append((path_name(path), str(leaf.dtype), str(list(leaf.shape)), _divided(sharding) or "whole", held))
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(4)]
    return "\n".join(
        "  " + "  ".join(f"{row[i]:<{widths[i]}}" for i in range(4)) + f"  {row[4]:>14,} bytes a device" for row in rows
    )


def _divided(sharding: NamedSharding) -> str:
    """Dimensions with the mesh axes that divide them; an axis of size 1 divides nothing."""
    entries = [axes if isinstance(axes, tuple) else (axes,) for axes in sharding.spec]
    dividing = [[axis for axis in axes if axis is not None and sharding.mesh.shape[axis] > 1] for axes in entries]
    return " ".join(f"{d}:{'x'.join(axes)}" for d, axes in enumerate(dividing) if axes)


def check_fits(config: ModelConfig, sharding: ShardingConfig, mesh: Mesh | AbstractMesh) -> None:
    """Raises ConfigError where the mesh does not divide the model: a part of a head, say, would be nobody's."""
    for axis, field, size in (
        ("embed", "model_dim", config.model_dim),
        ("heads", "heads", config.heads),
        ("ffn", "ffn_dim", config.ffn_dim),
    ):
        count = parts(mesh, getattr(sharding.axes, axis))
        if size % count:
            shape = ", ".join(f"{name} {mesh.shape[name]}" for name in (DATA, FSDP, TENSOR))
            raise ConfigError(
                f"model.{field} = {size} cannot be divided into {count} parts on the mesh {shape}; lower sharding.fsdp "
                "or sharding.tensor"
            )
