"""The Llama family (Touvron et al., 2023): sequential blocks, RMSNorm, SwiGLU, rotary positions by halves."""

from collections.abc import Mapping
from typing import Any

from finetune_scaling import configuration
from finetune_scaling.errors import ConfigError
from finetune_scaling.interop.family import LAYER, Family, Tensor
from finetune_scaling.models.config import ModelConfig

_REQUIRED = {
    "vocab_size": "vocab_size",
    "layers": "num_hidden_layers",
    "model_dim": "hidden_size",
    "heads": "num_attention_heads",
    "ffn_dim": "intermediate_size",
    "norm_epsilon": "rms_norm_eps",
    "max_length": "max_position_embeddings",
}
_ACTIVATIONS = {"silu": "swiglu", "gelu_pytorch_tanh": "geglu"}
_COMPUTE = {"float32": "float32", "bfloat16": "bfloat16", "float16": "float32"}  # float16's values fit float32 alone
# Fields that change what is computed, and the values at which they change nothing.
_ABSENT: dict[str, tuple[Any, ...]] = {
    "attention_bias": (None, False),
    "mlp_bias": (None, False),
    "rope_scaling": (None,),
    "sliding_window": (None,),
    "quantization_config": (None,),
    "partial_rotary_factor": (None, 1, 1.0),
}


def read_config(fields: Mapping[str, Any], where: str) -> ModelConfig:
    """Our config of a Llama's config.json. Raises ConfigError that names `where` and the field."""
    for name, harmless in _ABSENT.items():
        if fields.get(name) not in harmless:
            raise _unsupported(where, name, fields[name], "leave models with it out")
    shape = {ours: _number(fields, theirs, where) for ours, theirs in _REQUIRED.items()}
    heads = shape["heads"]
    return configuration.build(
        ModelConfig,
        {
            **shape,
            "kv_heads": _number(fields, "num_key_value_heads", where, heads),
            "head_dim": _head_dim(fields, shape["model_dim"], heads, where),
            "block": "sequential",
            "norm": "rmsnorm",
            "activation": _choice(fields, ("hidden_act",), "silu", _ACTIVATIONS, where),
            "rope_theta": _rope_theta(fields, where),
            "tied_head": bool(fields.get("tie_word_embeddings", False)),
            "scale_logits": False,
            "embedding_std": _number(fields, "initializer_range", where, 0.02),
            "compute_dtype": _choice(fields, ("dtype", "torch_dtype"), "float32", _COMPUTE, where),
        },
        where,
    )


def write_config(config: ModelConfig) -> dict[str, Any]:
    """The fields of a Llama's config.json."""
    written = {ours: theirs for theirs, ours in _ACTIVATIONS.items()}
    if config.activation not in written:
        raise ConfigError(f"model.activation = {config.activation!r}, where llama has {' or '.join(written)}")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **{theirs: getattr(config, ours) for ours, theirs in _REQUIRED.items()},
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": written[config.activation],
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": config.tied_head,
        "initializer_range": config.embedding_std,
        "dtype": config.compute_dtype,
    }


def tensors(config: ModelConfig) -> tuple[Tensor, ...]:
    """Every tensor of a Llama."""
    layer = f"model.layers.{LAYER}"
    kernels = {
        f"{layer}.self_attn.q_proj": "attention/query",
        f"{layer}.self_attn.k_proj": "attention/key",
        f"{layer}.self_attn.v_proj": "attention/value",
        f"{layer}.self_attn.o_proj": "attention/attention_out",
        f"{layer}.mlp.gate_proj": "feed_forward/gate",
        f"{layer}.mlp.up_proj": "feed_forward/up",
        f"{layer}.mlp.down_proj": "feed_forward/down",
    }
    head = () if config.tied_head else (Tensor("lm_head.weight", "head", transposed=True),)
    return (
        Tensor("model.embed_tokens.weight", "embedding"),
        *(Tensor(f"{theirs}.weight", f"layers/{ours}/kernel", transposed=True) for theirs, ours in kernels.items()),
        Tensor(f"{layer}.input_layernorm.weight", "layers/norm/scale"),
        Tensor(f"{layer}.post_attention_layernorm.weight", "layers/feed_forward_norm/scale"),
        Tensor("model.norm.weight", "final_norm/scale"),
        *head,
    )


LLAMA = Family(
    "llama",
    read_config,
    tensors,
    write_config,
    ignored=(f"model.layers.{LAYER}.self_attn.rotary_emb.inv_freq",),
)


def _number(fields: Mapping[str, Any], name: str, where: str, default: float | None = None) -> int | float:
    """A field's number; the default where it is absent or null, which without one is an error."""
    value = fields.get(name)
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        state = "is missing" if value is None else f"= {value!r} is not a number"
        raise ConfigError(f"{where}: {name} {state}; this is not the config of a Llama model")
    return value


def _head_dim(fields: Mapping[str, Any], model_dim: int | float, heads: int | float, where: str) -> int | float:
    if fields.get("head_dim") is not None:
        return _number(fields, "head_dim", where)
    if heads < 1 or model_dim % heads:
        raise ConfigError(f"{where}: hidden_size = {model_dim} is not a multiple of num_attention_heads = {heads}")
    return model_dim // heads


def _choice(
    fields: Mapping[str, Any], names: tuple[str, ...], default: str, known: Mapping[str, str], where: str
) -> str:
    """Our word for the first of these fields that is there."""
    name = next((name for name in names if fields.get(name) is not None), names[0])
    value = fields.get(name) or default
    if not isinstance(value, str) or value not in known:
        raise _unsupported(where, name, value, f"it may be {' or '.join(known)}")
    return known[value]


def _rope_theta(fields: Mapping[str, Any], where: str) -> int | float:
    """Of transformers 5's `rope_parameters`, or of the field that older files have."""
    rope = fields.get("rope_parameters")
    if rope is None:
        rope = {}
    if not isinstance(rope, Mapping):
        raise ConfigError(f"{where}: rope_parameters = {rope!r} is not a group of fields")
    for name, harmless in (("rope_type", (None, "default")), ("partial_rotary_factor", (None, 1, 1.0))):
        if rope.get(name) not in harmless:
            raise _unsupported(where, f"rope_parameters.{name}", rope[name], "leave models with it out")
    return _number(rope if rope.get("rope_theta") is not None else fields, "rope_theta", where, 10_000.0)


def _unsupported(where: str, name: str, value: Any, mend: str) -> ConfigError:
    return ConfigError(f"{where}: {name} = {value!r} is something that our decoder does not compute; {mend}")
