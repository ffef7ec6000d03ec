"""What each method trains, in which dtype, what it costs the base (nothing), and where it starts (at the base)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finetune_scaling.errors import ConfigError
from finetune_scaling.models.language_model import LanguageModel
from finetune_scaling.models.token_layout import TokenLayout
from finetune_scaling.trees import flatten, parameter_count, path_name
from finetune_scaling.tuning.attach import attach
from finetune_scaling.tuning.method import configure
from finetune_scaling.tuning.partition import combine
from finetune_scaling.tuning.registry import METHODS

BASE = {
    "embedding",
    "final_norm/scale",
    "layers/norm/scale",
    *(f"layers/attention/{name}/kernel" for name in ("query", "key", "value", "attention_out")),
    *(f"layers/feed_forward/{name}/kernel" for name in ("gate", "up", "down")),
}
COMMON = range(8, 61)


def names(tree) -> set[str]:
    return {path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)}


def factors(*layers: str) -> set[str]:
    return {f"layers/{layer}/lora_{factor}" for layer in layers for factor in "ab"}


ALL_DENSE = tuple(name.removeprefix("layers/").removesuffix("/kernel") for name in BASE if name.endswith("kernel"))


@pytest.mark.parametrize(
    ("block", "trains", "added"),
    [
        ({"name": "full"}, BASE, set()),
        ({"name": "prompt", "length": 5}, {"prompt/embedding"}, {"prompt/embedding"}),
        ({"name": "lora", "rank": 3}, factors(*ALL_DENSE), factors(*ALL_DENSE)),
        (
            {"name": "lora", "targets": ["query", "down"]},
            factors("attention/query", "feed_forward/down"),
            factors("attention/query", "feed_forward/down"),
        ),
    ],
    ids=["full", "prompt", "lora", "lora on two layers"],
)
def test_exactly_these_leaves_train(tiny_config, tiny_base, block, trains, added):
    before = jax.tree.map(np.array, tiny_base)
    half = dataclasses.replace(tiny_config, compute_dtype="bfloat16")
    tuning = configure(METHODS, block)
    trainable, frozen = attach(half, tuning, jax.random.key(1), tiny_base, COMMON)

    assert names(trainable) == trains
    assert names(frozen) == (BASE | added) - trains
    assert {leaf.dtype for leaf in jax.tree.leaves(trainable)} == {jnp.dtype("float32")}
    for name, leaf in flatten(frozen).items():
        assert leaf.dtype == (jnp.float32 if name.endswith(("scale", "bias")) else jnp.bfloat16)
    jax.tree.map(np.testing.assert_array_equal, tiny_base, before)


def test_numbers_of_trained_parameters_are_the_closed_forms(tiny_config, tuned):
    c = tiny_config
    assert parameter_count(tuned("prompt", length=5).trainable) == 5 * c.model_dim
    query, key = c.heads * c.head_dim, c.kv_heads * c.head_dim
    sides = [(c.model_dim, query), (c.model_dim, key), (c.model_dim, key), (query, c.model_dim)]
    sides += [(c.model_dim, c.ffn_dim), (c.model_dim, c.ffn_dim), (c.ffn_dim, c.model_dim)]
    assert parameter_count(tuned("lora", rank=3).trainable) == c.layers * 3 * sum(map(sum, sides))


def test_frozen_leaves_of_the_right_dtype_are_the_bases_own(tiny_base, tuned):
    """No copy is made: many runs share one base in memory."""
    frozen = tuned("prompt", length=5).frozen
    for name in ("embedding", "final_norm", "layers"):
        shared = jax.tree.map(lambda left, right: left is right, frozen[name], tiny_base[name])
        assert all(jax.tree.leaves(shared))


def test_without_a_base_a_new_model_trains(tiny_config):
    one_layer = dataclasses.replace(tiny_config, layers=1)
    first, second, again = (
        attach(one_layer, configure(METHODS, {"name": "full"}), jax.random.key(seed))[0] for seed in (0, 1, 0)
    )
    assert names(first) == BASE
    assert not jnp.array_equal(first["embedding"], second["embedding"])
    jax.tree.map(np.testing.assert_array_equal, first, again)


def test_every_method_starts_with_exactly_the_bases_logits(tiny_config, tiny_base):
    """LoRA's B is zero; a prompt of length 0 is no prompt. Equal to the bit."""
    tokens = np.random.default_rng(0).integers(tiny_config.vocab_size, size=(2, 9))
    positions = jnp.broadcast_to(jnp.arange(9), tokens.shape)
    layout = TokenLayout(positions, jnp.ones_like(positions), jnp.zeros(tokens.shape, bool))

    def logits(block):
        tuning = configure(METHODS, block)
        model = LanguageModel(tiny_config, tuning.adapter)
        params = combine(*attach(tiny_config, tuning, jax.random.key(1), tiny_base, COMMON))

        def compute(params):
            hidden, _ = model.forward(params, *tuning.embed(model, params, tokens, layout))
            return model.unembed(params, hidden)

        return jax.jit(compute)(params)

    expected = logits({"name": "full"})
    np.testing.assert_array_equal(logits({"name": "lora", "rank": 3, "alpha": 6.0}), expected)
    np.testing.assert_array_equal(logits({"name": "prompt", "length": 0}), expected)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"name": "lorra"}, r"method\.name = 'lorra' is unknown; did you mean 'lora'"),
        ({}, r"method\.name = '' is unknown"),
        ({"name": "lora", "length": 3}, r"method\.length is not a field of method"),
        ({"name": "full", "rank": 3}, r"method\.rank is not a field of method"),
        ({"name": "lora", "rank": 0}, r"method\.rank = 0 must be at least 1"),
        ({"name": "lora", "targets": ["query", "head"]}, r"method\.targets = .* must name some of query, key"),
        ({"name": "lora", "targets": []}, r"method\.targets = \[\] must name some of"),
        ({"name": "prompt", "length": -1}, r"method\.length = -1 must not be negative"),
        ({"name": "prompt", "length": "5"}, r"method\.length = '5' has the wrong type: expected int"),
        ({"name": "prompt", "frequent": 0}, r"method\.frequent = 0 must be at least 1"),
    ],
)
def test_mistakes_in_a_method_are_named(block, message):
    with pytest.raises(ConfigError, match=message):
        configure(METHODS, block)
