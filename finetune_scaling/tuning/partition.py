"""Partition of the parameters by one rule, which decides gradients, optimizer state, dtypes, checkpoints and counts.

A tree is split into two of the same structure, with None where a leaf belongs to the other tree. Masking the optimizer
instead would compute gradients of frozen leaves as soon as their norm is logged.
"""

import dataclasses
import re

import jax

from finetune_scaling.errors import ConfigError
from finetune_scaling.trees import Tree, path_name


def partition(params: Tree, rule: str) -> tuple[Tree, Tree]:
    """Split `params` into (trainable, frozen): leaves whose whole name matches the regular expression train.

    Raises ConfigError if the rule matches nothing.
    """
    pattern = re.compile(rule)

    def trains(path: tuple) -> bool:
        return pattern.fullmatch(path_name(path)) is not None

    trainable = jax.tree_util.tree_map_with_path(lambda path, leaf: leaf if trains(path) else None, params)
    frozen = jax.tree_util.tree_map_with_path(lambda path, leaf: None if trains(path) else leaf, params)
    if not jax.tree.leaves(trainable):
        names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
        raise ConfigError(f"the trainable rule {rule!r} matches no parameter; there are: {', '.join(names)}")
    return trainable, frozen


def combine(trainable: Tree, frozen: Tree) -> Tree:
    """Return one tree with every leaf: the inverse of partition."""
    return jax.tree.map(
        lambda left, right: right if left is None else left, trainable, frozen, is_leaf=lambda leaf: leaf is None
    )


@dataclasses.dataclass(frozen=True)
class TableRow:
    """One leaf in the table of parameters."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    trains: bool


def table(trainable: Tree, frozen: Tree) -> list[TableRow]:
    """Return every leaf and whether it trains, sorted by name."""
    rows = [
        TableRow(path_name(path), tuple(leaf.shape), str(leaf.dtype), trains)
        for tree, trains in ((trainable, True), (frozen, False))
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]
    return sorted(rows, key=lambda row: row.name)


def format_table(rows: list[TableRow]) -> str:
    """Return the table as text: name, dtype, whether it trains, shape."""
    width = max(len(row.name) for row in rows)
    return "\n".join(
        f"  {row.name:<{width}}  {row.dtype:<9} {'trains' if row.trains else 'frozen'}  {list(row.shape)}"
        for row in rows
    )
