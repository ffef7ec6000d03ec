"""Perplexity per token and per byte of the text that a loss covers."""

import math

import pytest

from finetune_scaling.data.encoding import SequenceFormat, encode_examples
from finetune_scaling.data.tokenizers.loading import load_tokenizer
from finetune_scaling.evaluation.likelihood import covered_targets, likelihood, perplexity, utf8_bytes
from finetune_scaling.runs.run_config import read_run_config
from finetune_scaling.runs.run_data import task_and_format


def test_bytes_are_utf8_bytes():
    assert utf8_bytes(["abc", "Größe", "好", ""]).tolist() == [3, 7, 3, 0]


def test_a_uniform_model_over_bytes_has_perplexity_256():
    values = likelihood(40 * math.log(256), tokens=40, size=40)
    assert values == pytest.approx({"perplexity": 256, "loss_per_byte": math.log(256), "perplexity_per_byte": 256})


def test_only_per_byte_losses_are_equal_across_tokenizers():
    """The same text with the same probability in 10 and in 20 tokens."""
    short, long = likelihood(50.0, tokens=10, size=100), likelihood(50.0, tokens=20, size=100)
    assert short["perplexity_per_byte"] == long["perplexity_per_byte"] == pytest.approx(math.exp(0.5))
    assert short["perplexity"] > long["perplexity"]


def test_no_per_byte_loss_without_text_and_infinite_perplexity_on_overflow():
    assert likelihood(3.0, tokens=1, size=0) == {"perplexity": pytest.approx(math.exp(3))}
    assert perplexity(1e6) == math.inf


@pytest.mark.parametrize("limit", [2, 5, 40])
def test_truncated_targets_count_with_the_kept_text(tiny_runs, limit):
    run_config = read_run_config(tiny_runs.config("full"))
    task, sequence_format = task_and_format(run_config)
    tokenizer = load_tokenizer(run_config.tokenizer)
    sequence_format = SequenceFormat(sequence_format.length + 40, sequence_format.max_source_tokens, limit)
    examples = [task.examples("test")[i] for i in range(10)]
    texts = covered_targets(examples, tokenizer, task.template, sequence_format)
    encoded = encode_examples(examples, tokenizer, task.template, sequence_format)
    for i, (example, text) in enumerate(zip(examples, texts, strict=True)):
        target = task.template.render(example)[1]
        assert target.startswith(text)
        assert text == target if encoded.has_eos[i] else text == tokenizer.decode(encoded.targets.item(i))
