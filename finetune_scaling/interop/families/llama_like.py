"""Fields of config.json and names of tensors that Llama and the families derived from it share."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from finetune_scaling.errors import ConfigError
from finetune_scaling.interop.families.config_json import Fields
from finetune_scaling.interop.families.family import LAYER, Family, Tensor, dense_tensors
from finetune_scaling.interop.families.rope_json import read_rope, write_scaling
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
_ACTIVATIONS = {"silu": "swiglu", "gelu_pytorch_tanh": "geglu"}
_ACTIVATION_NAMES = {"swiglu": "silu", "geglu": "gelu_pytorch_tanh"}
ATTENTION_LAYERS, FEED_FORWARD_LAYERS = DENSE_LAYERS[:4], DENSE_LAYERS[4:]
_NORMS = {"norm": "input_layernorm", "feed_forward_norm": "post_attention_layernorm"}
_DENSE = {
    "attention/query": "self_attn.q_proj",
    "attention/key": "self_attn.k_proj",
    "attention/value": "self_attn.v_proj",
    "attention/attention_out": "self_attn.o_proj",
    "feed_forward/gate": "mlp.gate_proj",
    "feed_forward/up": "mlp.up_proj",
    "feed_forward/down": "mlp.down_proj",
}
_QK_NORMS = {"query_norm": "self_attn.q_norm", "key_norm": "self_attn.k_norm"}
_IGNORED = r"(.+\.)?rotary_emb\.inv_freq"  # computed from the config


def llama_family(
    model_type: str,
    architecture: str,
    *,
    activation: tuple[str, str] = ("hidden_act", "silu"),
    biases: Mapping[str, tuple[str, ...]] = {},
    constants: Mapping[str, Any] = {},
    positions: Callable[[Fields], dict[str, Any]] = read_rope,
    read: Callable[[Fields], dict[str, Any]] = lambda _: {},
    write: Callable[[ModelConfig], dict[str, Any]] = lambda _: {},
    norms: Mapping[str, str] = _NORMS,
    defaults: Mapping[str, Any] = {},
) -> Family:
    """Return a family derived from Llama; see `Family`.

    Args:
        model_type: Its model_type in config.json.
        architecture: The name of its model class in transformers.
        activation: The field of config.json with the activation, and its default.
        biases: The dense layers with a bias, by the flag of config.json that says whether they have it.
        constants: Fields of our config that are the same in all models of the family.
        positions: Reads the rotary embeddings.
        read: Reads the family's other fields.
        write: Writes the family's other fields.
        norms: The family's names of a block's norms, by ours.
        defaults: Values of absent fields.
    """

    def read_all(fields: Fields) -> dict[str, Any]:
        biased = {name for flag, layers in biases.items() if fields.flag(flag) for name in layers}
        values = {**_read_shared(fields, *activation), **positions(fields), **constants}
        return {"biased": [name for name in DENSE_LAYERS if name in biased], **values, **read(fields)}

    def write_all(config: ModelConfig) -> dict[str, Any]:
        flags = {flag: layers[-1] in config.biased for flag, layers in biases.items()}
        return {
            **_write_shared(config),
            activation[0]: _ACTIVATION_NAMES.get(config.activation),
            **flags,
            **write(config),
        }

    tensors = functools.partial(llama_tensors, norms=norms)
    return Family(model_type, architecture, read_all, write_all, tensors, defaults, ignored=_IGNORED)


def _read_shared(fields: Fields, activation: str, default_activation: str) -> dict[str, Any]:
    """Return the fields of our config that these families share, without positions."""
    shape = {field: fields.number(name) for field, name in SHAPE.items()}
    head_dim = fields.get("head_dim")
    return {
        **shape,
        "kv_heads": fields.number("num_key_value_heads", shape["heads"]),
        "head_dim": divided_head_dim(fields, shape) if head_dim is None else fields.number("head_dim"),
        "block": "sequential",
        "norm": "rmsnorm",
        "norm_epsilon": fields.number("rms_norm_eps"),
        "activation": fields.choice((activation,), default_activation, _ACTIVATIONS),
        "tied_head": fields.flag("tie_word_embeddings"),
        "scale_logits": False,
        "embedding_std": fields.number("initializer_range", 0.02),
        "compute_dtype": fields.choice(("dtype", "torch_dtype"), "float32", COMPUTE),
    }


def _write_shared(config: ModelConfig) -> dict[str, Any]:
    """Return the fields of config.json that `_read_shared` reads, and RoPE."""
    return {
        **{name: getattr(config, field) for field, name in SHAPE.items()},
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.norm_epsilon,
        "rope_theta": config.rope_theta,
        "rope_scaling": write_scaling(config.rope_scaling),
        "tie_word_embeddings": config.tied_head,
        "initializer_range": config.embedding_std,
        "dtype": config.compute_dtype,
    }


def llama_tensors(
    config: ModelConfig, norms: Mapping[str, str] = _NORMS, model: str = "model", head: str = "lm_head.weight"
) -> tuple[Tensor, ...]:
    """Return every tensor of a model; `norms` maps our names of a block's norms to the family's."""
    layer = f"{model}.layers.{LAYER}"
    qk_norms = _QK_NORMS if config.qk_norm != "none" else {}
    return (
        Tensor(f"{model}.embed_tokens.weight", "embedding"),
        *dense_tensors(config, {path: f"{layer}.{module}" for path, module in _DENSE.items()}),
        *(Tensor(f"{layer}.{norm}.weight", f"layers/attention/{name}/scale") for name, norm in qk_norms.items()),
        *(Tensor(f"{layer}.{norms[name]}.weight", f"layers/{name}/scale") for name in config.layer_norms),
        Tensor(f"{model}.norm.weight", "final_norm/scale"),
        *(() if config.tied_head else (Tensor(head, "head", transposed=True),)),
    )


def divided_head_dim(fields: Fields, shape: Mapping[str, int | float]) -> int | float:
    """Return hidden_size / num_attention_heads. Raises ConfigError where it is not an integer."""
    model_dim, heads = shape["model_dim"], shape["heads"]
    if heads < 1 or model_dim % heads:
        raise ConfigError(
            f"{fields.where}: hidden_size = {model_dim} is not a multiple of num_attention_heads = {heads}. Fix: copy "
            "the file again."
        )
    return model_dim // heads
