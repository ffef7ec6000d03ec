"""Qwen 2, 2.5 (Yang et al., 2024) and 3 (Qwen Team, 2025): Llama with an optional sliding window in the upper layers.

Qwen 2 has biases of queries, keys and values; Qwen 3 has QK norm per head instead.
"""

from collections.abc import Mapping
from typing import Any

from finetune_scaling import configuration
from finetune_scaling.interop.families.config_json import Fields
from finetune_scaling.interop.families.family import Family
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

_QWEN3_HEAD_DIM = 128  # default where the field is absent


def _read_qwen2(values: Mapping[str, Any], where: str) -> ModelConfig:
    fields = Fields(values, where, "a Qwen 2 model")
    form = {**_read(fields), "biased": ("query", "key", "value")}
    return configuration.build(ModelConfig, form, where)


def _read_qwen3(values: Mapping[str, Any], where: str) -> ModelConfig:
    fields = Fields(values, where, "a Qwen 3 model")
    biases = biased_layers(fields, attention_bias=ATTENTION_LAYERS)
    form = {**_read(fields, _QWEN3_HEAD_DIM), "biased": biases, "qk_norm": "head"}
    return configuration.build(ModelConfig, form, where)


def _read(fields: Fields, head_dim: int | None = None) -> dict[str, Any]:
    """Read the fields that both have."""
    form = {**read_llama_fields(fields, kv_heads=None, head_dim=head_dim), **read_rope(fields, rope_group(fields))}
    window = fields.optional_number("sliding_window")  # unused unless use_sliding_window is true
    if fields.flag("use_sliding_window"):
        first = fields.integer("max_window_layers", 28)
        form |= read_windows(fields, window, [i >= first for i in range(fields.integer("num_hidden_layers"))])
    fields.get("max_window_layers")
    fields.check_rest()
    return form


def _write(config: ModelConfig) -> dict[str, Any]:
    local = config.local_layers
    return {
        "use_sliding_window": config.window is not None,
        "sliding_window": config.window,
        "max_window_layers": local.index(True) if any(local) else config.layers,
        "layer_types": layer_types(config),
    }


def _write_qwen2(config: ModelConfig) -> dict[str, Any]:
    return {**write_llama_fields(config, "qwen2", "Qwen2ForCausalLM"), **_write(config)}


def _write_qwen3(config: ModelConfig) -> dict[str, Any]:
    biases = {"attention_bias": "attention_out" in config.biased}
    return {**write_llama_fields(config, "qwen3", "Qwen3ForCausalLM"), **_write(config), **biases}


QWEN2 = Family("qwen2", _read_qwen2, llama_tensors, _write_qwen2, ignored=IGNORED)
QWEN3 = Family("qwen3", _read_qwen3, llama_tensors, _write_qwen3, ignored=IGNORED)
