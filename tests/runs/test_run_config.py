"""RunConfig: limits and evaluation intervals in steps, defaults of methods, and errors that name the field."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_scaling.errors import ConfigError
from finetune_scaling.runs.run_config import EvaluationConfig, LimitsConfig, read_run_config

FINETUNE = {
    "tokenizer": "tokenizer",
    "base": {"run": "base"},
    "task": {"name": "grammar_translation"},
    "sequence": {"length": 48},
    "limits": {"max_steps": 100},
}


def text(split: str) -> dict:
    return {"source": {"kind": "grammar", "dataset": "monolingual", "split": split, "size": 10}, "field": "text"}


def corpus(*weights: float) -> dict:
    return {"train": [text("train") | {"weight": weight} for weight in weights], "dev": [text("dev")]}


PRETRAIN = {"task": None, "base": None, "model": {"name": "30k"}, "corpus": corpus(0.0)}


@pytest.mark.parametrize(
    ("limits", "last_step"),
    [
        ({"max_steps": 100}, (100, "max_steps")),
        ({"max_epochs": 3}, (8, "max_epochs")),  # 2.5 steps per epoch
        ({"max_epochs": 0.1}, (1, "max_epochs")),
        ({"max_tokens": 960}, (10, "max_tokens")),  # 96 tokens per step
        ({"max_tokens": 10}, (1, "max_tokens")),
        ({"max_steps": 9, "max_epochs": 3, "max_tokens": 960}, (8, "max_epochs")),
        ({"max_steps": 8, "max_epochs": 100}, (8, "max_steps")),
    ],
)
def test_training_stops_at_the_earliest_limit(limits, last_step):
    assert LimitsConfig(**limits).last_step(steps_per_epoch=2.5, tokens_per_step=96) == last_step


@given(st.integers(1, 10_000), st.integers(1, 100))
def test_evaluations_are_at_most_as_many_as_requested(total, times):
    every = EvaluationConfig(times=times).interval(total)
    assert 1 <= -(-total // every) <= times
    assert EvaluationConfig(every_steps=7, times=times).interval(total) == 7


@pytest.mark.parametrize(("method", "rate", "batch"), [("full", 1e-3, 128), ("prompt", 0.3, 16), ("lora", 1e-2, 16)])
def test_methods_default_to_the_papers_learning_rates_and_batch_sizes(method, rate, batch):
    config = {**FINETUNE, "method": {"name": method}}
    run_config = read_run_config(config)
    assert run_config.schedule_config.learning_rate == rate
    assert run_config.batch_size == batch
    changed = read_run_config({**config, "schedule": {"learning_rate": 0.5, "warmup_steps": 3}, "batch": {"size": 8}})
    assert changed.schedule_config.learning_rate == 0.5
    assert changed.batch_size == 8


def test_sequence_limits_default_to_the_tasks():
    found = read_run_config(FINETUNE).sequence.format(20, 30)
    assert (found.length, found.max_source_tokens, found.max_target_tokens) == (48, 20, 30)
    given_limit = {**FINETUNE, "sequence": {"length": 48, "max_target_tokens": 10}}
    found = read_run_config(given_limit).sequence.format(20, 30)
    assert (found.max_source_tokens, found.max_target_tokens) == (20, 10)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": None}, "neither corpus nor task"),
        ({"corpus": {"train": [text("train")], "dev": [text("dev")]}}, "pretraining and finetuning"),
        ({"base": None}, "model is missing"),
        ({"finetune_examples": 0}, "finetune_examples = 0 must be at least 1"),
        ({"limits": {}}, "limits is empty"),
        (
            {"batch": {"size": 10, "accumulation": 4}},
            r"batch\.size = 10 must be a positive multiple",
        ),
        ({"batch": {"accumulation": 3}}, r"batch\.accumulation = 3 .*128 sequences"),
        ({"method": {"name": "lorra"}}, r"method\.name = 'lorra' is unknown; did you mean 'lora'"),
        ({"schedule": {"rate": 1.0}}, r"schedule\.rate is not a field of schedule"),
        ({"sequence": {"length": "48"}}, r"config\.sequence\.length = '48' has the wrong type: expected int, got str"),
        ({"seeds": {"data": -1}}, r"seeds\.data = -1 must be between 0 and 4294967295"),
        ({"seeds": {"parameters": 2**70}}, r"seeds\.parameters = .* must be between 0 and"),
        ({"limits": {"max_epochs": math.inf}}, r"limits\.max_epochs = inf must be a finite number above 0"),
        ({"limits": {"max_epochs": math.nan}}, r"limits\.max_epochs = nan must be a finite number above 0"),
        ({"limits": {"max_steps": 1, "tolerance": -1.0}}, r"limits\.tolerance = -1\.0 must be at least 0"),
        ({"limits": {"max_steps": 1, "tolerance": math.nan}}, r"limits\.tolerance = nan must be at least 0"),
        ({"optimizer": {"clip_norm": -1.0}}, r"optimizer\.clip_norm = -1\.0 must be above 0"),
        ({"optimizer": {"clip_norm": 0.0}}, r"optimizer\.clip_norm = 0\.0 must be above 0"),
        ({"optimizer": {"weight_decay": -1.0}}, r"optimizer\.weight_decay = -1\.0 must be at least 0"),
        ({"optimizer": {"name": "adamw", "b2": 1.0}}, r"optimizer\.b2 = 1\.0 must be at least 0 and below 1"),
        ({"schedule": {"warmup_steps": -5}}, r"schedule\.warmup_steps = -5 must be at least 0"),
        ({"schedule": {"final_fraction": -3.0}}, r"schedule\.final_fraction = -3\.0 must be between 0 and 1"),
        ({"schedule": {"decay_fraction": 1.5}}, r"schedule\.decay_fraction = 1\.5 must be between 0 and 1"),
        ({"method": {"name": "lora", "alpha": -1.0}}, r"method\.alpha = -1\.0 must be above 0"),
        ({"method": {"name": "lora", "alpha": math.nan}}, r"method\.alpha = nan must be above 0"),
        ({"batch": {"row_length": 96}}, r"batch\.row_length applies to packed rows"),
        ({"batch": {"pack": True, "row_length": 47}}, r"batch\.row_length = 47 must be at least sequence\.length = 48"),
        (
            {**PRETRAIN, "batch": {"pack": True, "row_length": 96}},
            r"batch\.pack applies to finetuning",
        ),
        ({**PRETRAIN, "corpus": corpus(-1.0, -1.0)}, r"corpus\.train\[0\]\.weight = -1\.0 must be at least 0"),
        ({**PRETRAIN, "corpus": corpus(1.0, math.nan)}, r"corpus\.train\[1\]\.weight = nan must be at least 0"),
        ({**PRETRAIN, "base": {"run": "base"}}, "base applies to finetuning"),
        ({"adapter": {"name": "a", "weights_sha256": "0"}, "base": None, "model": {"name": "30k"}}, "base is missing"),
        ({"optimiser": {}}, r"config\.optimiser is not a field of config; did you mean 'optimizer'"),
    ],
)
def test_config_errors_name_the_field(changes, message):
    config = {name: value for name, value in {**FINETUNE, **changes}.items() if value is not None}
    with pytest.raises(ConfigError, match=message):
        read_run_config(config)


@pytest.mark.parametrize(
    ("changes", "kind", "is_base"),
    [
        ({}, "finetuning", False),
        (PRETRAIN, "pretraining", True),
        (
            {"task": None, "base": None, "model": {"name": "30k"}, "public": {"name": "x", "family": "llama"}},
            "converted model",
            True,
        ),
        ({"task": None, "adapter": {"name": "a", "weights_sha256": "0"}}, "imported adapter", False),
    ],
)
def test_one_block_sets_the_kind_of_a_run(changes, kind, is_base):
    run_config = read_run_config(FINETUNE | changes)
    assert (run_config.kind, run_config.is_base) == (kind, is_base)
