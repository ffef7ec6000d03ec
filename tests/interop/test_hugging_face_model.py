"""Llama models saved by transformers load without torch and have the same logits; errors name what is wrong."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from finetune_scaling.errors import CheckpointError, ConfigError, WorkdirError
from finetune_scaling.interop.hugging_face_model import load_model
from finetune_scaling.models.language_model import LanguageModel
from finetune_scaling.models.token_layout import TokenLayout

SHAPE = {
    "vocab_size": 59, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": 64, "attn_implementation": "eager",
}  # fmt: skip
CONFIG, WEIGHTS = "config.json", "model.safetensors"


def random_llama(**fields):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**{**SHAPE, **fields}))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(1.0 if "norm" in name else 0.0, 0.3)
    return model.eval()


@pytest.fixture
def saved(tmp_path):
    """saved(max_shard_size=..., **config_fields) -> the transformers model and its directory."""

    def save(max_shard_size="5GB", dtype=torch.float32, **fields):
        model = random_llama(**fields).to(dtype)
        model.save_pretrained(tmp_path, max_shard_size=max_shard_size)
        return model, tmp_path

    return save


def logits_of(directory, tokens):
    config, params = load_model(directory)
    model = LanguageModel(config)
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    layout = TokenLayout(positions, jnp.ones_like(positions), jnp.zeros(tokens.shape, bool))
    hidden, _ = jax.jit(model.forward)(params, model.embed(params, tokens), layout)
    return model.unembed(params, hidden)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"num_key_value_heads": 2, "head_dim": 10, "tie_word_embeddings": True, "max_shard_size": "20KB"},
        {"num_key_value_heads": 1, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
        {"hidden_act": "gelu_pytorch_tanh", "rms_norm_eps": 1e-3},
    ],
    ids=["multi-head", "grouped, tied, in shards", "multi-query, rope", "gelu, epsilon"],
)
def test_logits_equal_those_of_transformers(saved, fields):
    model, directory = saved(**fields)
    tokens = np.random.default_rng(1).integers(SHAPE["vocab_size"], size=(2, 17))
    with torch.no_grad():
        expected = model(torch.from_numpy(tokens)).logits.numpy()
    assert np.abs(expected).max() > 1  # otherwise the tolerance below would be loose
    np.testing.assert_allclose(logits_of(directory, tokens), expected, atol=1e-4)
    assert (len(list(directory.glob("*.safetensors"))) > 1) == ("max_shard_size" in fields)


def test_config_fields_of_older_transformers(saved):
    _, directory = saved(rope_parameters={"rope_type": "default", "rope_theta": 500.0})
    edit(directory, remove=("rope_parameters", "head_dim", "num_key_value_heads", "dtype"), rope_theta=500.0,
         rope_scaling=None, torch_dtype="float32")  # fmt: skip
    config, _ = load_model(directory)
    assert (config.rope_theta, config.head_dim, config.kv_heads, config.compute_dtype) == (500.0, 6, 4, "float32")


@pytest.mark.parametrize(
    ("dtype", "compute"), [(torch.bfloat16, "bfloat16"), (torch.float16, "float32")], ids=["bfloat16", "float16"]
)
def test_dtypes_are_kept(saved, dtype, compute):
    model, directory = saved(dtype=dtype)
    config, params = load_model(directory)
    assert config.compute_dtype == compute
    assert str(params["embedding"].dtype) == str(dtype).removeprefix("torch.")
    expected = model.model.layers[1].mlp.up_proj.weight.float().detach().numpy().T
    np.testing.assert_array_equal(params["layers"]["feed_forward"]["up"]["kernel"][1].astype(jnp.float32), expected)


def edit(directory, remove=(), **fields):
    config = json.loads((directory / CONFIG).read_text())
    for name in remove:
        config.pop(name, None)
    (directory / CONFIG).write_text(json.dumps({**config, **fields}))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"clip_qkv": 8.0}, "config.json: clip_qkv = 8.0 is not supported"),
        ({"attention_bias": "yes"}, "config.json: attention_bias = 'yes' is neither true nor false"),
        ({"sliding_window": 128}, "sliding_window = 128"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types = "),
        ({"rope_scaling": {"rope_type": "llama3"}}, "rope_scaling.factor is missing"),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, "rope_scaling.factor = 0 must be a finite number above 0"),
        (
            {"rope_parameters": {"rope_type": "dynamic"}},
            "rope_parameters.rope_type = 'dynamic' .*default, lin",
        ),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2, "mrope_section": [1]}}, "mrope_section = "),
        ({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "partial_rotary_factor = 0.5"),
        ({"quantization_config": {"bits": 4}}, "quantization_config = "),
        ({"hidden_act": "relu6"}, "hidden_act = 'relu6' .*silu, gelu_pytorch_tanh"),
        ({"dtype": "float8_e4m3fn"}, "dtype = 'float8_e4m3fn'"),
        ({"num_hidden_layers": None}, "num_hidden_layers is missing"),
        ({"hidden_size": "24"}, "hidden_size = '24' is not a number"),
        ({"num_attention_heads": 0, "head_dim": None}, "hidden_size = 24 is not a multiple of num_attention_heads = 0"),
        ({"num_key_value_heads": "4"}, "config.json: num_key_value_heads = '4' is not a number"),
        ({"num_key_value_heads": 0}, "kv_heads = 0 must be at least 1"),
        ({"head_dim": "6"}, "config.json: head_dim = '6' is not a number"),
        ({"initializer_range": "small"}, "config.json: initializer_range = 'small' is not a number"),
        ({"hidden_act": ["silu"]}, r"hidden_act = \['silu'\]"),
        ({"dtype": {"default": "float32"}}, "dtype = {'default': 'float32'}"),
        ({"rope_parameters": [500.0]}, r"config.json: rope_parameters = \[500.0\] is not a JSON object"),
        ({"rope_parameters": {"rope_theta": "500"}}, "config.json: rope_parameters.rope_theta = '500' is not a number"),
        ({"rope_parameters": {"rope_theta": 0}}, "rope_theta = 0"),
        ({"rope_parameters": None, "rope_theta": "500"}, "config.json: rope_theta = '500' is not a number"),
        ({"num_attention_heads": 3}, "must be a multiple of model.kv_heads"),
    ],
)
def test_unsupported_field_is_named(saved, fields, message):
    _, directory = saved()
    edit(directory, **fields)
    with pytest.raises(ConfigError, match=message):
        load_model(directory)


def change_tensors(directory, change):
    tensors = load_file(directory / WEIGHTS)
    change(tensors)
    save_file(tensors, directory / WEIGHTS)


NORM, GATE = "model.layers.1.input_layernorm.weight", "model.layers.0.mlp.gate_proj.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop(NORM), f"tensor {NORM} is missing"),
        (lambda tensors: tensors.update(extra=np.zeros(2, np.float32)), "tensor extra is not part of the model"),
        (
            lambda tensors: tensors.update({GATE: np.zeros((40, 23), np.float32)}),
            rf"{WEIGHTS}: tensor {GATE} .*\[40, 23\], .*\[40, 24\]",
        ),
        (lambda tensors: tensors.update({NORM: np.zeros(24, np.int8)}), f"tensor {NORM} has dtype I8"),
    ],
    ids=["missing", "unknown", "shape", "dtype"],
)
def test_mismatched_tensor_is_named(saved, change, message):
    _, directory = saved()
    change_tensors(directory, change)
    with pytest.raises(CheckpointError, match=message):
        load_model(directory)


def test_stored_tied_head_must_equal_the_embedding(saved):
    _, directory = saved(tie_word_embeddings=True)
    change_tensors(directory, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].copy()}))
    load_model(directory)
    change_tensors(directory, lambda t: t.update({"lm_head.weight": 2 * t["model.embed_tokens.weight"]}))
    with pytest.raises(CheckpointError, match=r"lm_head.weight differs from model.embed_tokens.weight"):
        load_model(directory)


def test_redundant_tensors_are_ignored(saved):
    _, directory = saved()
    config, params = load_model(directory)
    inverse = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(3, np.float32)}
    change_tensors(directory, lambda tensors: tensors.update(inverse))
    same_config, same_params = load_model(directory)
    assert same_config == config
    jax.tree.map(np.testing.assert_array_equal, same_params, params)


def test_missing_or_damaged_files_are_named(saved, tmp_path):
    with pytest.raises(CheckpointError, match=r"config.json: no such file"):
        load_model(tmp_path / "nowhere")
    _, directory = saved(max_shard_size="20KB")
    shards = sorted(directory.glob("*.safetensors"))
    shards[0].write_bytes(shards[0].read_bytes()[:100])
    with pytest.raises(CheckpointError, match=f"{shards[0].name}: not a valid safetensors file"):
        load_model(directory)
    shards[0].unlink()
    with pytest.raises(CheckpointError, match=f"{shards[0].name}: no such file"):
        load_model(directory)
    for file in [*shards[1:], directory / "model.safetensors.index.json"]:
        file.unlink()
    (directory / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(CheckpointError, match=r"Pickled weights .* are not read"):
        load_model(directory)


@pytest.mark.parametrize(
    "content", ["[1]", "{}", '{"weight_map": {}}', '{"weight_map": []}', '{"weight_map": {"a": 3}}']
)
def test_index_without_files(saved, content):
    _, directory = saved()
    (directory / WEIGHTS).unlink()
    (directory / "model.safetensors.index.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"model.safetensors.index.json: has no weight_map"):
        load_model(directory)


@pytest.mark.parametrize("name", [CONFIG, "model.safetensors.index.json"])
def test_invalid_json_is_named(saved, name):
    _, directory = saved(max_shard_size="20KB")
    (directory / name).write_text("{")
    with pytest.raises(WorkdirError, match=f"{name}: not valid JSON"):
        load_model(directory)
