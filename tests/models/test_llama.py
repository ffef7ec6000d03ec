"""The sequential, untied form is Llama: same weights, same logits as Hugging Face's LlamaForCausalLM."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from finetune_scaling.models.config import ModelConfig
from finetune_scaling.models.language_model import LanguageModel
from finetune_scaling.models.token_layout import TokenLayout

ATTENTION = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "attention_out"}
FEED_FORWARD = {"gate_proj": "gate", "up_proj": "up", "down_proj": "down"}


def llama_form(heads: int, kv_heads: int) -> ModelConfig:
    return ModelConfig(
        vocab_size=59,
        layers=3,
        model_dim=24,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=8,  # heads x head_dim need not be model_dim
        ffn_dim=40,
        block="sequential",
        tied_head=False,
        scale_logits=False,
        rope_theta=500.0,
        norm_epsilon=1e-5,
        compute_dtype="float32",
    )


def random_llama(config: ModelConfig) -> LlamaForCausalLM:
    """A Llama of the same shape with random weights, those of the norms among them."""
    torch.manual_seed(0)
    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.model_dim,
            intermediate_size=config.ffn_dim,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            head_dim=config.head_dim,
            rms_norm_eps=config.norm_epsilon,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            tie_word_embeddings=False,
            attn_implementation="eager",
        )
    )
    with torch.no_grad():
        for name, weight in llama.named_parameters():
            weight.normal_(1.0 if "norm" in name else 0.0, 0.3)
    return llama.eval()


def parameters_of(llama: LlamaForCausalLM, layers: int):
    """Llama's weights under our names: kernels transposed, layers stacked."""
    weights = {name: jnp.asarray(weight.numpy()) for name, weight in llama.state_dict().items()}

    def stacked(name: str):
        return jnp.stack([weights[f"model.layers.{layer}.{name}.weight"] for layer in range(layers)])

    def kernels(folder: str, names: dict[str, str]):
        return {ours: {"kernel": stacked(f"{folder}.{theirs}").swapaxes(1, 2)} for theirs, ours in names.items()}

    return {
        "embedding": weights["model.embed_tokens.weight"],
        "head": weights["lm_head.weight"].T,
        "final_norm": {"scale": weights["model.norm.weight"]},
        "layers": {
            "norm": {"scale": stacked("input_layernorm")},
            "feed_forward_norm": {"scale": stacked("post_attention_layernorm")},
            "attention": kernels("self_attn", ATTENTION),
            "feed_forward": kernels("mlp", FEED_FORWARD),
        },
    }


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (4, 1)])
def test_logits_equal_hugging_faces(heads, kv_heads):
    config = llama_form(heads, kv_heads)
    llama = random_llama(config)
    params, model = parameters_of(llama, config.layers), LanguageModel(config)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(lambda leaf: leaf.shape, shapes)

    tokens = np.random.default_rng(1).integers(config.vocab_size, size=(2, 17))
    positions = jnp.broadcast_to(jnp.arange(17), tokens.shape)
    layout = TokenLayout(positions, jnp.ones_like(positions), jnp.zeros(tokens.shape, bool))
    hidden, _ = jax.jit(model.forward)(params, model.embed(params, tokens), layout)
    with torch.no_grad():
        expected = llama(torch.from_numpy(tokens)).logits.numpy()
    assert np.abs(expected).max() > 1  # else the bound below would say little
    np.testing.assert_allclose(model.unembed(params, hidden), expected, atol=1e-4)
