"""Prefix tuning against a Hugging Face Llama that is given the same keys and values as past_key_values."""

import jax
import numpy as np
import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from finetune_scaling.interop.hugging_face_model import load_model
from finetune_scaling.models.language_model import LanguageModel
from finetune_scaling.models.token_layout import TokenLayout
from finetune_scaling.tuning.attach import attach
from finetune_scaling.tuning.method import configure
from finetune_scaling.tuning.partition import combine
from finetune_scaling.tuning.registry import METHODS

LENGTH, LAYERS, HEADS, HEAD_DIM = 4, 2, 2, 8


def test_a_prefix_is_hugging_faces_past_key_values(tmp_path):
    """With the MLP, whose output PEFT reshapes to [P, layers, key or value, heads, head_dim]."""
    torch.manual_seed(0)
    theirs = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=60, hidden_size=32, intermediate_size=40, num_hidden_layers=LAYERS, num_attention_heads=4,
            num_key_value_heads=HEADS, head_dim=HEAD_DIM, max_position_embeddings=64, attn_implementation="eager",
        )
    ).eval()  # fmt: skip
    theirs.save_pretrained(tmp_path)
    config, base = load_model(tmp_path)
    method = configure(METHODS, {"name": "prefix", "length": LENGTH, "mlp_width": 6})
    trainable, frozen = attach(config, method, jax.random.key(0), base, range(8, 60))
    params = combine(trainable, frozen)

    mlp = jax.tree.map(lambda leaf: torch.from_numpy(np.array(leaf)), trainable["prefix"])
    hidden = torch.tanh(mlp["embedding"] @ mlp["hidden"]["kernel"] + mlp["hidden"]["bias"])
    flat = hidden @ mlp["output"]["kernel"] + mlp["output"]["bias"]
    past = flat.view(1, LENGTH, LAYERS * 2, HEADS, HEAD_DIM).permute(2, 0, 3, 1, 4).split(2)  # as PEFT does
    cache = DynamicCache()
    for layer, (keys, values) in enumerate(past):
        cache.update(keys, values, layer)
    tokens = np.random.default_rng(0).integers(4, 60, size=(1, 9))
    mask = torch.ones(1, LENGTH + tokens.shape[1])
    with torch.no_grad():
        expected = theirs(torch.from_numpy(tokens), past_key_values=cache, attention_mask=mask).logits.numpy()

    model = LanguageModel(config, method.adapter)
    positions = np.arange(tokens.shape[1], dtype=np.int32)[None]
    layout = TokenLayout(positions, np.ones_like(positions), np.zeros(tokens.shape, bool))

    @jax.jit
    def logits(params):
        params = method.model_params(config, params)
        states, _ = model.forward(params, *method.embed(model, params, tokens, layout))
        return model.unembed(params, states[:, LENGTH:])

    np.testing.assert_allclose(logits(params), expected, atol=2e-4)
