"""The loader: golden batches, batch k a pure function of (seed, k), epochs, packing, instant starts."""

import random
import threading
import time

import numpy as np
import pytest

from finetune_scaling.data.encoding import SequenceFormat
from finetune_scaling.data.loader import (
    encode_corpus,
    evaluation_batches,
    finetuning_batches,
    iterate,
    pretraining_batches,
    pretraining_evaluation_batches,
)
from finetune_scaling.data.objectives import ObjectiveConfig
from finetune_scaling.data.templates import Template
from finetune_scaling.errors import ConfigError, DataError

SEQUENCE_FORMAT = SequenceFormat(length=48, max_source_tokens=16, max_target_tokens=16, bidirectional_input=True)
WORDS = ["".join(random.Random(i).choices("abcdefghijklmnopqrstuvwxyz", k=2 + i % 5)) for i in range(300)]
TEXTS = [" ".join(random.Random(i).choices(WORDS, k=1 + i % 17)) for i in range(200)]
TEMPLATE = Template("{source}\n")


def _example(source, target):
    return {"source": source, "target": target, "source_language": "A", "target_language": "B"}


EXAMPLES = [_example(f"s {i}", f"t {i}") for i in range(23)]


def _pretraining(tokenizer, texts=TEXTS, make=pretraining_batches, name="ul2", length=64, **settings):
    objective = ObjectiveConfig(name)
    documents = encode_corpus(texts, tokenizer, objective, length)
    return make(documents, tokenizer, objective, length=length, **settings)


@pytest.fixture(scope="module")
def finetuning(tokenizer):
    return finetuning_batches(EXAMPLES, tokenizer, TEMPLATE, SEQUENCE_FORMAT, batch_size=4, seed=0)


def _targets(batch, tokenizer):
    """The target text of every segment of a batch, in order."""
    texts = []
    for row in range(len(batch["tokens"])):
        for segment in range(1, batch["segments"][row].max() + 1):
            here = (batch["segments"][row] == segment) & (batch["weights"][row] > 0)
            texts.append(tokenizer.decode(batch["targets"][row][here]))
    return texts


def _equal(left, right):
    return left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)


def test_golden_evaluation_batch(tokenizer):
    examples = [_example("a", "b"), _example("", "")]
    sequence_format = SequenceFormat(length=6, max_source_tokens=2, max_target_tokens=2, bidirectional_input=True)
    batches = evaluation_batches(examples, tokenizer, TEMPLATE, sequence_format, batch_size=3)
    a, b, newline = tokenizer.encode("a")[0], tokenizer.encode("b")[0], tokenizer.encode("\n")[0]
    assert tokenizer.encode("a\n") == [a, newline]
    assert len(batches) == 1
    assert {name: array.astype(int).tolist() for name, array in batches[0].items()} == {
        "tokens": [[2, a, newline, b, 0, 0], [2, newline, 0, 0, 0, 0], [0] * 6],
        "targets": [[a, newline, b, 1, 0, 0], [newline, 1, 0, 0, 0, 0], [0] * 6],
        "weights": [[0, 0, 1, 1, 0, 0], [0, 1, 0, 0, 0, 0], [0] * 6],
        "positions": [[0, 1, 2, 3, 0, 0], [0, 1, 0, 0, 0, 0], [0] * 6],
        "segments": [[1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0], [0] * 6],
        "prefix": [[1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0], [0] * 6],
        "example": [0, 1, -1],
    }
    assert sum(batch["weights"].sum() for batch in batches) == 3


def test_evaluation_sees_every_example_once_in_order(tokenizer):
    batches = evaluation_batches(EXAMPLES, tokenizer, TEMPLATE, SEQUENCE_FORMAT, batch_size=5)
    assert len(batches) == 5
    assert {batch["tokens"].shape for batch in batches} == {(5, 48)}
    assert np.concatenate([batch["example"] for batch in batches]).tolist() == [*range(23), -1, -1]
    assert [text for batch in batches for text in _targets(batch, tokenizer)] == [e["target"] for e in EXAMPLES]


