"""Bounds of blocks: no visible pair is omitted, and causal rows and prefix LMs keep no masked block."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_scaling.models.block_map import NO_WINDOW, block_map, fetched_blocks
from finetune_scaling.models.token_layout import PADDING, SOFT_PROMPT, TokenLayout, attention_mask

BLOCK, BLOCKS = 4, 6


def blocks_with_visible_pairs(layout, window):
    mask = np.array(attention_mask(layout, layout, window))
    mask &= (np.asarray(layout.segments) != PADDING)[:, :, None]  # what padding attends to does not matter
    return mask.reshape(len(mask), BLOCKS, BLOCK, BLOCKS, BLOCK).any(axis=(2, 4))


def row(prompt, texts):
    """Layout of one row: a soft prompt that belongs to the input, if any text has one, and (length, input) texts."""
    tokens = [(i, SOFT_PROMPT, len(texts) == 1 and texts[0][1] > 0) for i in range(prompt)]
    for segment, (length, size) in enumerate(texts, 1):
        tokens += [(prompt + i, segment, i < size) for i in range(length)]
    tokens += [(0, PADDING, False)] * (BLOCK * BLOCKS)
    fields = np.array(tokens)[: BLOCK * BLOCKS].T
    return TokenLayout(*(jnp.asarray(f[None], d) for f, d in zip(fields, (jnp.int32, jnp.int32, bool), strict=True)))


texts = st.lists(st.tuples(st.integers(1, 14), st.integers(0, 8)), min_size=1, max_size=4)


@given(st.integers(0, 6), texts, st.sampled_from([1, 3, 7, NO_WINDOW]))
@settings(max_examples=60, deadline=None)
def test_no_visible_pair_is_omitted(prompt, texts, window):
    layout = row(prompt, texts)
    assert not (blocks_with_visible_pairs(layout, window) & ~np.asarray(block_map(layout, window, BLOCK))).any()


@pytest.mark.parametrize("window", [3, 9, NO_WINDOW])
@pytest.mark.parametrize("size", [0, 7])
@pytest.mark.parametrize("prompt", [0, 5])
def test_rows_of_one_text_keep_no_masked_block(prompt, size, window):
    layout = row(prompt, [(15, size)])
    found = np.asarray(block_map(layout, window, BLOCK))
    np.testing.assert_array_equal(found, blocks_with_visible_pairs(layout, window))
    assert not found.all()


def test_packed_texts_are_not_read_by_blocks_of_others():
    layout = row(0, [(8, 0), (8, 3), (4, 0)])
    texts = np.array([1, 1, 2, 2, 3, 0])
    found = np.asarray(block_map(layout, NO_WINDOW, BLOCK))[0]
    np.testing.assert_array_equal(found, np.tril((texts[:, None] == texts) & (texts > 0)))


def test_masked_steps_read_the_block_that_is_there_already():
    visible = np.array([[False, True, False, True, False], [True, True, False, False, False], [False] * 5])
    expected = [[~1, 1, ~1, 3, ~3], [0, 1, ~1, ~1, ~1], [~0] * 5]
    np.testing.assert_array_equal(np.asarray(fetched_blocks(jnp.asarray(visible))), expected)
