"""LoRA against its formula, its options, and the merged model."""

import functools
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finetune_scaling.models.adapters import DenseLayer
from finetune_scaling.models.language_model import LanguageModel
from finetune_scaling.models.token_layout import TokenLayout
from finetune_scaling.tuning.lora import LoraAdapter, LoraOptions, build
from finetune_scaling.tuning.partition import combine

merge_adapter = runpy.run_path(str(Path(__file__).parents[1] / "merging.py"))["merge_adapter"]


def test_the_adapter_is_the_formula():
    rng = np.random.default_rng(0)
    arrays = {"lora_a": rng.normal(size=(6, 2)), "lora_b": rng.normal(size=(2, 5))}
    x, kernel, bias = rng.normal(size=(3, 6)), rng.normal(size=(6, 5)), rng.normal(size=5)
    parameter = lambda name, *_: jnp.asarray(arrays[name], jnp.float32)  # noqa: E731
    layer = DenseLayer("up", parameter, jnp.float32(kernel), jnp.float32(bias), None)
    ours = LoraAdapter(rank=2, scale=4.0, targets=("up",)).dense(layer, jnp.float32(x))
    expected = x @ kernel + bias + 4.0 * x @ arrays["lora_a"] @ arrays["lora_b"]
    np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize(("alpha", "scale"), [(None, 1.0), (16.0, 2.0), (4.0, 0.5)])
def test_scale_is_alpha_over_rank(alpha, scale):
    tuning = build(LoraOptions(rank=8, alpha=alpha))
    assert tuning.adapter.scale == scale
    assert tuning.size == 8
    stabilized = build(LoraOptions(rank=16, alpha=alpha, rank_stabilized=True))
    assert stabilized.adapter.scale == (4.0 if alpha is None else alpha / 4)


@functools.partial(jax.jit, static_argnums=0)
def hidden(model, params, tokens, layout):
    return model.forward(params, model.embed(params, tokens), layout)[0]


@pytest.mark.parametrize("targets", [("query", "down"), ("key", "value", "attention_out", "gate", "up")])
def test_merged_is_unmerged_and_not_the_base(tiny_config, tiny_base, tuned, targets):
    tuning, trainable, frozen = tuned("lora", rank=3, alpha=6.0, targets=targets)
    params = combine(trainable, frozen)
    _, merged = merge_adapter(tiny_config, tuning, params)
    assert jax.tree.structure(merged) == jax.tree.structure(tiny_base)
    tokens = np.random.default_rng(0).integers(tiny_config.vocab_size, size=(2, 9))
    positions = jnp.broadcast_to(jnp.arange(9), tokens.shape)
    layout = TokenLayout(positions, jnp.ones_like(positions), jnp.zeros(tokens.shape, bool))

    plain = LanguageModel(tiny_config)
    with_adapter = hidden(LanguageModel(tiny_config, tuning.adapter), params, tokens, layout)
    without, base = hidden(plain, merged, tokens, layout), hidden(plain, tiny_base, tokens, layout)
    np.testing.assert_allclose(without, with_adapter, atol=1e-4)
    assert jnp.abs(with_adapter - base).max() > 0.1
    changed = jax.tree.map(lambda left, right: bool((left != right).any()), merged, tiny_base)
    layers = {**changed["layers"]["attention"], **changed["layers"]["feed_forward"]}
    assert {name for name, leaf in layers.items() if leaf["kernel"]} == set(targets)
