"""Encoding: truncation of sources and targets but not of the template, chunks of documents, and their counts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_scaling.data.encoding import (
    RaggedArray,
    SequenceFormat,
    encode_documents,
    encode_examples,
    encode_prompts,
)
from finetune_scaling.data.templates import Template
from finetune_scaling.errors import ConfigError, DataError

TEMPLATE = Template("Question: {source}\nAnswer:", " {target}")  # text on both sides of the source


def _example(source="abc def", target="ghi"):
    return {"source": source, "target": target, "source_language": "A", "target_language": "B"}


def test_ids_are_those_of_the_rendered_texts(tokenizer):
    sequence_format = SequenceFormat(length=128, max_source_tokens=64, max_target_tokens=32)
    encoded = encode_examples([_example()], tokenizer, TEMPLATE, sequence_format)
    assert encoded.inputs.item(0).tolist() == tokenizer.encode("Question: abc def\nAnswer:")
    assert encoded.targets.item(0).tolist() == tokenizer.encode(" ghi")
    assert encoded.has_eos.tolist() == [True]
    sequence = encoded.sequence(0, sequence_format)
    assert sequence.targets[-1] == tokenizer.eos_id
    assert len(sequence.tokens) == encoded.lengths[0]
    assert sequence.weights.sum() == len(tokenizer.encode(" ghi")) + 1


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="ab cdé中▁\n", max_size=60), st.integers(1, 30), st.integers(0, 20))
def test_the_source_is_truncated_but_not_the_template(tokenizer, source, max_source, spare):
    around = len(tokenizer.encode("Question: \nAnswer:"))
    sequence_format = SequenceFormat(length=around + 4 + 8 + spare, max_source_tokens=max_source, max_target_tokens=8)
    prompt = encode_prompts([_example(source=source)], tokenizer, TEMPLATE, sequence_format)[0]
    assert prompt[0] == tokenizer.bos_id
    assert len(prompt) - 1 <= sequence_format.max_input_tokens
    text = tokenizer.decode(prompt)
    assert text.startswith("Question: ")
    assert text.endswith("\nAnswer:")
    kept = text.removeprefix("Question: ").removesuffix("\nAnswer:")
    assert source.startswith(kept)
    assert len(tokenizer.encode(kept)) <= max_source


def test_prompts_are_the_inputs_of_training(tokenizer):
    sequence_format = SequenceFormat(length=64, max_source_tokens=10, max_target_tokens=8, mode="S")
    examples = [_example(source="abc " * n, target="x " * n) for n in range(30)]
    encoded = encode_examples(examples, tokenizer, TEMPLATE, sequence_format)
    prompts = encode_prompts(examples, tokenizer, TEMPLATE, sequence_format)
    for i, prompt in enumerate(prompts):
        assert prompt == [tokenizer.bos_id, *encoded.inputs.item(i).tolist()]
        assert prompt[1] == tokenizer.special_tokens.mode_ids["S"]
        assert prompt == encoded.sequence(i, sequence_format).tokens[: len(prompt)].tolist()


def test_a_truncated_target_has_no_eos_and_is_counted(tokenizer):
    sequence_format = SequenceFormat(length=64, max_source_tokens=20, max_target_tokens=5)
    fits = next(t for t in ("ab " * n for n in range(9)) if len(tokenizer.encode(" " + t)) == 4)
    examples = [_example(target=fits), _example(target="abc def ghi jkl mno"), _example(source="abc def " * 30)]
    encoded = encode_examples(examples, tokenizer, TEMPLATE, sequence_format)
    complete, truncated, _ = (encoded.sequence(i, sequence_format) for i in range(3))
    assert encoded.has_eos.tolist() == [True, False, True]
    assert complete.weights.sum() == truncated.weights.sum() == 5
    assert complete.targets[-1] == tokenizer.eos_id != truncated.targets[-1]
    statistics = encoded.statistics
    assert (statistics["examples"], statistics["truncated_sources"], statistics["truncated_targets"]) == (3, 1, 1)
    assert statistics["target_tokens"]["max"] == 5
    assert statistics["tokens_per_example"] == pytest.approx(encoded.lengths.mean())
    assert encoded.lengths.max() <= sequence_format.length


def test_an_empty_target_is_its_eos(tokenizer):
    sequence_format = SequenceFormat(length=64, max_source_tokens=20, max_target_tokens=5)
    encoded = encode_examples([_example(target="")], tokenizer, Template("{source}"), sequence_format)
    sequence = encoded.sequence(0, sequence_format)
    assert sequence.weights.sum() == 1
    assert sequence.targets[-1] == tokenizer.eos_id


def test_limits_that_contradict_each_other(tokenizer):
    with pytest.raises(ConfigError, match="length = 8 leaves no token"):
        SequenceFormat(length=8, max_source_tokens=4, max_target_tokens=8)
    sequence_format = SequenceFormat(length=10, max_source_tokens=4, max_target_tokens=8)
    with pytest.raises(ConfigError, match=r"length = 10 is too short for the template.*need \d+ more"):
        encode_examples([_example()], tokenizer, TEMPLATE, sequence_format)


def test_no_examples_and_no_text(tokenizer):
    with pytest.raises(DataError, match="no examples"):
        encode_examples([], tokenizer, TEMPLATE, SequenceFormat(64, 8, 8))
    for texts in ([], ["", ""]):
        with pytest.raises(DataError, match="no text to pretrain on"):
            encode_documents(texts, tokenizer, 8)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(alphabet="abc é\n", max_size=40), min_size=1, max_size=12), st.integers(1, 9))
def test_concatenated_chunks_equal_the_documents(tokenizer, texts, chunk):
    if not any(texts):
        return
    documents = encode_documents(texts, tokenizer, chunk)
    assert 1 <= documents.chunks.lengths.min() <= documents.chunks.lengths.max() <= chunk
    rebuilt, current = [], []
    for i, is_last in enumerate(documents.is_last):
        current += documents.chunks.item(i).tolist()
        if is_last:
            rebuilt.append(tokenizer.decode(current))
            current = []
    assert rebuilt == [text for text in texts if text]
    assert documents.statistics["documents"] == len(rebuilt)
    assert documents.statistics["empty_documents"] == len(texts) - len(rebuilt)


def test_ragged_arrays_hold_lists_of_any_number():
    lists = [list(range(i % 5)) for i in range(3000)]
    ragged = RaggedArray.from_lists(iter(lists))
    assert [ragged.item(i).tolist() for i in range(3000)] == lists
    assert ragged.values.dtype == np.int32
    assert RaggedArray.from_lists([]).lengths.shape == (0,)
