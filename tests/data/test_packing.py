"""Packing: every item once, rows within capacity and well filled, and masks that separate segments."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_scaling.data.objectives import causal, prefix_lm
from finetune_scaling.data.packing import assign_items, fill_rate, pack_batch, plan_packing
from finetune_scaling.data.tokenizers.interface import SpecialTokens

SPECIAL = SpecialTokens(bos_id=2, eos_id=1, mode_ids={}, sentinel_ids=())


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 50), max_size=200), st.integers(1, 8))
def test_every_item_is_in_exactly_one_row_within_capacity(lengths, window):
    plan = plan_packing(np.array(lengths, np.int64), 50, window=window)
    assert sorted(plan.items.tolist()) == list(range(len(lengths)))
    for row in range(plan.rows):
        assert 1 <= sum(lengths[item] for item in plan.row(row)) <= 50


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=200))
def test_no_two_neighbouring_rows_would_fit_into_one(lengths):
    """The guarantee of next-fit, window = 1: at least half of the tokens are used, except in the last row."""
    plan = plan_packing(np.array(lengths), 50, window=1)
    sums = [sum(lengths[item] for item in plan.row(row)) for row in range(plan.rows)]
    assert all(a + b > 50 for a, b in itertools.pairwise(sums))


def test_fill_rate_of_text_like_lengths():
    lengths = np.random.default_rng(0).integers(5, 80, size=5000)
    plan = plan_packing(lengths, 128)
    assert fill_rate(plan, lengths, 128) > 0.97
    assert fill_rate(plan, lengths, 128) == lengths.sum() / (plan.rows * 128)


@pytest.mark.parametrize("lengths", [[3, 51], [0, 3]])
def test_items_longer_than_a_row_are_an_error(lengths):
    with pytest.raises(ValueError, match="do not fit rows of 50"):
        plan_packing(np.array(lengths), 50)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 6), max_size=60), st.integers(0, 1000))
def test_assignment_respects_sizes(sizes, seed):
    sizes = np.array(sizes, np.int64)
    slots = np.random.default_rng(seed).permutation(sizes)
    items = assign_items(sizes, slots, np.random.default_rng(seed))
    assert sorted(items.tolist()) == list(range(len(sizes)))
    np.testing.assert_array_equal(sizes[items], slots)


def test_assignment_is_uniform_among_equal_sizes():
    counts = np.zeros((3, 3))
    for seed in range(3000):
        counts[np.arange(3), assign_items(np.ones(3), np.ones(3), np.random.default_rng(seed))] += 1
    np.testing.assert_allclose(counts / 3000, 1 / 3, atol=0.03)


def test_golden_row():
    first = prefix_lm(np.array([10]), np.array([20, 21]), SPECIAL, bidirectional=True)
    second = prefix_lm(np.array([11, 12]), np.array([22]), SPECIAL, bidirectional=False)
    row = pack_batch([[first, second]], 10)
    assert {name: array[0].astype(int).tolist() for name, array in row.items()} == {
        "tokens": [2, 10, 20, 21, 2, 11, 12, 22, 0, 0],
        "targets": [10, 20, 21, 1, 11, 12, 22, 1, 0, 0],
        "weights": [0, 1, 1, 1, 0, 0, 1, 1, 0, 0],
        "positions": [0, 1, 2, 3, 0, 1, 2, 3, 0, 0],
        "segments": [1, 1, 1, 1, 2, 2, 2, 2, 0, 0],
        "prefix": [1, 1, 0, 0, 0, 0, 0, 0, 0, 0],
    }
    assert {name: array.dtype for name, array in row.items()} == {
        "tokens": np.int32, "targets": np.int32, "weights": np.float32, "positions": np.int32, "segments": np.int32,
        "prefix": np.bool_,
    }  # fmt: skip


def test_causal_rows_have_no_prefix():
    texts = [causal(np.array([10, 11]), SPECIAL), causal(np.array([12]), SPECIAL)]
    expected = pack_batch([texts], 8)
    assert not expected.pop("prefix").any()
    found = pack_batch([texts], 8, bidirectional=False)
    assert list(found) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
    with pytest.raises(ValueError, match="bidirectional"):
        pack_batch([[prefix_lm(np.array([1]), np.array([2]), SPECIAL, bidirectional=True)]], 8, bidirectional=False)


def test_changing_a_sequence_changes_only_its_segment():
    sequences = [prefix_lm(np.array([10 + i]), np.array([20, 21]), SPECIAL, bidirectional=True) for i in range(3)]
    changed = prefix_lm(np.array([99]), np.array([98, 97]), SPECIAL, bidirectional=True)
    before, after = pack_batch([sequences], 16), pack_batch([[sequences[0], changed, sequences[2]]], 16)
    for name in before:
        np.testing.assert_array_equal(before[name][before["segments"] != 2], after[name][before["segments"] != 2])


def test_rows_of_a_batch_may_be_empty_but_not_too_long():
    sequence = prefix_lm(np.array([10]), np.array([20]), SPECIAL, bidirectional=True)
    batch = pack_batch([[sequence], []], 4)
    assert batch["tokens"].shape == (2, 4)
    assert not any(array[1].any() for array in batch.values())
    with pytest.raises(ValueError, match="broadcast"):
        pack_batch([[sequence, sequence]], 4)
