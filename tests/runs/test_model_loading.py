"""Models before the first step of a run."""

import json

import jax
import numpy as np
import pytest

from finetune_scaling.data.tokenizers.loading import load_tokenizer
from finetune_scaling.errors import CheckpointError
from finetune_scaling.models.language_model import LanguageModel
from finetune_scaling.planning import workload
from finetune_scaling.runs import model_loading
from finetune_scaling.runs.checkpoints import read_metadata
from finetune_scaling.runs.model_loading import initial_tokens, initialize_model, load_base, with_base_tokenizer
from finetune_scaling.runs.run_config import read_run_config
from finetune_scaling.trees import flatten
from finetune_scaling.tuning.full import FullOptions
from finetune_scaling.tuning.method import Defaults, MethodSpec, TuningMethod, configure
from finetune_scaling.tuning.registry import METHODS


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


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("prompt", "prefix")])
def test_the_vocabulary_is_decoded_for_no_other_method(tiny_runs, monkeypatch, method):
    tokenizer = load_tokenizer(str(tiny_runs.tokenizer))
    monkeypatch.setattr(tokenizer, "decode", None)
    assert initial_tokens(configure(METHODS, {"name": method}), tokenizer) == []


@pytest.mark.parametrize("method", ["prompt", "prefix"])
def test_methods_read_as_many_frequent_tokens_as_they_sample_from(tiny_runs, method):
    tokenizer = load_tokenizer(str(tiny_runs.tokenizer))
    few = initial_tokens(configure(METHODS, {"name": method, "frequent": 20}), tokenizer)
    assert len(few) == 20
    assert few == sorted(few)
    assert not set(few) & set(tokenizer.special_token_ids.values())
    assert all("\ufffd" not in tokenizer.decode([i]) for i in few)
    assert initial_tokens(configure(METHODS, {"name": method, "initialization": "random"}), tokenizer) == []


def test_a_random_prefix_needs_no_tokens(tiny_runs):
    method = {"length": 3, "initialization": "random", "mlp_width": 4}
    model = initialize_model(read_run_config(tiny_runs.config("prefix", method=method)))
    assert model.trainable["prefix"]["embedding"].shape == (3, model.config.model_dim)


@pytest.mark.parametrize(("changes", "expected"), [({}, "auto"), ({"attention": "blockwise"}, "blockwise")])
def test_a_run_does_not_take_the_attention_of_its_base(changes, expected, tiny_runs, monkeypatch):
    """Older bases record "plain", which was the default, and others a kernel of the device that trained them."""

    def with_kernel(path):
        metadata = read_metadata(path)
        return {**metadata, "model": {**metadata["model"], "attention": "cudnn"}}

    run_config = read_run_config(tiny_runs.config("lora", model=changes))
    for module in (model_loading, workload):
        monkeypatch.setattr(module, "read_metadata", with_kernel)
    tokenizer = load_tokenizer(str(tiny_runs.tokenizer))
    assert model_loading.configured_model(run_config, tokenizer).attention == expected
    assert workload.planned_model(run_config).attention == expected


def test_training_never_donates_parameters_of_the_base_that_stays_in_memory(tiny_runs, monkeypatch):
    """Neither under a method that trains a part of the base nor under full tuning."""
    tuning = TuningMethod("final_norm", trainable="final_norm/scale")
    spec = MethodSpec("final_norm", FullOptions, lambda _: tuning, Defaults(learning_rate=0.1, batch_size=8))
    monkeypatch.setitem(METHODS, "final_norm", spec)
    config = tiny_runs.config("lora")
    for method in ("final_norm", "full"):
        model = initialize_model(read_run_config({**config, "method": {"name": method}}))
        for leaf in jax.tree.leaves(model.trainable):
            leaf.delete()
    base = load_base(tiny_runs.base)
    for method in ("final_norm", "lora"):
        model = initialize_model(read_run_config({**config, "method": {"name": method}}))
        found = flatten(model.frozen) | flatten(model.trainable)
        for name, leaf in flatten(base.params).items():
            np.testing.assert_array_equal(found[name], leaf, err_msg=name)


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
