"""Shardings of parameters and optimizer state, and the errors for meshes that do not divide a model."""

import dataclasses
import re

import grain
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from finetune_scaling.data.loader import Batches
from finetune_scaling.errors import ConfigError
from finetune_scaling.models.config import DENSE_LAYERS, ModelConfig
from finetune_scaling.models.ladder import PAPER_VOCABULARY, model_config
from finetune_scaling.models.language_model import LanguageModel
from finetune_scaling.models.model_sharding import (
    PARAMETER_AXES,
    SMALL,
    ModelSharding,
    check_fits,
    parameter_axes,
    sharding_table,
)
from finetune_scaling.sharding.axes import DEFAULT_RULES, MESH_AXES, AxisRules, shard_count
from finetune_scaling.sharding.mesh import ShardingConfig, check_batch, make_mesh
from finetune_scaling.training.optimizers import OptimizerConfig
from finetune_scaling.training.step import state_shardings
from finetune_scaling.trees import path_name
from finetune_scaling.tuning.attach import attach
from finetune_scaling.tuning.method import configure
from finetune_scaling.tuning.registry import METHODS

EVERYTHING = {
    "block": "sequential", "norm": "layernorm", "norm_place": "both", "qk_norm": "head", "biased": DENSE_LAYERS,
    "tied_head": False,
}  # fmt: skip
LLAMA = {"block": "sequential", "tied_head": False, "norm": "layernorm", "activation": "gelu"}
BIG = model_config({"name": "16b"}, PAPER_VOCABULARY)


def mesh(data: int, fsdp: int, tensor: int) -> AbstractMesh:
    return AbstractMesh((data, fsdp, tensor), MESH_AXES, axis_types=(AxisType.Auto,) * 3)


def abstract(config: ModelConfig, method: str, **options):
    tuning = configure(METHODS, {"name": method, **options})
    return jax.eval_shape(lambda: attach(config, tuning, jax.random.key(0), None, np.arange(8, 400)))


def spec_of(tree, name: str) -> tuple:
    found = {path_name(path): leaf.spec for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    return tuple(found[name])


@pytest.mark.parametrize("form", [{}, LLAMA, EVERYTHING])
def test_exactly_one_rule_matches_each_parameter(tiny_config, form):
    config = dataclasses.replace(tiny_config, **form)
    for path, leaf in jax.tree_util.tree_leaves_with_path(
        jax.eval_shape(LanguageModel(config).init, jax.random.key(0))
    ):
        name = path_name(path)
        assert sum(re.fullmatch(pattern, name) is not None for pattern, _ in PARAMETER_AXES) == 1, name
        assert len(parameter_axes(name)) == leaf.ndim, name


def test_a_large_model_is_sharded_over_all_devices():
    """Each of 8 x 4 devices holds a 32nd of 16B parameters; only multi-query keys, values and norms are replicated."""
    model_sharding = ModelSharding(BIG, mesh(1, 8, 4), DEFAULT_RULES)
    trainable, _ = abstract(BIG, "full")
    shardings = model_sharding.parameters(trainable)
    assert spec_of(shardings, "layers/feed_forward/up/kernel") == (None, "fsdp", "tensor")
    assert spec_of(shardings, "layers/attention/attention_out/kernel") == (None, "tensor", "fsdp")
    assert spec_of(shardings, "layers/attention/key/kernel") == (None, "fsdp", None)  # one head cannot be sharded
    held = sum(
        np.prod(where.shard_shape(leaf.shape))
        for leaf, where in zip(jax.tree.leaves(trainable), jax.tree.leaves(shardings), strict=True)
    )
    assert held < 1.03 * 15_440_491_520 / 32


def test_biases_are_sharded_as_the_outputs_of_their_layers(tiny_config):
    config = dataclasses.replace(tiny_config, **EVERYTHING)
    trainable, _ = abstract(config, "full")
    shardings = ModelSharding(config, mesh(1, 2, 4), DEFAULT_RULES).parameters(trainable)
    assert spec_of(shardings, "layers/attention/query/bias") == (None, "tensor")
    assert spec_of(shardings, "layers/attention/key/bias") == (
        None,
        None,
    )  # two heads cannot be split over four devices
    assert spec_of(shardings, "layers/feed_forward/up/bias") == (None, "tensor")
    assert spec_of(shardings, "layers/feed_forward/down/bias") == (None, None)


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_moments_are_sharded_as_their_parameters(optimizer):
    model_sharding = ModelSharding(BIG, mesh(1, 8, 4), DEFAULT_RULES)
    trainable, _ = abstract(BIG, "full")
    state = state_shardings(trainable, OptimizerConfig(name=optimizer), model_sharding)
    known = {path_name(path): leaf.spec for path, leaf in jax.tree_util.tree_leaves_with_path(state.trainable)}
    shapes = {path_name(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(trainable)}
    followed = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.optimizer):
        name = path_name(path)
        of = next((n for n in shapes if name.endswith("/" + n)), None)
        if (of is not None and "/mu/" in name) or "/nu/" in name:
            assert leaf.spec == known[of], name
            followed += 1
    assert followed == (2 * len(shapes) if optimizer == "adamw" else 0)


@pytest.mark.parametrize(("method", "options"), [("lora", {"rank": 4}), ("prompt", {"length": 100})])
def test_small_adapters_and_prompts_are_replicated_and_large_ones_sharded(method, options):
    model_sharding = ModelSharding(BIG, mesh(1, 8, 4), DEFAULT_RULES)
    trainable, frozen = abstract(BIG, method, **options)
    for leaf, where in zip(
        jax.tree.leaves(trainable), jax.tree.leaves(model_sharding.parameters(trainable)), strict=True
    ):
        sharded = any(where.spec)
        assert sharded == (leaf.size * 4 >= SMALL), (leaf.shape, where.spec)
    assert spec_of(model_sharding.parameters(frozen), "embedding") == ("tensor", "fsdp")


def test_the_table_shows_dtype_sharding_and_bytes_per_device():
    model_sharding = ModelSharding(BIG, mesh(1, 8, 4), DEFAULT_RULES)
    _, frozen = abstract(BIG, "lora", rank=4)
    text = sharding_table(frozen, model_sharding.parameters(frozen))
    (line,) = [line for line in text.splitlines() if "feed_forward/up/kernel" in line]
    assert "bfloat16" in line
    assert "1:fsdp 2:tensor" in line
    assert f"{40 * 5120 * 20480 * 2 // 32:,} bytes per device" in line


def test_the_table_omits_mesh_axes_of_size_one():
    _, frozen = abstract(BIG, "lora", rank=4)
    for sizes, expected in (((1, 8, 1), "1:fsdp"), ((8, 1, 1), "replicated")):
        text = sharding_table(frozen, ModelSharding(BIG, mesh(*sizes), DEFAULT_RULES).parameters(frozen))
        (line,) = [line for line in text.splitlines() if "feed_forward/up/kernel" in line]
        assert re.search(rf"\]  +{expected}  ", line), line
        assert "tensor" not in text


@pytest.mark.parametrize(
    ("sharding", "expected"),
    [
        ({"fsdp": 3}, "sharding.fsdp = 3 x sharding.tensor = 1 does not divide the 8 devices"),
        ({"fsdp": 0}, "sharding.fsdp = 0 must be at least 1"),
        ({"tensor": -1}, "sharding.tensor = -1"),
        ({"axes": AxisRules(heads=("expert",))}, "sharding.axes.heads names 'expert'"),
    ],
)
def test_an_invalid_mesh_is_an_error(sharding, expected):
    with pytest.raises(ConfigError, match=expected.replace(".", r"\.")):
        ShardingConfig(**sharding).shape(8)


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({"length": ("tensor",)}, "sharding.axes.length and sharding.axes.heads both name 'tensor'"),
        ({"length": ("fsdp",)}, "sharding.axes.batch and sharding.axes.length both name 'fsdp'"),
        ({"vocab": ("fsdp",), "embed": ()}, "sharding.axes.batch and sharding.axes.vocab both name 'fsdp'"),
        ({"embed": ("fsdp", "tensor")}, "both name 'tensor'"),
        ({"batch": ("data",)}, "sharding.axes.embed names 'fsdp', which sharding.axes.batch does not"),
    ],
)
def test_conflicting_axis_rules_are_an_error(rules, expected):
    with pytest.raises(ConfigError, match=expected.replace(".", r"\.")):
        ShardingConfig(axes=AxisRules(**rules))


