"""Analytic FLOPs against a count of all matrix products in the traced programs."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finetune_scaling.models.config import ModelConfig, count_parameters
from finetune_scaling.models.ladder import model_config, paper_model
from finetune_scaling.models.language_model import LanguageModel
from finetune_scaling.training.flops import (
    attention_flops_per_token,
    forward_flops_per_token,
    training_flops,
    training_flops_per_token,
)
from finetune_scaling.training.loss import loss_sum_and_count
from finetune_scaling.tuning.attach import attach
from finetune_scaling.tuning.method import configure
from finetune_scaling.tuning.partition import combine
from finetune_scaling.tuning.registry import METHODS

BATCH, LENGTH = 2, 48


def products(jaxpr) -> float:
    """Multiply-adds of a jaxpr's matrix products, times two; a scan's body counts once per layer."""
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shared = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            total += 2.0 * shared * math.prod(equation.outvars[0].aval.shape)
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                total += equation.params.get("length", 1) * products(inner)
    return total


def counted(config: ModelConfig, tuning, *, training: bool) -> float:
    """Of one position, in the traced loss or its gradient, attention scores halved since half of them are masked."""
    trainable, frozen = jax.eval_shape(
        lambda rng: attach(config, tuning, rng, None, jnp.arange(8, config.vocab_size)), jax.random.key(0)
    )
    integers = jax.ShapeDtypeStruct((BATCH, LENGTH), jnp.int32)
    batch = dict.fromkeys(("tokens", "targets", "positions", "segments"), integers)
    batch |= {
        "weights": jax.ShapeDtypeStruct((BATCH, LENGTH), jnp.float32),
        "prefix": jax.ShapeDtypeStruct((BATCH, LENGTH), bool),
    }
    model = LanguageModel(config, tuning.adapter)

    def loss(trainable, frozen, batch):
        return loss_sum_and_count(model, tuning, combine(trainable, frozen), batch)[0]

    function = jax.grad(loss) if training else loss
    total = products(jax.make_jaxpr(function)(trainable, frozen, batch).jaxpr) / (BATCH * LENGTH)
    scores = 4 * config.layers * config.heads * config.head_dim * LENGTH
    return total - scores / 2 * (3 if training else 1)


def test_a_forward_pass_costs_two_operations_a_weight_and_half_of_attention():
    config = model_config({"name": "30k"}, vocab_size=300)
    weights = count_parameters(config)
    attention = 2 * config.layers * config.model_dim * LENGTH
    expected = 2 * weights.total + attention
    assert forward_flops_per_token(config, LENGTH) == expected
    assert math.isclose(counted(config, configure(METHODS, {"name": "full"}), training=False), expected, rel_tol=0.01)


@pytest.mark.parametrize(
    "block", [{"name": "full"}, {"name": "lora", "rank": 1, "targets": ["query"]}], ids=["full", "lora"]
)
@pytest.mark.parametrize("form", [{}, {"kv_heads": 2, "tied_head": False, "activation": "gelu", "block": "sequential"}])
def test_training_costs_what_its_program_multiplies(block, form):
    config = model_config({"name": "30k", "max_length": 64, **form}, vocab_size=300)
    tuning = configure(METHODS, block)
    expected = counted(config, tuning, training=True)
    assert math.isclose(training_flops_per_token(config, tuning, LENGTH), expected, rel_tol=0.02)


@pytest.mark.parametrize(("window", "pattern"), [(None, (True,)), (7, (True,)), (7, (False, True)), (500, (True,))])
def test_local_layers_attend_to_their_window(window, pattern):
    """Against a count of who sees whom, of which the formula takes each token itself by half."""
    config = model_config({"name": "30k", "window": window, "window_pattern": pattern}, vocab_size=300)
    position = np.arange(LENGTH)
    distance = position[:, None] - position
    pairs = [((distance >= 0) & (distance < (window if local else LENGTH))).sum() for local in config.local_layers]
    expected = 4 * config.heads * config.head_dim * sum(pairs) / LENGTH
    assert math.isclose(attention_flops_per_token(config, LENGTH), expected, rel_tol=0.08)


def test_large_models_cost_6n_and_4n_a_token():
    config = paper_model("16b")
    parameters = count_parameters(config).total
    for name, factor in (("full", 6), ("lora", 4), ("prompt", 4)):
        ratio = training_flops_per_token(config, configure(METHODS, {"name": name}), 512) / parameters
        assert factor <= ratio < 1.02 * factor


def test_a_run_costs_its_positions_soft_prompts_included():
    config = model_config({"name": "30k"}, vocab_size=300)
    for block, row in (({"name": "full"}, 48), ({"name": "prompt", "length": 16}, 64), ({"name": "lora"}, 48)):
        tuning = configure(METHODS, block)
        expected = 10 * 8 * row * training_flops_per_token(config, tuning, row)
        np.testing.assert_allclose(training_flops(config, tuning, steps=10, batch_size=8, length=48), expected)
