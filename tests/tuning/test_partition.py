"""One rule divides the parameters: nothing is lost, nothing is in both parts, and a rule must match."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_scaling.errors import ConfigError
from finetune_scaling.trees import merge, parameter_count, path_name
from finetune_scaling.tuning.partition import combine, format_table, partition, table

TREE = {
    "embedding": np.zeros((5, 2)),
    "layers": {"norm": {"scale": np.zeros(2)}, "up": {"kernel": np.zeros((2, 3)), "lora_a": np.zeros((2, 1))}},
}


def names(tree) -> set[str]:
    return {path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.mark.parametrize(
    ("rule", "trains"),
    [
        (".*", {"embedding", "layers/norm/scale", "layers/up/kernel", "layers/up/lora_a"}),
        ("embedding", {"embedding"}),
        (".*/(scale|lora_a)", {"layers/norm/scale", "layers/up/lora_a"}),
    ],
)
def test_leaves_whose_whole_name_matches_train(rule, trains):
    trainable, frozen = partition(TREE, rule)
    assert names(trainable) == trains
    assert names(frozen) == names(TREE) - trains


@pytest.mark.parametrize("rule", ["kernel", "layers/up", "prompt/embedding", ""])
def test_a_rule_that_matches_nothing_is_an_error_that_names_what_there_is(rule):
    with pytest.raises(ConfigError, match=r"matches no parameter; there are: embedding, layers/norm/scale"):
        partition(TREE, rule)


trees = st.recursive(
    st.integers(0, 9).map(np.array),
    lambda branches: st.dictionaries(st.sampled_from("abc"), branches, min_size=1),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from("abc"), trees, min_size=1), st.sampled_from(["a", ".*b", ".*/c", "[ab]/.*"]))
def test_trainable_and_frozen_are_all_and_combine_to_the_whole(tree, rule):
    try:
        trainable, frozen = partition(tree, rule)
    except ConfigError:
        return
    assert names(trainable) | names(frozen) == names(tree)
    assert not names(trainable) & names(frozen)
    assert parameter_count(trainable) + parameter_count(frozen) == parameter_count(tree)
    assert combine(trainable, frozen) == tree
    assert combine(frozen, trainable) == tree
    assert merge(merge({}, frozen), trainable) == tree


def test_grafting_adds_and_replaces_and_leaves_its_arguments_alone():
    base = {"a": {"x": 1, "y": 2}, "b": 3}
    assert merge(base, {"a": {"y": 5, "z": 6}, "b": None, "c": {"w": 7}}) == {
        "a": {"x": 1, "y": 5, "z": 6},
        "b": 3,
        "c": {"w": 7},
    }
    assert base == {"a": {"x": 1, "y": 2}, "b": 3}


def test_the_table_says_of_every_leaf_whether_it_trains():
    rows = table(*partition(TREE, ".*lora_a"))
    assert [(row.name, row.shape, row.trains) for row in rows] == [
        ("embedding", (5, 2), False),
        ("layers/norm/scale", (2,), False),
        ("layers/up/kernel", (2, 3), False),
        ("layers/up/lora_a", (2, 1), True),
    ]
    text = format_table(rows).splitlines()
    assert ["trains" in line for line in text] == [False, False, False, True]
    assert "[2, 1]" in text[3]
