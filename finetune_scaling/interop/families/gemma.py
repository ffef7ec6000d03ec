"""Gemma 2 (Gemma Team, 2024) and the text models of Gemma 3 (Gemma Team, 2025).

Both have norms before and after attention and feed-forward with scales 1 + w, scaled embeddings, and sliding-window
layers. Gemma 2 has soft caps of attention scores and logits; Gemma 3 has QK norm and a separate local RoPE theta.
"""

from collections.abc import Mapping
from typing import Any

from finetune_scaling import configuration
from finetune_scaling.errors import ConfigError
from finetune_scaling.interop.families.config_json import FULL, LOCAL, Fields
from finetune_scaling.interop.families.family import REST, Family, Tensor
from finetune_scaling.interop.families.llama_like import (
    ATTENTION_LAYERS,
    IGNORED,
    biased_layers,
    llama_tensors,
    read_llama_fields,
    write_llama_fields,
)
from finetune_scaling.interop.families.rope_json import layer_types, read_rope, read_windows, rope_group
from finetune_scaling.models.config import ModelConfig

_NORMS = {
    "norm": "input_layernorm",
    "attention_out_norm": "post_attention_layernorm",
    "feed_forward_norm": "pre_feedforward_layernorm",
    "feed_forward_out_norm": "post_feedforward_layernorm",
}
# Defaults of absent fields in transformers.
_GEMMA2_CAPS = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
_KV_HEADS, _HEAD_DIM, _SCALAR, _WINDOW = 4, 256, 256, 4096
_GEMMA3_PATTERN, _GEMMA3_THETA, _GEMMA3_LOCAL_THETA = 6, 1_000_000.0, 10_000.0
_OUTER = ("dtype", "torch_dtype", "tie_word_embeddings")  # of the multimodal model, used where its text_config has none
_GEMMA3_TEXT = {
    "vocab_size": 262_208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
    "num_attention_heads": 8, "max_position_embeddings": 131_072, "rms_norm_eps": 1e-6,
}  # fmt: skip


def _read_gemma2(values: Mapping[str, Any], where: str) -> ModelConfig:
    fields = Fields(values, where, "a Gemma 2 model")
    form = {**_read(fields, _GEMMA2_CAPS), **read_rope(fields, rope_group(fields)), **_read_windows(fields, 2)}
    fields.check_rest()
    return configuration.build(ModelConfig, form, where)


def _read_gemma3(values: Mapping[str, Any], where: str) -> ModelConfig:
    fields = Fields({**_GEMMA3_TEXT, **values}, where, "a Gemma 3 model")
    form = {**_read(fields, {}), **_read_gemma3_rope(fields), "qk_norm": "head"}
    pattern = fields.integer("sliding_window_pattern", fields.integer("_sliding_window_pattern", _GEMMA3_PATTERN))
    if pattern < 1:
        raise fields.unsupported("sliding_window_pattern", pattern, "it must be at least 1")
    windows = _read_windows(fields, pattern)
    local_theta = form.pop("local_rope_theta")
    form |= {**windows, "local_rope_theta": local_theta} if windows else {}
    fields.check_rest()
    return configuration.build(ModelConfig, form, where)


def _read_gemma3_wrapper(values: Mapping[str, Any], where: str) -> ModelConfig:
    """Read the text model of a multimodal one."""
    outer = Fields(values, where, "a Gemma 3 model")
    text = outer.group("text_config")
    outer.check_rest()
    given = {name: outer.get(name) for name in _OUTER if outer.get(name) is not None}
    return _read_gemma3({**given, **({} if text is None else text.values)}, f"{where}: text_config")


