"""Gemma 2 (Gemma Team, 2024) and the text models of Gemma 3 (Gemma Team, 2025).

Both have norms before and after attention and feed-forward with scales 1 + w, scaled embeddings, and sliding-window
layers. Gemma 2 has soft caps of attention scores and logits; Gemma 3 has QK norm and a separate local RoPE theta.
"""

from typing import Any

from finetune_scaling.errors import ConfigError
from finetune_scaling.interop.families.config_json import FULL, LOCAL, Fields, integral
from finetune_scaling.interop.families.family import Family
from finetune_scaling.interop.families.llama_like import ATTENTION_LAYERS, llama_family, llama_tensors
from finetune_scaling.interop.families.rope_json import layer_types, read_rope, read_rope_group, read_windows
from finetune_scaling.models.config import ModelConfig

_NORMS = {
    "norm": "input_layernorm",
    "attention_out_norm": "post_attention_layernorm",
    "feed_forward_norm": "pre_feedforward_layernorm",
    "feed_forward_out_norm": "post_feedforward_layernorm",
}
_DEFAULTS = {
    "num_key_value_heads": 4, "head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 4096,
    "tie_word_embeddings": True,
}  # fmt: skip
_GEMMA3_DEFAULTS = {
    **_DEFAULTS, "vocab_size": 262_208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
    "num_attention_heads": 8, "max_position_embeddings": 131_072, "rms_norm_eps": 1e-6, "_sliding_window_pattern": 6,
    "rope_local_base_freq": 10_000.0,
}  # fmt: skip
_GEMMA3_THETA = 1_000_000.0
_OUTER = ("dtype", "torch_dtype", "tie_word_embeddings")  # of the multimodal model, used where its text_config has none


def _gemma(model_type: str, architecture: str, **differences: Any) -> Family:
    return llama_family(
        model_type,
        architecture,
        activation=("hidden_activation", "gelu_pytorch_tanh"),
        biases={"attention_bias": ATTENTION_LAYERS},
        read=_read,
        norms=_NORMS,
        **differences,
    )


def _read(fields: Fields) -> dict[str, Any]:
    scalar = fields.number("query_pre_attn_scalar")
    return {
        "query_scalar": None if scalar == fields.get("head_dim") else scalar,
        "attention_softcap": fields.optional_number("attn_logit_softcapping"),
        "logit_softcap": fields.optional_number("final_logit_softcapping"),
    }


def _write(config: ModelConfig) -> dict[str, Any]:
    scalar = config.head_dim if config.query_scalar is None else config.query_scalar
    return {
        "query_pre_attn_scalar": integral(scalar),  # transformers requires an int
        "attn_logit_softcapping": config.attention_softcap,
        "final_logit_softcapping": config.logit_softcap,
        "sliding_window": config.window,
        "layer_types": layer_types(config),
    }


def _write_gemma3(config: ModelConfig) -> dict[str, Any]:
    local = {} if config.local_rope_theta is None else {"rope_local_base_freq": config.local_rope_theta}
    return {**_write(config), **local}


def _gemma2_positions(fields: Fields) -> dict[str, Any]:
    return {**read_rope(fields), **_read_windows(fields, 2)}


def _gemma3_positions(fields: Fields) -> dict[str, Any]:
    pattern = "_sliding_window_pattern" if fields.get("sliding_window_pattern") is None else "sliding_window_pattern"
    windows = _read_windows(fields, fields.positive_integer(pattern))
    rope, local_theta = _read_gemma3_rope(fields)
    return {**rope, **windows, "local_rope_theta": local_theta} if windows else rope


def _read_windows(fields: Fields, pattern: int) -> dict[str, Any]:
    """Read the windows; without `layer_types` every `pattern`-th layer has full attention."""
    return read_windows(fields, [(i + 1) % pattern != 0 for i in range(fields.integer("num_hidden_layers"))])


def _read_gemma3_rope(fields: Fields) -> tuple[dict[str, Any], float]:
    """Return RoPE and the theta of local layers, from the objects of transformers 5 or the fields of older files."""
    theta = fields.number("rope_local_base_freq")
    group = fields.group("rope_parameters")
    if group is None or not {FULL, LOCAL} & set(group.values):
        return read_rope(fields, _GEMMA3_THETA), theta
    local_group = group.group(LOCAL)
    local = read_rope_group(fields, local_group, theta)
    if local_group is not None and local["rope_scaling"] is not None:
        raise local_group.unsupported("rope_type", local_group.get("rope_type"), "local layers have no RoPE scaling")
    return read_rope_group(fields, group.group(FULL), _GEMMA3_THETA), local["rope_theta"]


def _read_text_model(fields: Fields) -> dict[str, Any]:
    """Read the text model of a multimodal one."""
    text = fields.group("text_config")
    given = {name: fields.get(name) for name in _OUTER if fields.get(name) is not None}
    text_fields = GEMMA3_TEXT.fields(
        given if text is None else {**given, **text.values}, f"{fields.where}: text_config"
    )
    values = GEMMA3_TEXT.read(text_fields)
    text_fields.check_rest()
    return values


def _reject(config: ModelConfig) -> dict[str, Any]:
    raise ConfigError("gemma3 is multimodal, and only its text model is supported. Fix: export as gemma3_text.")


_CONSTANTS = {"norm_place": "both", "norm_offset": 1.0, "scale_embeddings": True}
GEMMA2 = _gemma(
    "gemma2",
    "Gemma2ForCausalLM",
    constants=_CONSTANTS,
    positions=_gemma2_positions,
    write=_write,
    defaults={**_DEFAULTS, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
)
GEMMA3_TEXT = _gemma(
    "gemma3_text",
    "Gemma3ForCausalLM",
    constants={**_CONSTANTS, "qk_norm": "head"},
    positions=_gemma3_positions,
    write=_write_gemma3,
    defaults=_GEMMA3_DEFAULTS,
)
GEMMA3 = Family(
    "gemma3",
    "Gemma3ForConditionalGeneration",
    _read_text_model,
    _reject,
    lambda config: llama_tensors(config, _NORMS, "language_model.model", "language_model.lm_head.weight"),
    ignored=r"(vision_tower|multi_modal_projector)\..+",
)
