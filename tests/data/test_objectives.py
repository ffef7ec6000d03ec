"""Objectives: golden sequences, and properties of span corruption for every denoiser and length."""

import collections

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_scaling import configuration
from finetune_scaling.data.objectives import (
    UL2_DENOISERS,
    Denoiser,
    ObjectiveConfig,
    apply_objective,
    causal,
    denoise,
    max_text_tokens,
    prefix_lm,
    required_sentinels,
    sample_denoisers,
    sequence_lengths,
    split_prefix,
)
from finetune_scaling.data.tokenizers.interface import SpecialTokens
from finetune_scaling.errors import ConfigError

SENTINELS = tuple(range(100, 200))
SPECIAL = SpecialTokens(bos_id=2, eos_id=1, mode_ids={"R": 4, "X": 5, "S": 6}, sentinel_ids=SENTINELS)
UL2 = ObjectiveConfig()


def _ids(n: int) -> np.ndarray:
    return np.arange(1000, 1000 + n, dtype=np.int32)


def _as_lists(sequence):
    return [field.astype(int).tolist() for field in sequence]


def _dtypes(sequence):
    return [field.dtype for field in sequence]


def test_golden_causal():
    sequence = causal(_ids(3), SPECIAL)
    assert _as_lists(sequence) == [
        [2, 1000, 1001, 1002],
        [1000, 1001, 1002, 1],
        [1, 1, 1, 1],
        [0, 0, 0, 0],
    ]
    assert _dtypes(sequence) == [np.int32, np.int32, np.float32, np.bool_]


def test_golden_causal_without_eos():
    assert _as_lists(causal(_ids(3), SPECIAL, append_eos=False)) == [
        [2, 1000, 1001],
        [1000, 1001, 1002],
        [1, 1, 1],
        [0, 0, 0],
    ]


def test_golden_sequences_without_bos():
    """The first token, without a preceding one, is not predicted."""
    without = SPECIAL._replace(bos_id=None)
    assert _as_lists(causal(_ids(3), without))[:3] == [[1000, 1001, 1002], [1001, 1002, 1], [1, 1, 1]]
    sequence = prefix_lm(np.array([10, 11]), np.array([20, 21]), without, bidirectional=True)
    assert _as_lists(sequence) == [[10, 11, 20, 21], [11, 20, 21, 1], [0, 1, 1, 1], [1, 1, 0, 0]]


@pytest.mark.parametrize("bidirectional", [False, True])
def test_golden_prefix_lm(bidirectional):
    sequence = prefix_lm(np.array([10, 11]), np.array([20, 21, 22]), SPECIAL, bidirectional=bidirectional)
    assert _as_lists(sequence) == [
        [2, 10, 11, 20, 21, 22],
        [10, 11, 20, 21, 22, 1],
        [0, 0, 1, 1, 1, 1],
        [1, 1, 1, 0, 0, 0] if bidirectional else [0] * 6,
    ]


def test_golden_denoise():
    sequence = denoise(_ids(8), Denoiser("X", 0.5, 2), SPECIAL, np.random.default_rng(3), bidirectional=True)
    assert _as_lists(sequence) == [
        [2, 5, 1000, 1001, 100, 1003, 1004, 101, 100, 1002, 101, 1005, 1006, 1007],
        [5, 1000, 1001, 100, 1003, 1004, 101, 100, 1002, 101, 1005, 1006, 1007, 1],
        [0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1],
        [1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0],
    ]
    assert _dtypes(sequence) == [np.int32, np.int32, np.float32, np.bool_]


def test_golden_split_prefix_with_its_mode():
    sequence = split_prefix(_ids(4), 0.5, SPECIAL, np.random.default_rng(0), bidirectional=False, mode="S")
    assert _as_lists(sequence)[1:] == [[6, 1000, 1001, 1002, 1003, 1], *_as_lists(sequence)[2:]]
    assert sequence.weights.sum() == np.random.default_rng(0).integers(1, 5) + 1


@pytest.mark.parametrize(
    "objective", [UL2, ObjectiveConfig("prefix_lm"), ObjectiveConfig("causal")], ids=lambda o: o.name
)
@pytest.mark.parametrize("variant", range(len(UL2_DENOISERS)))
def test_a_chunk_that_its_document_continues_has_no_eos(objective, variant):
    whole, cut = (
        apply_objective(_ids(20), variant, objective, SPECIAL, np.random.default_rng(0), append_eos=eos)
        for eos in (True, False)
    )
    assert whole.targets[-1] == SPECIAL.eos_id
    assert _as_lists(cut) == [field[:-1] for field in _as_lists(whole)]


@settings(max_examples=400, deadline=None)
@given(st.integers(1, 300), st.integers(0, len(UL2_DENOISERS) - 1), st.integers(0, 2**32 - 1))
def test_denoisers_keep_every_token_and_have_the_predicted_length(n, variant, seed):
    sequence = apply_objective(_ids(n), variant, UL2, SPECIAL, np.random.default_rng(seed))
    assert len(sequence.tokens) == sequence_lengths(np.array([n]), np.array([variant]), UL2)[0]
    denoiser = UL2.denoisers[variant]
    s = sequence.targets.tolist()
    assert sequence.tokens.tolist() == [2, *s[:-1]]
    assert s[0] == SPECIAL.mode_ids[denoiser.mode]
    assert s[-1] == 1
    start = int(np.argmax(sequence.weights))
    assert sequence.weights.tolist() == [0.0] * start + [1.0] * (len(s) - start)
    assert sequence.prefix.tolist() == [True] * (start + 1) + [False] * (len(s) - start - 1)
    assert _restored(s[1:start], s[start:-1]) == _ids(n).tolist()


