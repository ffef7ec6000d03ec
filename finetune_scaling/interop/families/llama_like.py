"""Fields of config.json and names of tensors that Llama and the families derived from it share."""

from collections.abc import Mapping
from typing import Any

from finetune_scaling.errors import ConfigError
from finetune_scaling.interop.families.config_json import Fields, write_choice
from finetune_scaling.interop.families.family import LAYER, Tensor
from finetune_scaling.interop.families.rope_json import write_scaling
from finetune_scaling.models.config import DENSE_LAYERS, ModelConfig

SHAPE = {  # our field: field of config.json
    "vocab_size": "vocab_size",
    "layers": "num_hidden_layers",
    "model_dim": "hidden_size",
    "heads": "num_attention_heads",
    "ffn_dim": "intermediate_size",
    "max_length": "max_position_embeddings",
}
COMPUTE = {"float32": "float32", "bfloat16": "bfloat16", "float16": "float32"}  # bfloat16 would round float16 weights
ACTIVATIONS = {"silu": "swiglu", "gelu_pytorch_tanh": "geglu"}
ATTENTION_LAYERS, FEED_FORWARD_LAYERS = DENSE_LAYERS[:4], DENSE_LAYERS[4:]
LLAMA_NORMS = {"norm": "input_layernorm", "feed_forward_norm": "post_attention_layernorm"}
_DENSE = {
    "query": ("attention", "self_attn.q_proj"),
    "key": ("attention", "self_attn.k_proj"),
    "value": ("attention", "self_attn.v_proj"),
    "attention_out": ("attention", "self_attn.o_proj"),
    "gate": ("feed_forward", "mlp.gate_proj"),
    "up": ("feed_forward", "mlp.up_proj"),
    "down": ("feed_forward", "mlp.down_proj"),
}
_QK_NORMS = {"query_norm": "self_attn.q_norm", "key_norm": "self_attn.k_norm"}
IGNORED = (f"model.layers.{LAYER}.self_attn.rotary_emb.inv_freq",)  # computed from the config


def read_llama_fields(
    fields: Fields,
    *,
    kv_heads: int | float | None,
    head_dim: int | float | None = None,
    activation: tuple[str, str] = ("hidden_act", "silu"),
    tied: bool = False,
) -> dict[str, Any]:
    """Return the fields of our config that these families share, without positions.

    Args:
        fields: The fields of config.json.
        kv_heads: Default of num_key_value_heads; None makes the field required.
        head_dim: Default of head_dim; None stands for hidden_size / num_attention_heads.
        activation: The field's name and its default.
        tied: Default of tie_word_embeddings.
    """
    shape = {field: fields.number(name) for field, name in SHAPE.items()}
    return {
        **shape,
        "kv_heads": fields.number("num_key_value_heads", kv_heads),
        "head_dim": _head_dim(fields, shape, head_dim),
        "block": "sequential",
        "norm": "rmsnorm",
        "norm_epsilon": fields.number("rms_norm_eps"),
        "activation": fields.choice(activation[:1], activation[1], ACTIVATIONS),
        "tied_head": fields.flag("tie_word_embeddings", tied),
        "scale_logits": False,
        "embedding_std": fields.number("initializer_range", 0.02),
        "compute_dtype": fields.choice(("dtype", "torch_dtype"), "float32", COMPUTE),
    }


def write_llama_fields(
    config: ModelConfig, model_type: str, architecture: str, activation: str = "hidden_act"
) -> dict[str, Any]:
    """Return the fields of config.json that `read_llama_fields` reads, with RoPE and the architecture's name."""
    return {
        "architectures": [architecture],
        "model_type": model_type,
        **{name: getattr(config, field) for field, name in SHAPE.items()},
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.norm_epsilon,
        "rope_theta": config.rope_theta,
        "rope_scaling": write_scaling(config.rope_scaling),
        activation: write_choice(config.activation, ACTIVATIONS, "activation", model_type),
        "tie_word_embeddings": config.tied_head,
        "initializer_range": config.embedding_std,
        "dtype": config.compute_dtype,
    }


def biased_layers(fields: Fields, **layers: tuple[str, ...]) -> tuple[str, ...]:
    """Return the dense layers with a bias; `layers` maps each flag of config.json to the layers that it concerns."""
    names = {name for flag, dense in layers.items() if fields.flag(flag) for name in dense}
    return tuple(name for name in DENSE_LAYERS if name in names)


def llama_tensors(
    config: ModelConfig, norms: Mapping[str, str] = LLAMA_NORMS, model: str = "model", head: str = "lm_head.weight"
) -> tuple[Tensor, ...]:
    """Return every tensor of a model; `norms` maps our names of a block's norms to the family's."""
    layer = f"{model}.layers.{LAYER}"
    dense = {name: where for name, where in _DENSE.items() if name != "gate" or config.gated}
    qk_norms = _QK_NORMS if config.qk_norm != "none" else {}
    return (
        Tensor(f"{model}.embed_tokens.weight", "embedding"),
        *(
            Tensor(f"{layer}.{module}.weight", f"layers/{part}/{name}/kernel", transposed=True)
            for name, (part, module) in dense.items()
        ),
        *(
            Tensor(f"{layer}.{module}.bias", f"layers/{part}/{name}/bias")
            for name, (part, module) in dense.items()
            if name in config.biased
        ),
        *(Tensor(f"{layer}.{norm}.weight", f"layers/attention/{name}/scale") for name, norm in qk_norms.items()),
        *(Tensor(f"{layer}.{norms[name]}.weight", f"layers/{name}/scale") for name in config.layer_norms),
        Tensor(f"{model}.norm.weight", "final_norm/scale"),
        *(() if config.tied_head else (Tensor(head, "head", transposed=True),)),
    )


def _head_dim(fields: Fields, shape: Mapping[str, int | float], default: int | float | None) -> int | float:
    if default is not None or fields.get("head_dim") is not None:
        return fields.number("head_dim", default)
    return divided_head_dim(fields, shape)


def divided_head_dim(fields: Fields, shape: Mapping[str, int | float]) -> int | float:
    """Return hidden_size / num_attention_heads. Raises ConfigError where it is not an integer."""
    model_dim, heads = shape["model_dim"], shape["heads"]
    if heads < 1 or model_dim % heads:
        raise ConfigError(
            f"{fields.where}: hidden_size = {model_dim} is not a multiple of num_attention_heads = {heads}"
        )
    return model_dim // heads
