"""Sampling: the distributions of closed forms and of transformers' warpers, and seeds that no batch changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from scipy import stats
from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from finetune_scaling.decoding.search import RowInputs
from finetune_scaling.decoding.single_sequence import Sampling

DRAWS, STEPS = 4000, 5  # examples, and tokens of each
PLAIN = {"temperature": 1.0, "top_k": None, "top_p": None, "min_p": None}


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.7},
        {"top_k": 5},
        {"top_p": 0.8},
        {"top_p": 0.01},  # never less than one token
        {"min_p": 0.2},
        {"temperature": 1.5, "top_k": 40, "top_p": 0.9, "min_p": 0.05},
    ],
    ids=lambda options: " ".join(options),
)
def test_what_is_left_is_what_transformers_leaves(options):
    logits = np.random.default_rng(0).normal(size=(8, 100), scale=2).astype(np.float32)
    warpers = {
        "temperature": TemperatureLogitsWarper, "top_k": TopKLogitsWarper, "top_p": TopPLogitsWarper,
        "min_p": MinPLogitsWarper,
    }  # fmt: skip
    expected = torch.from_numpy(logits)
    for name, value in options.items():
        expected = warpers[name](value)(None, expected)
    warped = Sampling(**{**PLAIN, **options}, seed=0).warp(jnp.asarray(logits))
    np.testing.assert_array_equal(np.isneginf(warped), np.isneginf(expected.numpy()))
    np.testing.assert_allclose(warped, expected.numpy(), rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.5, 0.25, 0.15, 0.1]),
        ({"temperature": 0.5}, [0.25 / 0.345, 0.0625 / 0.345, 0.0225 / 0.345, 0.01 / 0.345]),
        ({"top_k": 2}, [2 / 3, 1 / 3, 0, 0]),
        ({"top_p": 0.76}, [5 / 9, 2.5 / 9, 1.5 / 9, 0]),
        ({"min_p": 0.4}, [2 / 3, 1 / 3, 0, 0]),
    ],
    ids=["plain", "temperature", "top_k", "top_p", "min_p"],
)
def test_draws_have_the_distribution_of_the_closed_form(options, expected):
    logits = jnp.broadcast_to(jnp.log(jnp.array([0.5, 0.25, 0.15, 0.1])), (DRAWS, 4))
    row = RowInputs(jnp.ones(DRAWS, jnp.int32), jnp.arange(DRAWS, dtype=jnp.int32))
    draw = jax.jit(Sampling(**{**PLAIN, **options}, seed=3))
    counts = sum(np.bincount(np.asarray(draw(logits, row, jnp.int32(step))), minlength=4) for step in range(STEPS))
    possible = np.array(expected) > 0
    assert counts[~possible].sum() == 0
    fit = stats.chisquare(counts[possible], DRAWS * STEPS * np.array(expected)[possible])
    assert fit.pvalue > 1e-3


def test_samples_of_a_seed_do_not_depend_on_the_batch_size(llama, fully_tuned, decode, prompts):
    model = llama()
    tuned = fully_tuned(model.config, model.params)
    options = {"method": "sample", "temperature": 1.2, "top_p": 0.9, "seed": 7}
    together = decode(tuned, prompts, **options)
    assert decode(tuned, prompts, batch_size=2, **options) == together


def test_another_seed_draws_other_tokens():
    row = RowInputs(jnp.ones(20, jnp.int32), jnp.arange(20, dtype=jnp.int32))
    first, second = (Sampling(**PLAIN, seed=seed)(jnp.zeros((20, 50)), row, jnp.int32(0)) for seed in (7, 8))
    assert first.tolist() != second.tolist()


def test_examples_and_tokens_are_sampled_independently(llama, fully_tuned, decode, prompts):
    """One prompt several times gives several texts, though the seed is one."""
    model = llama()
    texts = decode(fully_tuned(model.config, model.params), [prompts[1]] * 5, method="sample", eos_id=-1)
    assert len({tuple(best.tokens) for (best,) in texts}) == 5
    assert all(len(set(best.tokens)) > 3 for (best,) in texts)