def _restored(inputs: list[int], targets: list[int]) -> list[int]:
    """Replace sentinels by the spans of the target."""
    spans: dict[int, list[int]] = {}
    for token in targets:
        if token in SENTINELS:
            assert token == SENTINELS[len(spans)]  # in order, each once
            spans[token] = []
        elif spans:
            spans[next(reversed(spans))].append(token)
    if not spans:
        return inputs + targets
    assert all(spans.values())
    assert [token for token in inputs if token in SENTINELS] == list(spans)
    return [token for item in inputs for token in spans.get(item, [item])]


@pytest.mark.parametrize("denoiser", [d for d in UL2_DENOISERS if d.mode != "S"], ids=str)
def test_rate_and_mean_span_match_the_config(denoiser):
    n = 512
    sequence = denoise(_ids(n), denoiser, SPECIAL, np.random.default_rng(0), bidirectional=True)
    target = sequence.targets[sequence.weights > 0][:-1]
    spans = np.isin(target, SENTINELS).sum()
    masked = len(target) - spans
    assert masked == round(n * denoiser.rate)
    assert spans == round(masked / denoiser.mean_span)


def test_every_position_is_masked_equally_often_in_short_texts():
    """T5's mask always includes the last token; with one span per text, only that would ever be predicted."""
    rng = np.random.default_rng(0)
    counts = collections.Counter[int]()
    for _ in range(4000):
        sequence = denoise(_ids(13), Denoiser("R", 0.15, 3), SPECIAL, rng, bidirectional=True)
        counts.update(sequence.targets[sequence.weights > 0].tolist())
    starts = np.array([counts[1000 + i] for i in range(13)])
    # Two of thirteen are masked: the span starts at any of twelve positions, so the ends are masked half as often.
    np.testing.assert_allclose(starts / 4000, [1 / 12, *[2 / 12] * 11, 1 / 12], atol=0.025)


def test_prefix_split_is_uniform_up_to_twice_the_rate():
    rng = np.random.default_rng(0)
    sizes = [split_prefix(_ids(40), 0.25, SPECIAL, rng, bidirectional=True).weights.sum() - 1 for _ in range(4000)]
    assert min(sizes) == 1
    assert max(sizes) == 20
    assert np.mean(sizes) == pytest.approx(10.5, abs=0.4)


def test_mixture_follows_its_weights_and_its_modes():
    rng = np.random.default_rng(0)
    counts = collections.Counter(UL2.denoisers[index].mode for index in sample_denoisers(4000, UL2, rng))
    shares = {mode: counts[mode] / 4000 for mode in "RXS"}
    assert shares == pytest.approx({"R": 0.25, "X": 0.5, "S": 0.25}, abs=0.03)


def test_same_generator_state_gives_the_same_sequence():
    first, again, other = (
        _as_lists(apply_objective(_ids(50), 0, UL2, SPECIAL, np.random.default_rng([7, seed]))) for seed in (3, 3, 4)
    )
    assert first == again != other


def test_other_objectives_have_no_mixture():
    for name in ("causal", "prefix_lm"):
        config = ObjectiveConfig(name=name)
        assert not sample_denoisers(9, config, np.random.default_rng(0)).any()
        sequence = apply_objective(_ids(9), 0, config, SPECIAL, np.random.default_rng(0))
        assert sequence.targets.tolist() == [*_ids(9).tolist(), 1]
        assert required_sentinels(128, config) == 0
        assert max_text_tokens(128, config) == 127


@pytest.mark.parametrize("length", [8, 64, 128, 512, 1024])
def test_max_text_tokens_fit_and_one_more_does_not(length):
    size = max_text_tokens(length, UL2)
    variants = np.arange(len(UL2.denoisers))
    assert sequence_lengths(np.full(7, size), variants, UL2).max() <= length
    assert sequence_lengths(np.full(7, size + 1), variants, UL2).max() > length


def test_required_sentinels_is_the_maximum_over_text_lengths():
    for length in (16, 128, 333):
        lengths = np.arange(1, max_text_tokens(length, UL2) + 1)
        most = max(
            (sequence_lengths(lengths, np.full_like(lengths, v), UL2) - lengths - 2).max() // 2 for v in range(6)
        )
        assert required_sentinels(length, UL2) == most


def test_a_row_too_short_for_any_text_is_an_error():
    with pytest.raises(ConfigError, match="length = 3 is too short"):
        max_text_tokens(3, UL2)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"mode": "Q", "rate": 0.1, "mean_span": 3}, "mode"),
        ({"mode": "R", "rate": 0.0, "mean_span": 3}, "rate = 0.0"),
        ({"mode": "R", "rate": 0.1}, "mean_span = 0.0"),
        ({"mode": "S", "rate": 0.6}, "rate = 0.6"),
        ({"mode": "X", "rate": 0.5, "mean_span": 3, "weight": 0.0}, "weight = 0.0"),
    ],
)
def test_impossible_denoisers_are_refused_by_field(fields, named):
    with pytest.raises(ConfigError, match=named):
        configuration.build(Denoiser, fields, "denoiser")


def test_ul2_without_denoisers_is_refused():
    with pytest.raises(ConfigError, match="denoisers is empty"):
        ObjectiveConfig(denoisers=())
