"""The largest of many without a sort: what a sort gives, ties included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_scaling.decoding.selection import argmax, threshold, top_k

SIZES = st.sampled_from([1, 63, 64, 65, 1000])
kth_largest = jax.jit(lambda values, k: threshold(values, lambda among: among.sum(-1) >= k))
few_values = st.integers(0, 2**31 - 1).map(np.random.default_rng)  # many ties


@settings(max_examples=25, deadline=None)
@given(few_values, SIZES)
def test_the_likeliest_is_argmax(rng, size):
    logits = rng.integers(-3, 3, size=(2, 3, size)).astype(np.float32)
    np.testing.assert_array_equal(argmax(jnp.asarray(logits)), logits.argmax(-1))


@pytest.mark.parametrize("size", [4, 64, 700, 8192])
def test_the_k_largest_are_those_of_top_k(size):
    rng, count = np.random.default_rng(0), 4
    for logits in (rng.normal(size=(3, 2, size)), rng.integers(-9, 9, size=(3, 2, size))):
        values, places = jax.jit(top_k, static_argnums=1)(jnp.asarray(logits, jnp.float32), count)
        expected = jax.lax.top_k(jnp.asarray(logits, jnp.float32), count)
        np.testing.assert_array_equal(values, expected[0])
        np.testing.assert_array_equal(places, expected[1])


def test_logits_of_minus_infinity_are_no_trouble():
    logits = jnp.full((1, 500), -jnp.inf).at[0, 333].set(1.0)
    values, places = top_k(logits, 2)
    assert (values[0, 0], int(places[0, 0])) == (1.0, 333)
    assert int(places[0, 1]) < 500


@settings(max_examples=25, deadline=None)
@given(few_values, st.sampled_from([1, 65, 1000]), st.sampled_from([1, 7, 20]))
def test_the_threshold_of_the_k_largest_is_the_kth(rng, size, k):
    values = np.where(rng.random((2, size)) < 0.3, 0.0, rng.normal(size=(2, size))).astype(np.float32)
    found = kth_largest(jnp.asarray(values), k)
    expected = np.sort(values, axis=-1)[:, -k] if k <= size else np.full(2, -np.inf)
    np.testing.assert_array_equal(found, expected)
