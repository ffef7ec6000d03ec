"""Subsets are nested, keep shares and depend only on their seed."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_scaling.data.examples import interleaving_order, subset
from finetune_scaling.data.task import load_task
from finetune_scaling.errors import DataError

SIZES = {"de": 30, "en": 101, "zh": 7}


@pytest.fixture
def examples(tmp_path):
    def part(code: str) -> dict:
        path = tmp_path / f"{code}.jsonl"
        rows = [{"text": f"{code} text {i}" + " x" * i, "summary": f"{code} {i}"} for i in range(SIZES[code])]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        fields = {"source_field": "text", "target_field": "summary"}
        return {
            "source": {"kind": "files", "path": str(path)}, **fields, "source_language": code, "target_language": code
        }  # fmt: skip

    return load_task({"name": "toy", "kind": "summarization", "train": [part(code) for code in SIZES]}).examples(
        "train"
    )


def test_parts_are_concatenated(examples):
    assert len(examples) == 138
    assert [examples[i]["target"] for i in (0, 29, 30, 130, 131, 137, -1)] == [
        "de 0", "de 29", "en 0", "en 100", "zh 0", "zh 6", "zh 6"
    ]  # fmt: skip
    assert len({example["target"] for example in examples}) == 138
    assert examples.counts() == SIZES


def test_subsets_are_nested_permutations(examples):
    permutation = [example["target"] for example in subset(examples, 138, seed=3)]
    assert sorted(permutation) == sorted(example["target"] for example in examples)
    for size in (1, 2, 17, 100, 137):
        assert [example["target"] for example in subset(examples, size, seed=3)] == permutation[:size]
    other = [example["target"] for example in subset(examples, 138, seed=4)]
    assert other != permutation


def test_every_prefix_keeps_the_shares(examples):
    for size in range(1, 139):
        counts = subset(examples, size, seed=0).counts()
        assert all(abs(counts[code] - size * SIZES[code] / 138) < 1 for code in SIZES)


@settings(deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=8))
def test_interleaving_differs_by_less_than_one_from_the_shares(sizes):
    total, taken = sum(sizes), [0] * len(sizes)
    for k, part in enumerate(interleaving_order(sizes), start=1):
        taken[part] += 1
        assert all(abs(count * total - k * size) < total for count, size in zip(taken, sizes, strict=True))
    assert taken == sizes


def test_a_subset_of_one_part_is_a_uniform_permutation():
    task = load_task({"name": "grammar_translation", "sources": {"size": 50}})
    firsts = {int(subset(task.examples("train"), 1, seed).indices[0]) for seed in range(200)}
    assert len(firsts) > 40  # 50 * (1 - (1 - 1/50)^200) = 49 are expected


@pytest.mark.parametrize("size", [0, -1, 139, 10**6])
def test_more_examples_than_exist_are_an_error(examples, size):
    with pytest.raises(DataError, match="but the data has 138"):
        subset(examples, size, seed=0)
