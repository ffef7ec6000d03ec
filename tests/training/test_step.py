"""The compiled train step: what it touches, what it leaves alone, and what does not recompile it."""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finetune_scaling.data.objectives import prefix_lm
from finetune_scaling.data.packing import pack_batch
from finetune_scaling.data.tokenizers.interface import SpecialTokens
from finetune_scaling.training.compilations import compiled_programs
from finetune_scaling.training.optimizers import OptimizerConfig
from finetune_scaling.training.step import init_state, make_evaluation_step, make_train_step
from finetune_scaling.trees import path_name
from finetune_scaling.tuning.attach import attach, cast_frozen
from finetune_scaling.tuning.method import configure
from finetune_scaling.tuning.registry import METHODS

SPECIAL = SpecialTokens(bos_id=2, eos_id=1, mode_ids={}, sentinel_ids=())
ROW = 14
OPTIMIZER = OptimizerConfig()
BLOCKS = {"full": {}, "prompt": {"length": 3}, "lora": {"rank": 3}}
RATES = {"full": 0.03, "prompt": 0.3, "lora": 0.1}
each_method = pytest.mark.parametrize("name", BLOCKS)


def text_batch(seed: int = 0):
    """Four texts of unequal targets: the first half of the rows has 5 target tokens, the second 19."""
    rng = np.random.default_rng(seed)
    sizes = [(4, 1), (6, 2), (2, 9), (5, 8)]
    texts = [prefix_lm(rng.integers(4, 61, m), rng.integers(4, 61, n), SPECIAL, bidirectional=True) for m, n in sizes]
    return pack_batch([[text] for text in texts], ROW)


