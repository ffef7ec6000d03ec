"""Which keys a query sees, against the rule written out pair by pair, and attention against plain NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_scaling.models.attention import Scoring, attend
from finetune_scaling.models.token_layout import PADDING, SOFT_PROMPT, TokenLayout, attention_mask
from finetune_scaling.tuning.method import prepend

LENGTH = 9


def sees(query: tuple[int, int, bool], key: tuple[int, int, bool], window: int | None) -> bool:
    """The rule for one pair of (position, segment, prefix)."""
    if key[1] == PADDING or (window is not None and not -window < key[0] - query[0] < window):
        return False
    if query[1] == SOFT_PROMPT and query[2] and key[2]:
        return True
    if key[1] == SOFT_PROMPT and query[1] != SOFT_PROMPT:
        return key[0] <= query[0]
    return key[1] == query[1] and (key[0] <= query[0] or key[2])


tokens = st.tuples(st.integers(0, 5), st.integers(-1, 2), st.booleans()).map(
    lambda token: (token[0], token[1], token[2] and token[1] != PADDING)
)


@settings(max_examples=100, deadline=None)
@given(st.lists(tokens, min_size=LENGTH, max_size=LENGTH), st.sampled_from([None, 1, 2, 4, 100]))
def test_visibility_is_the_rule_for_every_pair(row, window):
    positions, segments, prefix = (np.array([column]) for column in zip(*row, strict=True))
    layout = TokenLayout(positions, segments, prefix)
    expected = [[sees(query, key, window) for key in row] for query in row]
    np.testing.assert_array_equal(np.asarray(attention_mask(layout, layout, window))[0], expected)


@pytest.mark.parametrize(
    ("attends_to_input", "drawing"),
    [
        (False, "x...... xx..... xxxx... xxxx... xxxxx.. xxxxxx. xx....."),
        (True, "xxxx... xxxx... xxxx... xxxx... xxxxx.. xxxxxx. xx....."),
    ],
)
def test_a_prompt_may_attend_to_the_input_of_a_prefix_lm(attends_to_input, drawing):
    """Two prompt tokens, an input of two, a target of two, one token of padding."""
    text = TokenLayout(
        positions=jnp.array([[0, 1, 2, 3, 0]]),
        segments=jnp.array([[1, 1, 1, 1, 0]]),
        prefix=jnp.array([[True, True, False, False, False]]),
    )
    _, layout = prepend(jnp.zeros((2, 4)), jnp.zeros((1, 5, 4)), text, attends_to_input)
    expected = [[mark == "x" for mark in line] for line in drawing.split()]
    np.testing.assert_array_equal(np.asarray(attention_mask(layout, layout))[0], expected)


@pytest.mark.parametrize("segments", [[[1, 1, 2]], [[1, 1, 1]]], ids=["packed", "causal"])
def test_a_prompt_stays_causal_without_one_input_of_its_own(segments):
    prefix = jnp.array([[len(set(segments[0])) == 2, False, False]])
    text = TokenLayout(jnp.array([[0, 1, 0]]), jnp.array(segments), prefix)
    layouts = [prepend(jnp.zeros((2, 4)), jnp.zeros((1, 3, 4)), text, attends)[1] for attends in (False, True)]
    np.testing.assert_array_equal(*(attention_mask(layout, layout) for layout in layouts))


def test_a_packed_row_with_a_prompt_looks_as_drawn():
    """Two prompt tokens; a prefix LM with an input of two; a causal text of two; one token of padding."""
    packed = TokenLayout(
        positions=jnp.array([[0, 1, 2, 0, 1, 0]]),
        segments=jnp.array([[1, 1, 1, 2, 2, 0]]),
        prefix=jnp.array([[True, True, False, False, False, False]]),
    )
    _, layout = prepend(jnp.zeros((2, 4)), jnp.zeros((1, 6, 4)), packed)
    drawing = """
        x.......
        xx......
        xxxx....
        xxxx....
        xxxxx...
        xx...x..
        xx...xx.
        xx......
    """
    expected = [[mark == "x" for mark in line] for line in drawing.split()]
    np.testing.assert_array_equal(np.asarray(attention_mask(layout, layout))[0], expected)


def test_a_window_counts_a_soft_prompt_as_the_text_before():
    """Two prompt tokens and a text of four, with a window of three: the prompt leaves the window."""
    text = TokenLayout(jnp.arange(4)[None], jnp.ones((1, 4), int), jnp.zeros((1, 4), bool))
    _, layout = prepend(jnp.zeros((2, 4)), jnp.zeros((1, 4, 4)), text)
    expected = np.tri(6, dtype=bool) & ~np.tri(6, k=-3, dtype=bool)
    np.testing.assert_array_equal(np.asarray(attention_mask(layout, layout, 3))[0], expected)


def test_a_layout_without_inputs_is_causal():
    segments = jnp.array([[1, 1, 1, 2, 2, PADDING]])
    layout = TokenLayout(jnp.array([[0, 1, 2, 0, 1, 0]]), segments, jnp.zeros((1, 6), bool))
    np.testing.assert_array_equal(*(attention_mask(each, each) for each in (layout, layout._replace(prefix=None))))


def softmax_attention(query, keys, values, mask, scale, cap):
    """One head at a time: query [L, H], keys and values [S, H], mask [L, S]."""
    scores = query @ keys.T * scale
    scores = np.where(mask, scores if cap is None else cap * np.tanh(scores / cap), -np.inf)
    weights = np.exp(scores - scores.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True) @ values


@pytest.mark.parametrize(
    ("kv_heads", "scalar", "cap"), [(1, None, None), (2, None, None), (4, None, None), (2, 11.0, 0.7)]
)
def test_every_head_attends_to_the_keys_of_its_group(kv_heads, scalar, cap):
    rng = np.random.default_rng(kv_heads)
    query = rng.normal(size=(2, 5, 4, 6))
    keys, values = rng.normal(size=(2, 2, 7, kv_heads, 6))
    mask = rng.random((2, 5, 7)) < 0.6
    mask[:, :, 0] = True
    run = jax.jit(functools.partial(attend, scoring=Scoring(scalar, cap)))
    mixed = run(*(jnp.asarray(array, jnp.float32) for array in (query, keys, values)), mask)
    scale = (6 if scalar is None else scalar) ** -0.5
    for row, head in np.ndindex(2, 4):
        group = head // (4 // kv_heads)
        expected = softmax_attention(
            query[row, :, head], keys[row, :, group], values[row, :, group], mask[row], scale, cap
        )
        np.testing.assert_allclose(mixed[row, :, head], expected, atol=1e-5)


def test_a_query_that_sees_nothing_stays_finite():
    ones = jnp.ones((1, 3, 2, 4))
    assert jnp.isfinite(attend(ones, ones, ones, jnp.zeros((1, 3, 3), bool))).all()
