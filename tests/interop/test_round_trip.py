"""End to end: a public model is imported, tuned here, and exported."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune_scaling import configuration
from finetune_scaling.experiments.run import run as train
from finetune_scaling.interop.model_import import ModelImport, import_model
from finetune_scaling.interop.run_export import RunExport, export_run

FOLDER = Path(__file__).parents[1]
MADE = runpy.run_path(str(FOLDER / "public_models.py"))
TOKENIZERS = runpy.run_path(str(FOLDER / "public_tokenizers.py"))
TINY = runpy.run_path(str(FOLDER / "tiny.py"))


@pytest.fixture(scope="module")
def public(tmp_path_factory):
    """A tiny Pythia with a tokenizer, in several shards of bfloat16."""
    folder = tmp_path_factory.mktemp("public") / "model"
    model = MADE["make"]("gpt_neox", vocab_size=400, bos_token_id=1, eos_token_id=2).to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="50KB")
    TOKENIZERS["byte_level"](folder)
    return folder


@pytest.fixture(scope="module")
def converted(public, tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted") / "base"
    import_model(ModelImport(str(public), str(folder)))
    return folder


def tensors(folder):
    return {name: value for file in folder.glob("model*.safetensors") for name, value in load_file(file).items()}


def test_model_is_imported_and_exported_bit_for_bit(public, converted, tmp_path):
    figures = export_run(RunExport(str(converted), model=str(tmp_path / "out")))["model"]
    assert figures["family"] == "gpt_neox"
    before, after = tensors(public), tensors(tmp_path / "out")
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_array_equal(value.view(np.uint16), after[name].view(np.uint16), err_msg=name)
    for name in figures["tokenizer"]:
        assert (tmp_path / "out" / name).read_bytes() == (public / name).read_bytes()
    text = "The quick fox läuft über 狐狸"
    mine, own = (AutoTokenizer.from_pretrained(folder) for folder in (tmp_path / "out", public))
    assert mine(text).input_ids == own(text).input_ids


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "prompt"])
def test_adapter_tuned_here_is_loaded_on_the_public_model(
    method, public, converted, run_logits, reference_logits, tmp_path
):
    config = configuration.plain(TINY["get_config"](method))
    config |= {"tokenizer": str(converted / "tokenizer"), "base": {"run": str(converted)}}
    config["sequence"] = {**config["sequence"], "bidirectional_input": False}
    config["method"] = {"name": "lora", "rank": 2, "alpha": 3.0} if method == "lora" else config["method"]
    config |= {"model": {"compute_dtype": "float32"}, "optimizer": {"parameter_scale": False}}
    run = tmp_path / "run"
    record = train({**config, "limits": {"max_steps": 6}, "schedule": {"learning_rate": 0.1}}, run)
    assert record["steps"] == 6
    export_run(RunExport(str(run), adapter=str(tmp_path / "adapter")))
    model = AutoModelForCausalLM.from_pretrained(public, dtype=torch.float32)
    plain = reference_logits(model)
    tuned = PeftModel.from_pretrained(model, tmp_path / "adapter")
    np.testing.assert_allclose(reference_logits(tuned), run_logits(run), atol=1e-4)
    assert np.abs(reference_logits(tuned) - plain).max() > 0.05
    # The adapter names the directory of its base.
    itself = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter", dtype=torch.float32)
    np.testing.assert_allclose(reference_logits(itself), run_logits(run), atol=1e-4)
    if method == "lora":
        export_run(RunExport(str(run), model=str(tmp_path / "merged"), dtype="float32"))
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
        np.testing.assert_allclose(reference_logits(merged), run_logits(run), atol=1e-4)