def leaves(tree) -> dict[str, np.ndarray]:
    return {path_name(path): np.array(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def start(tuned, name: str):
    """Tuning, state and frozen parameters of a method whose leaves have moved a little already."""
    tuning, trainable, frozen = tuned(name, noise=0.1, **BLOCKS[name])
    return tuning, init_state(jax.tree.map(jnp.copy, trainable), OPTIMIZER), frozen


@each_method
def test_a_step_returns_the_trained_leaves_alone_and_leaves_the_rest_as_it_was(tiny_config, tuned, name):
    """Twelve steps lower the loss; nothing frozen is donated, changed, returned or known to the optimizer."""
    tuning, state, frozen = start(tuned, name)
    step = make_train_step(tiny_config, tuning, OPTIMIZER)
    before, shapes = leaves(frozen), jax.tree.map(jnp.shape, state)
    trained = leaves(state.trainable)
    losses = []
    for _ in range(12):
        state, metrics = step(state, frozen, text_batch(), jnp.float32(RATES[name]))
        losses.append(float(metrics.loss_sum))
    assert metrics.tokens == 24
    assert losses[-1] < 0.99 * losses[0]
    assert jax.tree.map(jnp.shape, state) == shapes
    after = leaves(state.trainable)
    assert all((after[leaf] != trained[leaf]).any() for leaf in trained)
    jax.tree.map(np.testing.assert_array_equal, leaves(frozen), before)
    moments = {leaf for leaf, array in leaves(state.optimizer).items() if array.ndim}
    assert all(moment.endswith(tuple(f"/{leaf}" for leaf in trained)) for moment in moments)


def equations(jaxpr) -> Iterator:
    """All equations of a jaxpr and of those inside it."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, list | tuple) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from equations(inner)


@each_method
def test_no_gradient_of_a_frozen_matrix_is_computed(tiny_config, tuned, name):
    """No value in the whole step has the shape of a frozen matrix, or of its layers' stack: not even an update."""
    tuning, state, frozen = start(tuned, name)
    step = make_train_step(tiny_config, tuning, OPTIMIZER)
    jaxpr = step.trace(state, frozen, text_batch(), jnp.float32(0.1)).jaxpr.jaxpr
    made = {variable.aval.shape for equation in equations(jaxpr) for variable in equation.outvars}

    stacks = {leaf.shape for leaf in jax.tree.leaves(tuned("full", noise=0.1).trainable) if leaf.ndim > 1}
    matrices = stacks | {shape[1:] for shape in stacks if len(shape) == 3}
    expected = matrices if name == "full" else set()
    assert made & matrices == expected


def test_accumulated_parts_give_the_step_of_the_whole_batch(tiny_config, tuned):
    """Though one half has 5 target tokens and the other 19: sums are accumulated, not means."""
    outcomes = []
    for parts in (1, 2):
        tuning, state, frozen = start(tuned, "lora")
        step = make_train_step(tiny_config, tuning, OPTIMIZER, parts)
        outcomes.append(step(state, frozen, text_batch(), jnp.float32(0.1)))
    whole, accumulated = outcomes
    assert whole[1].tokens == accumulated[1].tokens == 24
    jax.tree.map(lambda left, right: np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-5), whole, accumulated)


def test_a_batch_without_targets_changes_nothing(tiny_config, tuned):
    tuning, state, frozen = start(tuned, "lora")
    before = leaves(state.trainable)
    batch = {name: np.zeros_like(array) for name, array in text_batch().items()}
    state, metrics = make_train_step(tiny_config, tuning, OPTIMIZER)(state, frozen, batch, jnp.float32(0.1))
    assert (metrics.loss_sum, metrics.tokens, metrics.gradient_norm) == (0, 0, 0)
    jax.tree.map(np.testing.assert_array_equal, leaves(state.trainable), before)


def test_evaluation_gives_the_losses_that_training_sees(tiny_config, tuned):
    tuning, state, frozen = start(tuned, "lora")
    sums, tokens = make_evaluation_step(tiny_config, tuning)(state.trainable, frozen, text_batch())
    np.testing.assert_array_equal(tokens, [2, 3, 10, 9])
    _, metrics = make_train_step(tiny_config, tuning, OPTIMIZER)(state, frozen, text_batch(), jnp.float32(0.1))
    np.testing.assert_allclose(sums.sum(), metrics.loss_sum, rtol=1e-5)


@each_method
def test_other_data_seeds_and_rates_compile_nothing(tiny_config, tiny_base, name):
    """From attaching the method to the step, a second run of the same shape finds every program made."""
    counts = []
    for seed, rate in ((1, 0.1), (2, 0.02), (3, 0.3)):
        before = compiled_programs()
        tuning = configure(METHODS, {"name": name, **BLOCKS[name]})
        trainable, frozen = attach(tiny_config, tuning, jax.random.key(seed), tiny_base, range(8, 61))
        state = init_state(jax.tree.map(jnp.copy, trainable), OptimizerConfig())
        step = make_train_step(tiny_config, tuning, OptimizerConfig())
        for k in range(2):
            state, metrics = step(state, frozen, text_batch(seed + k), jnp.float32(rate))
        assert np.isfinite(metrics.loss_sum)
        counts.append(compiled_programs() - before)
    assert counts[1:] == [0, 0]


def test_with_a_bfloat16_base_what_trains_stays_float32(tiny_config, tuned):
    half = dataclasses.replace(tiny_config, compute_dtype="bfloat16")
    outcomes = []
    for config in (tiny_config, half):
        tuning, state, frozen = start(tuned, "lora")
        step = make_train_step(config, tuning, OPTIMIZER)
        outcomes.append(step(state, cast_frozen(frozen, config.compute_dtype), text_batch(), jnp.float32(0.1)))
    (_, exact), (state, rounded) = outcomes
    assert {leaf.dtype for leaf in jax.tree.leaves(state.trainable)} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in rounded} == {jnp.dtype("float32")}
    np.testing.assert_allclose(rounded.loss_sum, exact.loss_sum, rtol=0.03)
    np.testing.assert_allclose(rounded.gradient_norm, exact.gradient_norm, rtol=0.1)
