"""Every documented weight file is read as transformers reads it, or refused with the file or tensor at fault."""

import json
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from finetune_scaling.errors import UserError
from finetune_scaling.interop.hugging_face_model import load_model
from finetune_scaling.interop.model_import import ModelImport, import_model

TESTS = Path(__file__).parents[1]
MAKE = runpy.run_path(str(TESTS / "public_models.py"))["make"]
DOCUMENTED = runpy.run_path(str(TESTS / "documented_rows.py"))["documented_rows"]("Weights")
WEIGHTS, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
EMBEDDING, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.layers.1.input_layernorm.weight"


def tensors(change):
    """Return a function that changes the tensors of a model's file."""

    def apply(folder):
        content = load_file(folder / WEIGHTS)
        save_file({name: value.clone() for name, value in change(content).items()}, folder / WEIGHTS, {"format": "pt"})

    return apply


def named(rename):
    return tensors(lambda content: {rename(name): value for name, value in content.items()})


def replaced(name, value):
    return tensors(lambda content: {**content, name: value(content) if callable(value) else value})


def without(*names):
    return tensors(lambda content: {name: value for name, value in content.items() if name not in names})


def fields(**changes):
    return lambda folder: (folder / CONFIG).write_text(
        json.dumps({**json.loads((folder / CONFIG).read_text()), **changes})
    )


def both(*changes):
    return lambda folder: [change(folder) for change in changes]


def shards(folder):
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder / "new", max_shard_size="10KB")
    (folder / WEIGHTS).unlink()
    shutil.copytree(folder / "new", folder, dirs_exist_ok=True)
    shutil.rmtree(folder / "new")


def index(change):
    """Return a function that saves shards and changes the map of their index."""

    def apply(folder):
        shards(folder)
        content = json.loads((folder / INDEX).read_text())
        (folder / INDEX).write_text(json.dumps({**content, "weight_map": change(content["weight_map"])}))

    return apply


def moved(name):
    return lambda folder: (folder / WEIGHTS).rename(folder / name)


def single_and_shards(folder):
    """Add an index to a model's file, whose shards have other values."""
    content = load_file(folder / WEIGHTS)
    save_file({name: value + 1 for name, value in content.items()}, folder / "model-1.safetensors", {"format": "pt"})
    (folder / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(content, "model-1.safetensors")}))


def in_subfolder(folder):
    """Move a model's file into a subfolder, which an index names, and leave one of that name with other values."""
    single_and_shards(folder)
    (folder / "sub").mkdir()
    (folder / WEIGHTS).rename(folder / "sub" / "model-1.safetensors")
    names = dict.fromkeys(json.loads((folder / INDEX).read_text())["weight_map"], "sub/model-1.safetensors")
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": names}))


def adapter(folder):
    lora = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(folder), lora).save_pretrained(folder)


TIED = {"tie_word_embeddings": True}
# Fields of the model and the change of its directory of each row that is read.
READ = {
    "`model.safetensors`": [({}, both())],
    "shards with `model.safetensors.index.json`": [
        ({}, shards), ({}, index(lambda names: {**names, NORM: names[HEAD]})),  # another shard
        ({}, both(shards, lambda folder: (folder / "extra.safetensors").write_bytes(b"not named"))), ({}, in_subfolder),
    ],
    "`model.safetensors` and an index": [({}, single_and_shards)],
    "`model.safetensors` and `pytorch_model.bin`": [({}, lambda d: (d / "pytorch_model.bin").write_bytes(b"pickle"))],
    "dtypes that differ between tensors, such as float32 norms": [
        (
            {},
            both(
                tensors(lambda c: {n: v if "norm" in n else v.bfloat16() for n, v in c.items()}),
                fields(dtype="bfloat16"),
            ),
        ),
    ],
    "tied head: not stored, stored and equal, or stored instead of the embedding": [
        (TIED, both()), (TIED, replaced(HEAD, lambda content: content[EMBEDDING])),
        (TIED, named(lambda name: HEAD if name == EMBEDDING else name)),
    ],
    "names without the prefix `model.`, or with it twice": [
        (TIED, named(lambda name: name.removeprefix("model."))), ({}, named(lambda name: f"model.{name}")),
    ],
    "`rotary_emb.inv_freq` and other buffers of older files": [
        ({}, replaced("model.layers.0.self_attn.rotary_emb.inv_freq", torch.ones(3))),
        ({}, replaced("model.rotary_emb.inv_freq", torch.ones(3))),
    ],
}  # fmt: skip

