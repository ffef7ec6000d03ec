"""Hints of order change no number: values, gradients, and what a step of the model computes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finetune_scaling.models import layers
from finetune_scaling.models.language_model import LanguageModel
from finetune_scaling.models.optimization_barriers import delay_gradient, delay_read, delay_use
from finetune_scaling.training.loss import loss_sum_and_count
from finetune_scaling.tuning import lora
from finetune_scaling.tuning.partition import combine

X, Y = jnp.arange(6.0).reshape(2, 3), jnp.linspace(1, 2, 6).reshape(2, 3)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: jnp.sin(delay_read(x)) * 2,
        lambda x: jnp.sin(delay_use(x, Y)) * 2,
        lambda x: jnp.sin(delay_gradient(x, (Y, X))) * 2,
    ],
)
def test_what_is_given_comes_back_with_its_gradient(function):
    for transformed in (lambda f: f, jax.jit, jax.checkpoint):
        value, pull = jax.vjp(transformed(function), X)
        np.testing.assert_allclose(value, 2 * jnp.sin(X), rtol=1e-6)
        np.testing.assert_allclose(pull(Y)[0], 2 * jnp.cos(X) * Y, rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(function)(X), 2 * jnp.sin(X), rtol=1e-6)


def test_what_is_waited_for_has_no_gradient_of_it():
    waited = jax.grad(lambda y: (delay_use(X, y) * X).sum() + delay_gradient(X, (y, y)).sum())(Y)
    np.testing.assert_array_equal(waited, jnp.zeros_like(Y))


@pytest.mark.parametrize(
    ("method", "remat", "dtype"),
    [
        ("full", "none", "bfloat16"),
        ("full", "full", "bfloat16"),
        ("lora", "none", "float32"),
        ("lora", "full", "float32"),
    ],
)
def test_a_model_has_the_same_gradients_without_them(method, remat, dtype, tuned, tiny_config, monkeypatch):
    """To the last bit but for the order of sums: each program is compiled for itself."""
    config = dataclasses.replace(tiny_config, remat=remat, compute_dtype=dtype)
    decoder = tuned(method, **({"rank": 3} if method == "lora" else {}))
    rng = np.random.default_rng(0)
    tokens = rng.integers(config.vocab_size, size=(3, 17)).astype(np.int32)
    batch = {
        "tokens": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "weights": np.ones((3, 16), np.float32),
        "positions": np.tile(np.arange(16, dtype=np.int32), (3, 1)),
        "segments": np.ones((3, 16), np.int32),
        "prefix": np.zeros((3, 16), bool),
    }

    def gradient():
        model = LanguageModel(config, decoder.tuning.adapter)
        loss = lambda tree: loss_sum_and_count(model, decoder.tuning, combine(tree, decoder.frozen), batch)[0]  # noqa: E731
        return jax.jit(jax.grad(loss))(decoder.trainable)

    ours = gradient()
    monkeypatch.setattr(layers, "delay_read", lambda parameter: parameter)
    monkeypatch.setattr(layers, "delay_gradient", lambda y, products: y)
    monkeypatch.setattr(lora, "delay_use", lambda early, late: early)
    tolerance = 1e-5 if dtype == "float32" else 2e-2
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(gradient()), strict=True):
        np.testing.assert_allclose(one, other, atol=tolerance * float(jnp.abs(other).max()))
