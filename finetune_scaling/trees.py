"""Parameter trees: nested dicts of arrays, whose leaves have names such as `layers/attention/query/kernel`."""

from collections.abc import Mapping
from typing import Any

import jax

Tree = Any


def path_name(path: tuple) -> str:
    """A leaf's name as rules see it: 'layers/attention/query/kernel'."""
    return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)


def flatten(tree: Tree) -> dict[str, Any]:
    """A tree's leaves by name."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def unflatten(leaves: Mapping[str, Any]) -> Tree:
    """The inverse of flat: a tree of dicts."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *folders, name = path.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[name] = leaf
    return tree


def merge(params: Tree, additions: Tree) -> Tree:
    """`params` with the leaves of `additions` added or put in place of its own; None leaves add nothing."""
    if not isinstance(additions, dict):
        return params if additions is None else additions
    merged = dict(params) if isinstance(params, dict) else {}
    for name, value in additions.items():
        if value is not None:
            merged[name] = merge(merged.get(name), value)
    return merged


def parameter_count(tree: Tree) -> int:
    """Number of parameters in a tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