def test_minus_one_takes_all_remaining_devices():
    assert ShardingConfig(fsdp=-1, tensor=2).shape(8) == (1, 4, 2)
    assert ShardingConfig(fsdp=2, tensor=2).shape(8) == (2, 2, 2)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [((1, 1, 8), "model.heads = 20 "), ((1, 3, 1), "model.model_dim = 5120 "), ((1, 1, 3), "model.heads = 20 ")],
)
def test_a_mesh_that_does_not_divide_the_model_is_an_error(sizes, expected):
    with pytest.raises(ConfigError, match=expected):
        check_fits(BIG, ShardingConfig(), mesh(*sizes))


def test_a_batch_size_that_is_not_divisible_is_an_error():
    check_batch(16, 2, ShardingConfig(), mesh(2, 4, 1))
    with pytest.raises(ConfigError, match=r"batch.size = 12 .* 8 .* batch.accumulation = 1"):
        check_batch(12, 1, ShardingConfig(), mesh(2, 4, 1))
    with pytest.raises(ConfigError, match=r"batch\.accumulation = 3"):
        check_batch(16, 3, ShardingConfig(), mesh(2, 4, 1))


def test_a_mesh_of_one_device_replicates_everything():
    one = make_mesh(ShardingConfig(fsdp=-1))
    assert one.size == jax.device_count() == 1
    assert shard_count(one, DEFAULT_RULES.batch) == 1
    assert NamedSharding(one, PartitionSpec("fsdp")).is_fully_replicated


def numbers(count: int, size: int) -> Batches:
    keys = grain.MapDataset.range(count).batch(size, batch_fn=list)
    return Batches(keys, lambda rows: {"row": [-1 if row is None else row for row in rows]}, size, count, {})


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 12), st.integers(1, 40), st.integers(1, 5))
def test_shards_of_enlarged_batches_hold_each_row_once(size, shards, batches):
    """For any number of processes, the shards concatenate to the rows in order, and only the last batch is padded."""
    complete = numbers(size * batches, size)
    enlarged = complete.enlarged(shards)
    assert enlarged.batch_size == size + -size % shards
    assert len(enlarged) == -(-size * batches // enlarged.batch_size)
    each = enlarged.batch_size // shards
    parts = [enlarged.select_rows(range(s * each, (s + 1) * each)) for s in range(shards)]
    rows = [row for number in range(len(enlarged)) for part in parts for row in part[number]["row"]]
    assert rows == [*range(size * batches), *[-1] * (len(rows) - size * batches)]
