"""Exported models: transformers loads them and computes the same; imported ones are written back bit for bit."""

import dataclasses
import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from finetune_scaling.errors import CheckpointError, ConfigError, WorkdirError
from finetune_scaling.interop.families.matching_family import match_family
from finetune_scaling.interop.families.registry import FAMILIES
from finetune_scaling.interop.hugging_face_model import load_model
from finetune_scaling.interop.run_export import RunExport, export_run

MADE = runpy.run_path(str(Path(__file__).parents[1] / "public_models.py"))


def write(run, out, **options):
    return export_run(RunExport(str(run), model=str(out), **options))


def test_exported_model_has_the_same_logits(base, run_logits, reference_logits, tmp_path):
    """Our logits are scaled and Llama's are not, so the factor moves into the final norm."""
    figures = write(base, tmp_path / "out")["model"]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    logits = run_logits(base)
    assert np.abs(logits).max() > 1
    np.testing.assert_allclose(reference_logits(model), logits, atol=1e-4)
    assert figures["family"] == model.config.model_type == "llama"
    assert figures["tensors"] == len(load_file(tmp_path / "out" / "model.safetensors"))
    assert figures["bytes"] == 4 * sum(value.numel() for value in model.parameters())
    assert (model.generation_config.bos_token_id, model.generation_config.eos_token_id) == (2, 1)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [*((kind, torch.bfloat16) for kind in MADE["KINDS"]), ("gpt_neox", torch.float32), ("gemma2", torch.float16)],
)
def test_imported_model_is_exported_bit_for_bit(kind, dtype, runs, tmp_path):
    MADE["make"](kind).to(dtype).save_pretrained(tmp_path / "public")
    config, params = load_model(tmp_path / "public")
    write(runs.write(tmp_path / "run", config, params, tokenizer=""), tmp_path / "out")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("public", "out"))
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert value.dtype == after[name].dtype
        np.testing.assert_array_equal(value.view(np.uint8), after[name].view(np.uint8), err_msg=name)
    assert load_model(tmp_path / "out")[0] == config
    assert AutoConfig.from_pretrained(tmp_path / "out").dtype == dtype
    _, report = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report.values()), report


def test_model_is_sharded_and_cast(base, reference_logits, tmp_path, monkeypatch):
    whole = write(base, tmp_path / "whole")["model"]
    monkeypatch.setattr("finetune_scaling.interop.model_export.SHARD_BYTES", 20_000)
    figures = write(base, tmp_path / "parts", dtype="bfloat16")["model"]
    assert 2 * figures["bytes"] == whole["bytes"]
    shards = sorted((tmp_path / "parts").glob("model-*.safetensors"))
    places = json.loads((tmp_path / "parts" / "model.safetensors.index.json").read_text())
    assert [shard.name for shard in shards] == sorted(set(places["weight_map"].values()))
    assert places["metadata"]["total_size"] == figures["bytes"]
    for shard in shards:
        content = load_file(shard)
        assert sum(value.nbytes for value in content.values()) <= 20_000
        assert {name for name, file in places["weight_map"].items() if file == shard.name} == set(content)
    rounded = AutoModelForCausalLM.from_pretrained(tmp_path / "whole").to(torch.bfloat16).state_dict()
    for name, value in AutoModelForCausalLM.from_pretrained(tmp_path / "parts").state_dict().items():
        assert torch.equal(value, rounded[name]), name


def test_float16_overflow_is_named(runs, sequential, random_params, tmp_path):
    params = random_params(sequential)
    run = runs.write(tmp_path / "run", sequential, {**params, "embedding": 1e5 * params["embedding"]})
    with pytest.raises(ConfigError, match=r"float16: model.embed_tokens.weight has values above 65,504"):
        write(run, tmp_path / "out", dtype="float16")
    assert not (tmp_path / "out").exists()


def test_model_without_a_family_is_rejected(runs, tiny_config, tiny_base, tmp_path):
    run = runs.write(tmp_path / "run", tiny_config, tiny_base)
    with pytest.raises(ConfigError, match=r"nearest is llama, which differs in block = 'sequential' \(not 'par"):
        write(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_match_compares_every_field_that_changes_the_computation(sequential):
    for changes in ({"positions": "none"}, {"norm": "layernorm"}, {"biased": ("up",)}, {"qk_norm": "all"},
                    {"norm_offset": 0.5}, {"attention_softcap": 3.0}, {"norm_place": "after"}):  # fmt: skip
        changed = dataclasses.replace(sequential, **changes)
        with pytest.raises(ConfigError, match="no family"):
            match_family(changed, [FAMILIES["llama"]], "it")


def test_directory_is_written_atomically(base, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    kept = tmp_path / "out" / "kept"
    kept.write_text("mine")
    with pytest.raises(WorkdirError, match="out"):
        write(base, tmp_path / "out")
    kept.unlink()

    def fail(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("finetune_scaling.interop.model_export.to_file", fail)
        with pytest.raises(KeyboardInterrupt):
            write(base, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]
    write(base, tmp_path / "out")  # into the existing empty directory


def test_lack_of_disk_space_is_found_before_writing(base, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(WorkdirError, match="1,000"):
        write(base, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_damaged_weights_are_not_exported(runs, sequential, random_params, tmp_path):
    run = runs.write(tmp_path / "run", sequential, random_params(sequential))
    facts = next((run / "checkpoints").glob("*/facts/metadata"))
    facts.write_text(facts.read_text().replace('"arrays_digest": "', '"arrays_digest": "0'))
    with pytest.raises(CheckpointError, match="damaged"):
        write(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_checkpoint_directory_selects_the_step(base, tmp_path):
    checkpoint = base / "checkpoints" / "7"
    write(checkpoint, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"--step=3 .* step 7"):
        write(checkpoint, tmp_path / "other", step=3)
    with pytest.raises(ConfigError, match="--no-merge"):
        write(checkpoint, tmp_path / "other", merged=False)
    with pytest.raises(ConfigError, match="--to-hf"):
        export_run(RunExport(str(base), adapter=str(tmp_path / "other")))