def _read(fields: Fields, caps: Mapping[str, float]) -> dict[str, Any]:
    """Read the fields that both have; `caps` holds the defaults of the soft caps."""
    form = read_llama_fields(
        fields, kv_heads=_KV_HEADS, head_dim=_HEAD_DIM, activation=("hidden_activation", "gelu_pytorch_tanh"), tied=True
    )
    scalar = fields.number("query_pre_attn_scalar", _SCALAR)
    return {
        **form,
        "biased": biased_layers(fields, attention_bias=ATTENTION_LAYERS),
        "norm_place": "both",
        "norm_offset": 1.0,
        "scale_embeddings": True,
        "query_scalar": None if scalar == form["head_dim"] else scalar,
        "attention_softcap": fields.optional_number("attn_logit_softcapping", caps.get("attn_logit_softcapping")),
        "logit_softcap": fields.optional_number("final_logit_softcapping", caps.get("final_logit_softcapping")),
    }


def _read_windows(fields: Fields, pattern: int) -> dict[str, Any]:
    """Read the windows; without `layer_types` every `pattern`-th layer has full attention."""
    layers = fields.integer("num_hidden_layers")
    window = fields.optional_number("sliding_window", _WINDOW)
    return read_windows(fields, window, [(i + 1) % pattern != 0 for i in range(layers)])


def _read_gemma3_rope(fields: Fields) -> dict[str, Any]:
    """Read RoPE from the two objects of transformers 5, or from the fields of older files."""
    group = fields.group("rope_parameters")
    if group is None or not {FULL, LOCAL} & set(group.values):
        theta = fields.number("rope_local_base_freq", _GEMMA3_LOCAL_THETA)
        return {**read_rope(fields, rope_group(fields), _GEMMA3_THETA), "local_rope_theta": theta}
    local_group = group.group(LOCAL)
    local = read_rope(fields, local_group, _GEMMA3_LOCAL_THETA)
    if local_group is not None and local["rope_scaling"] is not None:
        raise local_group.unsupported("rope_type", local_group.get("rope_type"), "local layers have no RoPE scaling")
    fields.get("rope_local_base_freq")
    return {**read_rope(fields, group.group(FULL), _GEMMA3_THETA), "local_rope_theta": local["rope_theta"]}


def _write_gemma2(config: ModelConfig) -> dict[str, Any]:
    return _write(config, "gemma2", "Gemma2ForCausalLM")


def _write_gemma3(config: ModelConfig) -> dict[str, Any]:
    local = {} if config.local_rope_theta is None else {"rope_local_base_freq": config.local_rope_theta}
    return {**_write(config, "gemma3_text", "Gemma3ForCausalLM"), **local}


def _write(config: ModelConfig, model_type: str, architecture: str) -> dict[str, Any]:
    scalar = config.head_dim if config.query_scalar is None else config.query_scalar
    return {
        **write_llama_fields(config, model_type, architecture, "hidden_activation"),
        "attention_bias": "attention_out" in config.biased,
        "query_pre_attn_scalar": int(scalar) if scalar == int(scalar) else scalar,  # transformers requires an int
        "attn_logit_softcapping": config.attention_softcap,
        "final_logit_softcapping": config.logit_softcap,
        "sliding_window": config.window,
        "layer_types": layer_types(config),
    }


def _write_gemma3_wrapper(config: ModelConfig) -> dict[str, Any]:
    raise ConfigError("gemma3 is multimodal, and only its text model is supported. Fix: export as gemma3_text.")


def _tensors(config: ModelConfig) -> tuple[Tensor, ...]:
    return llama_tensors(config, _NORMS)


def _wrapped_tensors(config: ModelConfig) -> tuple[Tensor, ...]:
    return llama_tensors(config, _NORMS, "language_model.model", "language_model.lm_head.weight")


GEMMA2 = Family("gemma2", _read_gemma2, _tensors, _write_gemma2, ignored=IGNORED)
GEMMA3_TEXT = Family("gemma3_text", _read_gemma3, _tensors, _write_gemma3, ignored=IGNORED)
GEMMA3 = Family(
    "gemma3",
    _read_gemma3_wrapper,
    _wrapped_tensors,
    _write_gemma3_wrapper,
    ignored=(f"vision_tower.{REST}", f"multi_modal_projector.{REST}"),
)
