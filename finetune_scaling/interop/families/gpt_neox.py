"""GPT-NeoX (Black et al., 2022) and Pythia (Biderman et al., 2023).

They have parallel blocks with two LayerNorms, biases, RoPE on a fraction of each head, and a fused QKV tensor.
"""

from typing import Any

from finetune_scaling.interop.families.config_json import Fields
from finetune_scaling.interop.families.family import LAYER, Family, FusedSlice, Tensor, dense_tensors
from finetune_scaling.interop.families.llama_like import ATTENTION_LAYERS, COMPUTE, SHAPE, divided_head_dim
from finetune_scaling.interop.families.rope_json import read_rope_group, rope_group, write_scaling
from finetune_scaling.models.config import ModelConfig


def _read(fields: Fields) -> dict[str, Any]:
    shape = {field: fields.number(name) for field, name in SHAPE.items()}
    parallel = fields.flag("use_parallel_residual", True)
    return {
        **shape,
        **_read_rope(fields),
        "kv_heads": shape["heads"],
        "head_dim": divided_head_dim(fields, shape),
        "block": "parallel" if parallel else "sequential",
        "shared_norm": not parallel,
        "norm": "layernorm",
        "norm_epsilon": fields.number("layer_norm_eps", 1e-5),
        "activation": fields.choice(("hidden_act",), "gelu", {"gelu": "gelu", "relu": "relu"}),
        "biased": (ATTENTION_LAYERS if fields.flag("attention_bias", True) else ()) + ("up", "down"),
        "tied_head": fields.flag("tie_word_embeddings"),
        "scale_logits": False,
        "embedding_std": fields.number("initializer_range", 0.02),
        "compute_dtype": fields.choice(("dtype", "torch_dtype"), "float32", COMPUTE),
    }


def _write(config: ModelConfig) -> dict[str, Any]:
    return {
        **{name: getattr(config, field) for field, name in SHAPE.items()},
        "layer_norm_eps": config.norm_epsilon,
        "hidden_act": config.activation,
        "use_parallel_residual": config.block == "parallel",
        "attention_bias": "attention_out" in config.biased,
        "rotary_emb_base": config.rope_theta,
        "rotary_pct": config.rope_fraction,
        "rope_scaling": write_scaling(config.rope_scaling),
        "tie_word_embeddings": config.tied_head,
        "initializer_range": config.embedding_std,
        "dtype": config.compute_dtype,
    }


def _tensors(config: ModelConfig) -> tuple[Tensor, ...]:
    layer = f"gpt_neox.layers.{LAYER}"
    fused = {f"attention/{name}": FusedSlice(i, 3, config.heads) for i, name in enumerate(("query", "key", "value"))}
    dense = {
        **dict.fromkeys(fused, f"{layer}.attention.query_key_value"),
        "attention/attention_out": f"{layer}.attention.dense",
        "feed_forward/up": f"{layer}.mlp.dense_h_to_4h",
        "feed_forward/down": f"{layer}.mlp.dense_4h_to_h",
    }
    norms = {
        "layers/norm": f"{layer}.input_layernorm",
        "layers/feed_forward_norm": f"{layer}.post_attention_layernorm",
        "final_norm": "gpt_neox.final_layer_norm",
    }
    return (
        Tensor("gpt_neox.embed_in.weight", "embedding"),
        *dense_tensors(config, dense, fused),
        *(
            Tensor(f"{module}.{suffix}", f"{path}/{leaf}")
            for path, module in norms.items()
            for suffix, leaf in (("weight", "scale"), ("bias", "bias"))
        ),
        *(() if config.tied_head else (Tensor("embed_out.weight", "head", transposed=True),)),
    )


def _read_rope(fields: Fields) -> dict[str, Any]:
    group = rope_group(fields)
    theta, fraction = fields.number("rotary_emb_base", 10_000.0), fields.number("rotary_pct", 0.25)
    if fields.get("rope_theta") not in (None, theta):
        raise fields.unsupported("rope_theta", fields.get("rope_theta"), "transformers reads rotary_emb_base instead")
    if group is not None:
        fraction = group.number("partial_rotary_factor", fraction)
    return {**read_rope_group(fields, group, theta), "rope_fraction": fraction}


GPT_NEOX = Family(
    "gpt_neox",
    "GPTNeoXForCausalLM",
    _read,
    _write,
    _tensors,
    # Older files store the causal mask and the rotary frequencies.
    ignored=r"(.+\.)?attention\.(bias|masked_bias)|(.+\.)?rotary_emb\.inv_freq",
)
