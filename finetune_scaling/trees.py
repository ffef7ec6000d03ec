"""Parameter trees: nested dicts of arrays, with leaf names such as `layers/attention/query/kernel`."""

from collections.abc import Mapping
from typing import Any

import jax

Tree = Any


def path_name(path: tuple) -> str:
    """Return the name of the leaf at a JAX key path, for example 'layers/attention/query/kernel'."""
    return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)


def flatten(tree: Tree) -> dict[str, Any]:
    """Return the leaves of a tree by name."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def unflatten(leaves: Mapping[str, Any]) -> Tree:
    """Return the tree of dicts whose leaves are given by name; the inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *folders, name = path.split("/")
        group = tree
        for folder in folders:
            group = group.setdefault(folder, {})
        group[name] = leaf
    return tree


def merge(params: Tree, additions: Tree) -> Tree:
    """Return `params` with the leaves of `additions` added or replaced; None leaves of `additions` are ignored."""
    if not isinstance(additions, dict):
        return params if additions is None else additions
    merged = dict(params) if isinstance(params, dict) else {}
    for name, value in additions.items():
        if value is not None:
            merged[name] = merge(merged.get(name), value)
    return merged


def shapes_of(tree: Tree) -> Tree:
    """Return the leaves' shapes and dtypes as ShapeDtypeStructs without shardings."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def with_shardings(shapes: Tree, shardings: Tree) -> Tree:
    """Return ShapeDtypeStructs with shardings."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes, shardings
    )


def parameter_count(tree: Tree) -> int:
    """Return the number of parameters in a tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
