"""Analytic FLOPs against a count of all matrix products in traced programs."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finetune_scaling.models.config import ModelConfig, count_parameters
from finetune_scaling.models.ladder import PAPER_VOCABULARY, model_config
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
    """Count the FLOPs of the traced loss or its gradient, with half of the attention scores, which are masked."""
    trainable, frozen = jax.eval_shape(
        lambda rng: attach(config, tuning, rng, None, range(8, config.vocab_size)), jax.random.key(0)
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
    total = products(jax.make_jaxpr(function)(trainable, frozen, batch).jaxpr)
    positions = LENGTH + tuning.prompt_length
    scores = 4 * config.layers * config.heads * config.head_dim * BATCH * positions**2
    # A soft prompt's hidden states reach no loss: its positions are not unembedded.
    head = 2 * BATCH * tuning.prompt_length * config.vocab_size * config.model_dim * (2 if training else 1)
    return total + head - scores / 2 * (3 if training else 1)


def test_a_forward_pass_costs_two_operations_a_weight_and_half_of_attention():
    config = model_config({"name": "30k"}, vocab_size=300)
    weights = count_parameters(config)
    attention = 2 * config.layers * config.model_dim * LENGTH
    expected = 2 * weights.total + attention
    assert forward_flops_per_token(config, LENGTH) == expected
    total = counted(config, configure(METHODS, {"name": "full"}), training=False)
    assert math.isclose(total / (BATCH * LENGTH), expected, rel_tol=0.01)


BLOCKS = {name: {"name": name} for name in METHODS}
BLOCKS["lora, rank 64"] = {"name": "lora", "rank": 64}
BLOCKS["dora, rank 64"] = {"name": "dora", "rank": 64}
BLOCKS["prefix, MLP"] = {"name": "prefix", "mlp_width": 64}


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
@pytest.mark.parametrize("form", [{}, {"kv_heads": 2, "tied_head": False, "activation": "gelu", "block": "sequential"}])
def test_training_flops_are_those_of_the_traced_program(block, form):
    """Every adapter's matrices count, forward and backward, and DoRA's norms and a prefix's MLP once per step."""
    config = model_config({"name": "100k", "max_length": 256, **form, "heads": 4, "head_dim": 16}, vocab_size=300)
    tuning = configure(METHODS, block)
    expected = counted(config, tuning, training=True)
    assert math.isclose(training_flops(config, tuning, 1, BATCH, LENGTH), expected, rel_tol=0.01)


@pytest.mark.parametrize(("window", "pattern"), [(None, (True,)), (7, (True,)), (7, (False, True)), (500, (True,))])
def test_local_layers_attend_to_their_window(window, pattern):
    """Against a count of visible pairs; the formula counts each token's own score by half."""
    config = model_config({"name": "30k", "window": window, "window_pattern": pattern}, vocab_size=300)
    position = np.arange(LENGTH)
    distance = position[:, None] - position
    pairs = [((distance >= 0) & (distance < (window if local else LENGTH))).sum() for local in config.local_layers]
    expected = 4 * config.heads * config.head_dim * sum(pairs) / LENGTH
    assert math.isclose(attention_flops_per_token(config, LENGTH), expected, rel_tol=0.08)


def test_large_models_cost_6n_and_4n_a_token():
    config = model_config({"name": "16b"}, PAPER_VOCABULARY)
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