# Fields of the model, the change, and part of the message of each row that is refused.
REFUSED = {
    "pickles (`pytorch_model.bin`), variants (`model.fp16.safetensors`), GGUF alone": [
        ({}, moved("pytorch_model.bin"), r"but pytorch_model.bin. Fix: save .*from_pretrained\(.*save_pretrained"),
        ({}, moved("model.fp16.safetensors"), r"but model.fp16.safetensors. Fix: .*variant='fp16'"),
        ({}, moved("model.gguf"), "but model.gguf. Fix"),
    ],
    "a shard that the index names and that is missing": [
        ({}, index(lambda names: {**names, NORM: "model-9.safetensors"}), "model-9.safetensors: no such file"),
    ],
    "an index that names files outside of the directory": [
        ({}, index(lambda names, name=name: {**names, NORM: name}), f"{name} is not a file of the model's directory")
        for name in ("../model.safetensors", "/tmp/model.safetensors")
    ],
    "`adapter_config.json` in the model's directory": [
        ({}, adapter, "adapter_config.json: is the config of a PEFT adapter.*--from-peft=DIR"),
        ({}, both(adapter, lambda folder: (folder / CONFIG).unlink()), "is the config of a PEFT adapter"),
    ],
    "damaged files, pointers of Git LFS": [
        ({}, lambda d: (d / WEIGHTS).write_bytes(b"version https://git-lfs.github.com/spec/v1"), "Git LFS.*git lfs"),
        ({}, lambda d: (d / WEIGHTS).write_bytes((d / WEIGHTS).read_bytes()[:900]), "not a valid safetensors file"),
    ],
    "missing tensors, and a head that is neither stored nor tied": [
        ({}, without(NORM), f"tensor {NORM} is missing"), ({}, without(HEAD), f"tensor {HEAD} is missing"),
        (TIED, without(EMBEDDING), f"tensor {EMBEDDING} is missing"),
    ],
    "prefixes of wrappers: `module.`, `_orig_mod.`, `base_model.model.`, `language_model.`": [
        ({}, named(lambda name, prefix=prefix: prefix + name), f"names begin with '{prefix}'")
        for prefix in ("module.", "_orig_mod.", "base_model.model.", "language_model.")
    ],
    "other tensors that the model does not have": [
        ({}, replaced("model.extra.weight", torch.ones(3)), "tensor model.extra.weight is not part of the model"),
        ({}, fields(num_hidden_layers=1), r"tensor model.layers.1.* is not part of the model"),
    ],
    "a tied head that differs from the embedding": [
        (TIED, replaced(HEAD, lambda content: 2 * content[EMBEDDING]), f"{HEAD} differs from {EMBEDDING}"),
    ],
    "shapes that `config.json` contradicts, such as `vocab_size`": [
        ({}, fields(vocab_size=64), rf"tensor {EMBEDDING} has shape \[61, 24\], but config.json implies \[64, 24\]"),
    ],
    "float8, integers and packed quantized tensors": [
        ({}, replaced(NORM, torch.ones(24).to(torch.float8_e4m3fn)), f"tensor {NORM} has dtype F8_E4M3"),
        ({}, replaced(NORM, torch.ones(24, dtype=torch.int8)), f"tensor {NORM} has dtype I8"),
    ],
    "NaN or infinity": [
        ({}, replaced(NORM, torch.full((24,), float("nan"))), f"tensor {NORM} has values that are not finite"),
        ({}, replaced(EMBEDDING, lambda c: c[EMBEDDING] / 0), f"tensor {EMBEDDING} has values that are not finite"),
    ],
    "one tensor under two names": [
        (TIED, replaced("embed_tokens.weight", lambda c: c[EMBEDDING]), f"{EMBEDDING} is stored under two names"),
    ],
    "a dtype that differs between layers": [
        ({}, replaced(NORM, lambda content: content[NORM].half()), f"tensor {NORM} is float16, but"),
    ],
}  # fmt: skip


@pytest.fixture(scope="session")
def changed_model(tmp_path_factory):
    """changed_model(fields, change) -> a changed copy of a tiny Llama's directory."""
    made = {}

    def change_model(changes, change):
        key = str(changes)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("made")
            MAKE("llama", **changes).save_pretrained(made[key])
        folder = tmp_path_factory.mktemp("changed")
        shutil.copytree(made[key], folder, dirs_exist_ok=True)
        change(folder)
        return folder

    return change_model


@pytest.mark.parametrize(("row", "case"), [(row, case) for row, cases in READ.items() for case in cases])
def test_tensors_are_those_of_transformers(row, case, changed_model):
    folder = changed_model(*case)
    reference, report = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", output_loading_info=True)
    assert not report["missing_keys"]
    config, params = load_model(folder)
    expected = reference.state_dict()
    layers = range(config.layers)
    for ours, name in (
        (params["embedding"], EMBEDDING),
        (params["final_norm"]["scale"], "model.norm.weight"),
        *((params["layers"]["norm"]["scale"][i], f"model.layers.{i}.input_layernorm.weight") for i in layers),
        *(
            (params["layers"]["feed_forward"]["up"]["kernel"][i].T, f"model.layers.{i}.mlp.up_proj.weight")
            for i in layers
        ),
        *(() if config.tied_head else ((params["head"].T, HEAD),)),
    ):
        rounded = torch.from_numpy(np.array(ours, np.float32)).to(expected[name].dtype)
        assert torch.equal(rounded, expected[name]), name
    assert config.tied_head == (reference.lm_head.weight is reference.model.embed_tokens.weight)


@pytest.mark.parametrize(("row", "case"), [(row, case) for row, cases in REFUSED.items() for case in cases])
def test_other_weights_are_refused(row, case, changed_model, tmp_path):
    changes, change, message = case
    folder = changed_model(changes, change)
    with pytest.raises(UserError, match=message):
        load_model(folder)
    if row == "NaN or infinity":
        with pytest.raises(UserError, match=message):
            import_model(ModelImport(str(folder), str(tmp_path / "out")))
        assert not (tmp_path / "out" / "result.json").exists()


def test_every_documented_row_has_a_case():
    assert {**dict.fromkeys(READ, "read"), **dict.fromkeys(REFUSED, "refused")} == DOCUMENTED
