"""Gemma 2 (Gemma Team, 2024) and the text models of Gemma 3 (2025): norms around attention and feed-forward layer whose
scales are 1 + what is stored, scaled embeddings, and local layers among others. Gemma 2 caps scores and logits softly;
Gemma 3 norms queries and keys instead, and its local layers have rotary positions of their own.
"""

from collections.abc import Mapping
from typing import Any

from finetune_scaling import configuration
from finetune_scaling.errors import ConfigError
from finetune_scaling.interop.families.config_json import FULL, LOCAL, Fields
from finetune_scaling.interop.families.family import REST, Family, Tensor
from finetune_scaling.interop.families.llama_form import (
    ATTENTION_LAYERS,
    IGNORED,
    biased,
    form_tensors,
    read_form,
    write_form,
)
from finetune_scaling.interop.families.rope_json import layer_types, read_rope, read_windows, rope_group
from finetune_scaling.models.config import ModelConfig

_NORMS = {
    "norm": "input_layernorm",
    "attention_out_norm": "post_attention_layernorm",
    "feed_forward_norm": "pre_feedforward_layernorm",
    "feed_forward_out_norm": "post_feedforward_layernorm",
}
# Values of fields that a config.json may leave out, as transformers has them.
_GEMMA2_CAPS = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
_KV_HEADS, _HEAD_DIM, _SCALAR, _WINDOW = 4, 256, 256, 4096
_GEMMA3_PATTERN, _GEMMA3_THETA, _GEMMA3_LOCAL_THETA = 6, 1_000_000.0, 10_000.0
_OUTER = ("dtype", "torch_dtype", "tie_word_embeddings")  # of the model around a text model, where that has none
_GEMMA3_TEXT = {
    "vocab_size": 262_208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
    "num_attention_heads": 8, "max_position_embeddings": 131_072, "rms_norm_eps": 1e-6,
}  # fmt: skip


def _read_gemma2(values: Mapping[str, Any], where: str) -> ModelConfig:
    fields = Fields(values, where, "Gemma 2")
    form = {**_read(fields, _GEMMA2_CAPS), **read_rope(fields, rope_group(fields)), **_read_windows(fields, 2)}
    fields.check_rest()
    return configuration.build(ModelConfig, form, where)


def _read_gemma3(values: Mapping[str, Any], where: str) -> ModelConfig:
    fields = Fields({**_GEMMA3_TEXT, **values}, where, "Gemma 3")
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
    """The text model inside one that reads images too."""
    outer = Fields(values, where, "Gemma 3")
    text = outer.group("text_config")
    outer.check_rest()
    given = {name: outer.get(name) for name in _OUTER if outer.get(name) is not None}
    return _read_gemma3({**given, **({} if text is None else text.values)}, f"{where}: text_config")


def _read(fields: Fields, caps: Mapping[str, float]) -> dict[str, Any]:
    """What both have; caps: where they are absent."""
    form = read_form(
        fields, kv_heads=_KV_HEADS, head_dim=_HEAD_DIM, activation=("hidden_activation", "gelu_pytorch_tanh"), tied=True
    )
    scalar = fields.number("query_pre_attn_scalar", _SCALAR)
    return {
        **form,
        "biased": biased(fields, attention_bias=ATTENTION_LAYERS),
        "norm_place": "both",
        "norm_offset": 1.0,
        "scale_embeddings": True,
        "query_scalar": None if scalar == form["head_dim"] else scalar,
        "attention_softcap": fields.optional_number("attn_logit_softcapping", caps.get("attn_logit_softcapping")),
        "logit_softcap": fields.optional_number("final_logit_softcapping", caps.get("final_logit_softcapping")),
    }


def _read_windows(fields: Fields, pattern: int) -> dict[str, Any]:
    """pattern: every so-manieth layer sees all, where `layer_types` does not say."""
    layers = fields.integer("num_hidden_layers")
    window = fields.optional_number("sliding_window", _WINDOW)
    return read_windows(fields, window, [(i + 1) % pattern != 0 for i in range(layers)])


def _read_gemma3_rope(fields: Fields) -> dict[str, Any]:
    """Of transformers 5's two groups, or of the fields that older files have."""
    group = fields.group("rope_parameters")
    if group is None or not {FULL, LOCAL} & set(group.values):
        theta = fields.number("rope_local_base_freq", _GEMMA3_LOCAL_THETA)
        return {**read_rope(fields, rope_group(fields), _GEMMA3_THETA), "local_rope_theta": theta}
    near = group.group(LOCAL)
    local = read_rope(fields, near, _GEMMA3_LOCAL_THETA)
    if near is not None and local["rope_scaling"] is not None:
        raise near.unsupported("rope_type", near.get("rope_type"), "local layers' positions are not scaled")
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
        **write_form(config, model_type, architecture, "hidden_activation"),
        "attention_bias": "attention_out" in config.biased,
        "query_pre_attn_scalar": int(scalar) if scalar == int(scalar) else scalar,  # transformers asks for an int
        "attn_logit_softcapping": config.attention_softcap,
        "final_logit_softcapping": config.logit_softcap,
        "sliding_window": config.window,
        "layer_types": layer_types(config),
    }


def _write_gemma3_wrapper(config: ModelConfig) -> dict[str, Any]:
    raise ConfigError("gemma3 reads images too, of which there is no model here; gemma3_text is its text model")


def _tensors(config: ModelConfig) -> tuple[Tensor, ...]:
    return form_tensors(config, _NORMS)


def _wrapped_tensors(config: ModelConfig) -> tuple[Tensor, ...]:
    return form_tensors(config, _NORMS, "language_model.model", "language_model.lm_head.weight")


GEMMA2 = Family("gemma2", _read_gemma2, _tensors, _write_gemma2, ignored=IGNORED)
GEMMA3_TEXT = Family("gemma3_text", _read_gemma3, _tensors, _write_gemma3, ignored=IGNORED)
GEMMA3 = Family(
    "gemma3",
    _read_gemma3_wrapper,
    _wrapped_tensors,
    _write_gemma3_wrapper,
    ignored=(f"vision_tower.{REST}", f"multi_modal_projector.{REST}"),
)
