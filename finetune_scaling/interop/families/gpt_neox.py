"""GPT-NeoX (Black et al., 2022) and Pythia (Biderman et al., 2023).

They have parallel blocks with two LayerNorms, biases, RoPE on a fraction of each head, and a fused QKV tensor.
"""

from collections.abc import Mapping
from typing import Any

from finetune_scaling import configuration
from finetune_scaling.interop.families.config_json import Fields, write_choice
from finetune_scaling.interop.families.family import LAYER, Family, FusedSlice, Tensor
from finetune_scaling.interop.families.llama_like import (
    ATTENTION_LAYERS,
    COMPUTE,
    SHAPE,
    divided_head_dim,
)
from finetune_scaling.interop.families.rope_json import read_rope, rope_group, write_scaling
from finetune_scaling.models.config import ModelConfig

_ACTIVATIONS = {"gelu": "gelu", "relu": "relu"}
_FRACTION = 0.25  # of a head's dimensions with RoPE; default where the field is absent


def read_config(values: Mapping[str, Any], where: str) -> ModelConfig:
    """Convert the fields of a config.json. Raises ConfigError, naming `where` and the field."""
    fields = Fields(values, where, "a GPT-NeoX model")
    shape = {field: fields.number(name) for field, name in SHAPE.items()}
    parallel = fields.flag("use_parallel_residual", True)
    form = {
        **shape,
        **_read_rope(fields),
        "kv_heads": shape["heads"],
        "head_dim": divided_head_dim(fields, shape),
        "block": "parallel" if parallel else "sequential",
        "shared_norm": not parallel,
        "norm": "layernorm",
        "norm_epsilon": fields.number("layer_norm_eps", 1e-5),
        "activation": fields.choice(("hidden_act",), "gelu", _ACTIVATIONS),
        "biased": (ATTENTION_LAYERS if fields.flag("attention_bias", True) else ()) + ("up", "down"),
        "tied_head": fields.flag("tie_word_embeddings"),
        "scale_logits": False,
        "embedding_std": fields.number("initializer_range", 0.02),
        "compute_dtype": fields.choice(("dtype", "torch_dtype"), "float32", COMPUTE),
    }
    fields.check_rest()
    return configuration.build(ModelConfig, form, where)


def write_config(config: ModelConfig) -> dict[str, Any]:
    """Return the fields of a config.json."""
    return {
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": "gpt_neox",
        **{name: getattr(config, field) for field, name in SHAPE.items()},
        "layer_norm_eps": config.norm_epsilon,
        "hidden_act": write_choice(config.activation, _ACTIVATIONS, "activation", "gpt_neox"),
        "use_parallel_residual": config.block == "parallel",
        "attention_bias": "attention_out" in config.biased,
        "rotary_emb_base": config.rope_theta,
        "rotary_pct": config.rope_fraction,
        "rope_scaling": write_scaling(config.rope_scaling),
        "tie_word_embeddings": config.tied_head,
        "initializer_range": config.embedding_std,
        "dtype": config.compute_dtype,
    }


def tensors(config: ModelConfig) -> tuple[Tensor, ...]:
    """Return every tensor of a model."""
    layer = f"gpt_neox.layers.{LAYER}"
    fused = {name: FusedSlice(i, 3, config.heads) for i, name in enumerate(("query", "key", "value"))}
    dense: dict[str, tuple[str, FusedSlice | None]] = {
        **{f"attention/{name}": (f"{layer}.attention.query_key_value", each) for name, each in fused.items()},
        "attention/attention_out": (f"{layer}.attention.dense", None),
        "feed_forward/up": (f"{layer}.mlp.dense_h_to_4h", None),
        "feed_forward/down": (f"{layer}.mlp.dense_4h_to_h", None),
    }
    norms = {
        "layers/norm": f"{layer}.input_layernorm",
        "layers/feed_forward_norm": f"{layer}.post_attention_layernorm",
        "final_norm": "gpt_neox.final_layer_norm",
    }
    return (
        Tensor("gpt_neox.embed_in.weight", "embedding"),
        *(
            Tensor(f"{module}.weight", f"layers/{path}/kernel", transposed=True, fused=each)
            for path, (module, each) in dense.items()
        ),
        *(
            Tensor(f"{module}.bias", f"layers/{path}/bias", fused=each)
            for path, (module, each) in dense.items()
            if path.rpartition("/")[2] in config.biased
        ),
        *(
            Tensor(f"{module}.{suffix}", f"{path}/{leaf}")
            for path, module in norms.items()
            for suffix, leaf in (("weight", "scale"), ("bias", "bias"))
        ),
        *(() if config.tied_head else (Tensor("embed_out.weight", "head", transposed=True),)),
    )


def _read_rope(fields: Fields) -> dict[str, Any]:
    group = rope_group(fields)
    theta, fraction = fields.number("rotary_emb_base", 10_000.0), fields.number("rotary_pct", _FRACTION)
    if group is not None:
        fraction = group.number("partial_rotary_factor", fraction)
    return {**read_rope(fields, group, theta), "rope_fraction": fraction}


GPT_NEOX = Family(
    "gpt_neox",
    read_config,
    tensors,
    write_config,
    # Older files store the causal mask and the rotary frequencies.
    ignored=tuple(
        f"gpt_neox.layers.{LAYER}.attention.{name}" for name in ("bias", "masked_bias", "rotary_emb.inv_freq")
    ),
)