def test_every_epoch_has_every_example_once_in_another_order(finetuning, tokenizer):
    seen = [text for step in range(23) for text in _targets(finetuning[step], tokenizer)]
    epochs = [seen[i : i + 23] for i in range(0, 92, 23)]
    assert all(sorted(epoch) == sorted(e["target"] for e in EXAMPLES) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert finetuning.batches_per_epoch == 23 / 4


def test_a_batch_depends_only_on_seed_and_index(finetuning, tokenizer):
    again = finetuning_batches(EXAMPLES, tokenizer, TEMPLATE, SEQUENCE_FORMAT, batch_size=4, seed=0)
    other = finetuning_batches(EXAMPLES, tokenizer, TEMPLATE, SEQUENCE_FORMAT, batch_size=4, seed=1)
    assert _equal(again[1000], finetuning[1000])
    assert _equal(again[3], finetuning[3])
    assert not _equal(other[3], finetuning[3])


def test_neighbouring_seeds_do_not_share_epochs(tokenizer):
    """The order of epoch 1 under seed 0 must differ from that of epoch 0 under seed 1."""
    first, second = (
        finetuning_batches(EXAMPLES, tokenizer, TEMPLATE, SEQUENCE_FORMAT, batch_size=23, seed=seed) for seed in (0, 1)
    )
    assert _targets(first[1], tokenizer) != _targets(second[0], tokenizer)


def test_the_examples_of_a_step_do_not_depend_on_the_batch_shards(finetuning, tokenizer):
    halves = finetuning_batches(EXAMPLES, tokenizer, TEMPLATE, SEQUENCE_FORMAT, batch_size=2, seed=0)
    for step in (0, 5, 77):
        joined = _targets(halves[2 * step], tokenizer) + _targets(halves[2 * step + 1], tokenizer)
        assert joined == _targets(finetuning[step], tokenizer)


def test_packed_finetuning_has_every_example_once_an_epoch(tokenizer):
    sequence_format = SequenceFormat(length=24, max_source_tokens=8, max_target_tokens=8)
    batches = finetuning_batches(
        EXAMPLES, tokenizer, TEMPLATE, sequence_format, batch_size=1, seed=0, pack=True, row_length=40
    )
    assert batches.rows_per_epoch < 23
    neighbours = set()
    for epoch in range(3):
        rows = [batches[epoch * batches.rows_per_epoch + row] for row in range(batches.rows_per_epoch)]
        texts = [tuple(_targets(row, tokenizer)) for row in rows]
        assert sorted(text for row in texts for text in row) == sorted(e["target"] for e in EXAMPLES)
        neighbours.add(tuple(sorted(tuple(sorted(row)) for row in texts)))
    assert len(neighbours) == 3  # each epoch, other examples share a row
    assert batches[0]["tokens"].shape == (1, 40)
    assert batches.statistics["fill_rate"] > 0.7


@pytest.mark.parametrize("name", ["causal", "prefix_lm", "ul2"])
def test_pretraining_has_every_text_once_an_epoch(tokenizer, name):
    batches = _pretraining(tokenizer, name=name, batch_size=1, seed=0)
    total = sum(len(tokenizer.encode(text)) for text in TEXTS)
    assert batches.statistics["text_tokens"] == total
    special = {*range(4), *tokenizer.special_tokens.mode_ids.values(), *tokenizer.special_tokens.sentinel_ids}
    expected = np.sort(np.concatenate([tokenizer.encode(text) for text in TEXTS]))
    for epoch in (0, 1, 7):
        rows = [batches[epoch * batches.rows_per_epoch + row] for row in range(batches.rows_per_epoch)]
        tokens = np.concatenate([row["targets"][row["segments"] > 0] for row in rows])
        np.testing.assert_array_equal(np.sort(tokens[~np.isin(tokens, list(special))]), expected)
    assert batches.statistics["fill_rate"] > 0.9


@pytest.mark.parametrize("objective", ["causal", "prefix_lm", "ul2"])
def test_only_the_last_chunk_of_a_document_has_eos(tokenizer, objective):
    batches = list(
        _pretraining(
            tokenizer, [" ".join(WORDS)], pretraining_evaluation_batches, objective, length=32, batch_size=2, seed=0
        )
    )
    assert sum(int((batch["targets"] == tokenizer.eos_id).sum()) for batch in batches) == 1
    if objective == "causal":
        assert sum(batch["weights"].sum() for batch in batches) == len(tokenizer.encode(" ".join(WORDS))) + 1


def test_pretraining_noise_depends_on_epoch_and_seed(tokenizer):
    def make(seed):
        return _pretraining(tokenizer, batch_size=2, seed=seed)

    first, again, other = make(0), make(0), make(1)
    late_step = 5000
    assert _equal(first[late_step], again[late_step])
    assert not _equal(first[late_step], other[late_step])
    epoch = first.rows_per_epoch
    losses = {sum(first[step]["weights"].sum() for step in range(e * epoch, (e + 1) * epoch)) for e in (0, 1)}
    assert len(losses) == 2


def test_pretraining_evaluation_is_finite_and_fixed(tokenizer):
    def make():
        return _pretraining(tokenizer, make=pretraining_evaluation_batches, batch_size=7, seed=3)

    batches = make()
    assert len(batches) == -(-batches.rows_per_epoch // 7)
    assert all(_equal(*pair) for pair in zip(batches, make(), strict=True))
    assert not batches[len(batches) - 1]["segments"][-(-batches.rows_per_epoch % -7) or 7 :].any()


def test_iteration_equals_indexing_from_any_step(finetuning):
    for start, buffer in ((0, 1), (17, 4), (18, 9)):
        iterator = iterate(finetuning, start, buffer)
        for step in range(start, start + 6):
            assert _equal(next(iterator), finetuning[step])
        iterator.close()


def test_iteration_can_start_at_a_late_step_immediately(tokenizer):
    batches = _pretraining(tokenizer, batch_size=2, seed=0)
    begin = time.perf_counter()
    late = next(iterate(batches, 10**9))
    assert time.perf_counter() - begin < 1
    assert late["tokens"].shape == (2, 64)


def test_iteration_of_a_finite_dataset_ends(tokenizer):
    batches = evaluation_batches(EXAMPLES, tokenizer, TEMPLATE, SEQUENCE_FORMAT, batch_size=5)
    assert [batch["example"][0] for batch in iterate(batches, 2)] == [10, 15, 20]
    with pytest.raises(IndexError):
        batches[5]


def test_closed_iterators_leave_no_threads(finetuning):
    before = threading.active_count()
    for _ in range(20):
        iterator = iterate(finetuning)
        next(iterator)
        iterator.close()
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert threading.active_count() <= before


def test_too_few_sentinels_are_an_error_with_the_required_number(tokenizer):
    with pytest.raises(ConfigError, match=r"masks up to 64 spans.*30 sentinels.*sentinels >= 64"):
        encode_corpus(TEXTS, tokenizer, ObjectiveConfig(), 512)


def test_contradicting_settings_and_missing_data(tokenizer):
    with pytest.raises(ConfigError, match="row_length = 20 is shorter"):
        finetuning_batches(
            EXAMPLES, tokenizer, TEMPLATE, SEQUENCE_FORMAT, batch_size=2, seed=0, pack=True, row_length=20
        )
    with pytest.raises(ConfigError, match="row_length is for packed rows"):
        finetuning_batches(EXAMPLES, tokenizer, TEMPLATE, SEQUENCE_FORMAT, batch_size=2, seed=0, row_length=64)
    with pytest.raises(DataError, match="no examples"):
        finetuning_batches([], tokenizer, TEMPLATE, SEQUENCE_FORMAT, batch_size=2, seed=0)
    with pytest.raises(DataError, match="no text"):
        encode_corpus([""], tokenizer, ObjectiveConfig(), 64)
