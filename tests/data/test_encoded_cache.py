"""Cached token ids are those of encoding, whatever the source, and every change of what determines them is a miss."""

import copy
import dataclasses
import json
import os

import numpy as np
import pytest

from finetune_scaling.data import data_cache, encoded_cache, encoding, packing, worker_processes
from finetune_scaling.data.digests import examples_digest
from finetune_scaling.data.encoded_cache import encode_cached
from finetune_scaling.data.encoding import SequenceFormat, encode_examples
from finetune_scaling.data.examples import subset
from finetune_scaling.data.loader import evaluation_batches, finetuning_batches
from finetune_scaling.data.packing import stored_plan
from finetune_scaling.data.sources import files_source
from finetune_scaling.data.task import load_task
from finetune_scaling.data.templates import Template
from finetune_scaling.runs.split_records import example_overlap

TEMPLATE = Template("{source_language}: {source}\nAnswer:", " {target}")
FORMAT = SequenceFormat(length=96, max_source_tokens=24, max_target_tokens=12)


@pytest.fixture(autouse=True)
def encodings(tmp_path, monkeypatch):
    """Store everything; return the numbers of examples of each encoding."""
    monkeypatch.setenv(data_cache.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(data_cache, "_LARGE", 1)
    sizes: list[int] = []

    def encode(examples, *settings):
        sizes.append(len(examples))
        return encoding.encode_quietly(examples, *settings)

    monkeypatch.setattr(encoded_cache, "encode_quietly", encode)
    return sizes


@pytest.fixture
def write(tmp_path):
    def write(texts):
        path = tmp_path / "train.jsonl"
        path.write_text("".join(json.dumps({"source": s, "target": t}) + "\n" for s, t in texts))
        return path

    return write


TEXTS = [
    ("abc def " * (number % 7) + f"x{number}", f"yes {number} </s>" + " long" * (number % 9)) for number in range(50)
]


def _examples(*paths, source="en", split="train"):
    fields = {"source_field": "source", "target_field": "target", "target_language": "de"}
    parts = [{"source": {"kind": "files", "path": str(path)}, "source_language": source, **fields} for path in paths]
    spec = {"name": "own", "kind": "translation", "template": {"input": "{source}"}, split: parts}
    return load_task(spec).examples(split)


def assert_same(left, right, count):
    for i in range(count):
        np.testing.assert_array_equal(left.inputs.item(i), right.inputs.item(i))
        np.testing.assert_array_equal(left.targets.item(i), right.targets.item(i))
    np.testing.assert_array_equal(left.has_eos, right.has_eos)
    assert left.statistics == right.statistics
    assert left.special_tokens == right.special_tokens


def test_runs_with_other_subsets_share_the_encoded_split(write, tokenizer, encodings, caplog):
    examples = _examples(write(TEXTS))
    for chosen in (examples, subset(examples, 20, seed=0), subset(examples, 31, seed=1), examples):
        caplog.clear()
        found = encode_cached(chosen, tokenizer, TEMPLATE, FORMAT)
        warning = caplog.text
        assert_same(found, encode_examples(chosen, tokenizer, TEMPLATE, FORMAT), len(chosen))
        assert found.statistics["special_tokens"] == {"</s>": len(chosen)}
        assert f"{len(chosen)} examples: texts contain special tokens" in warning
    assert encodings == [50]
    few = subset(examples, 4, seed=0)
    for _ in range(2):
        assert_same(
            encode_cached(few, tokenizer, TEMPLATE, FORMAT), encode_examples(few, tokenizer, TEMPLATE, FORMAT), 4
        )
    assert encodings == [50, 4]


def test_generated_examples_are_cached_by_their_description(tokenizer, encodings):
    def encode(seed):
        grammar = {"size": 40, "grammar": {"seed": seed}}
        examples = load_task({"name": "grammar_translation", "sources": grammar}).examples("dev")
        expected = encode_examples(examples, tokenizer, TEMPLATE, FORMAT)
        assert_same(encode_cached(examples, tokenizer, TEMPLATE, FORMAT), expected, 40)
        return len(encodings)

    assert [encode(seed) for seed in (0, 0, 1)] == [1, 1, 2]


def test_every_change_of_what_determines_the_ids_is_a_miss(write, tokenizer, encodings, tmp_path):
    def encode(examples, template=TEMPLATE, own=tokenizer, **limits):
        encode_cached(examples, own, template, dataclasses.replace(FORMAT, **limits))
        return len(encodings)

    path = write(TEXTS)
    assert encode(_examples(path)) == 1
    assert encode(_examples(path)) == 1
    assert encode(_examples(path), bidirectional_input=True) == 1  # has no effect on the ids
    moved = tmp_path / "moved.jsonl"
    moved.write_bytes(path.read_bytes())
    assert encode(_examples(moved)) == 1
    assert encode(_examples(path), max_source_tokens=23) == 2
    assert encode(_examples(path), length=95) == 3
    assert encode(_examples(path), max_target_tokens=11) == 4
    assert encode(_examples(path), mode="S") == 5
    assert encode(_examples(path), dataclasses.replace(TEMPLATE, target="{target}")) == 6
    assert encode(_examples(path), dataclasses.replace(TEMPLATE, languages={"en": "Englisch"})) == 7
    assert encode(_examples(path, source="fr")) == 8
    assert encode(_examples(path, moved)) == 9
    other = copy.copy(tokenizer)
    other.digest = "another"
    assert encode(_examples(path), own=other) == 10
    assert encode(_examples(write([*TEXTS[:-1], ("other", "text")]))) == 11


def test_a_later_process_reads_no_line_of_unchanged_files(write, tokenizer, encodings, monkeypatch):
    def start():
        train = _examples(path)
        plan = stored_plan(train_lengths := encode_cached(train, tokenizer, TEMPLATE, FORMAT).lengths, 99)
        overlap = example_overlap(subset(train, 40, 0), {"dev": subset(train, 5, 1)})
        return train.dropped, examples_digest(train), plan.items.tolist(), train_lengths.tolist(), overlap

    path = write(TEXTS)
    os.utime(path, (1e9, 1e9))
    first = start()
    assert first[-1]["dev"].exact > 0
    with monkeypatch.context() as patch:
        patch.setattr(files_source, "parse_json_line", None)
        patch.setattr(packing, "plan_packing", None)
        assert start() == first
    write([*TEXTS[:-1], ("x" * len(TEXTS[-1][0]), TEXTS[-1][1])])  # of equal size
    os.utime(path, (1e9, 1e9 + 1))
    assert start()[1] != first[1]
    assert encodings == [50, 50]


@pytest.mark.parametrize("pack", [False, True])
def test_batches_from_the_cache_are_identical(write, tokenizer, encodings, monkeypatch, pack):
    def batches():
        examples = _examples(write(TEXTS))
        options = {"pack": True, "row_length": 100} if pack else {}
        train = finetuning_batches(
            subset(examples, 33, 0), tokenizer, TEMPLATE, FORMAT, batch_size=4, seed=1, **options
        )
        dev = evaluation_batches(examples, tokenizer, TEMPLATE, FORMAT, batch_size=8)
        return [train[k] for k in range(12)] + [dev[k] for k in range(len(dev))]

    first, second = batches(), batches()
    assert encodings == [50]
    monkeypatch.setenv(data_cache.CACHE_VARIABLE, "")
    for expected in (second, batches()):
        for one, other in zip(first, expected, strict=True):
            assert one.keys() == other.keys()
            for name in one:
                np.testing.assert_array_equal(one[name], other[name])


def test_several_processes_encode_the_same_ids_and_raise_the_same_errors(write, tokenizer, monkeypatch):
    examples = _examples(write(TEXTS))
    expected = encode_examples(examples, tokenizer, TEMPLATE, FORMAT)
    short = SequenceFormat(length=20, max_source_tokens=4, max_target_tokens=18)
    with pytest.raises(Exception, match="too short for the template") as alone:
        encode_examples(examples, tokenizer, TEMPLATE, short)
    monkeypatch.setattr(worker_processes.os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(encoding, "_WORTH_A_PROCESS", 10)
    monkeypatch.setattr(encoding, "_BLOCK", 8)
    assert_same(encode_examples(examples, tokenizer, TEMPLATE, FORMAT), expected, 50)
    with pytest.raises(type(alone.value)) as together:
        encode_examples(examples, tokenizer, TEMPLATE, short)
    assert str(together.value) == str(alone.value)
