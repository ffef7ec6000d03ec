"""Models before the first step of a run."""

import json

import numpy as np
import pytest

from finetune_scaling.data.tokenizers.loading import load_tokenizer
from finetune_scaling.errors import CheckpointError
from finetune_scaling.models.language_model import LanguageModel
from finetune_scaling.runs.model_loading import initialize_model, load_base, with_base_tokenizer
from finetune_scaling.runs.run_config import read_run_config


def test_a_soft_prompt_starts_from_the_tokens_of_its_text(tiny_runs):
    tokenizer = load_tokenizer(str(tiny_runs.tokenizer))
    text = tokenizer.decode([40, 50, 60])
    method = {"length": 5, "initialization": "text", "text": text}
    model = initialize_model(read_run_config(tiny_runs.config("prompt", method=method)))
    base = load_base(tiny_runs.base)
    tokens = np.resize(tokenizer.encode(text), 5)
    assert len(set(tokens)) > 1
    expected = LanguageModel(base.config).embed(base.params, tokens[None])[0]
    np.testing.assert_array_equal(model.trainable["prompt"]["embedding"], expected)


def test_the_default_tokenizer_is_that_of_the_base(tiny_runs, tmp_path):
    named = tiny_runs.config("lora", tokenizer="elsewhere")
    assert with_base_tokenizer(named) == named
    unnamed = tiny_runs.config("lora", tokenizer="")
    assert with_base_tokenizer(unnamed) == {**unnamed, "tokenizer": str(tiny_runs.tokenizer)}
    public = {"name": "llama", "family": "llama"}
    converted = {"model": {"name": "30k"}, "tokenizer": "old/place", "public": public}
    fields = {**converted, "sequence": {"length": 8}, "limits": {"max_steps": 1}}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    found = with_base_tokenizer({**unnamed, "base": {"run": str(tmp_path)}})
    assert found["tokenizer"] == str(tmp_path / "tokenizer")
    with pytest.raises(CheckpointError, match=r"the base .*nowhere cannot be used"):
        with_base_tokenizer({**unnamed, "base": {"run": "nowhere"}})
