"""Llama (Touvron et al., 2023; Grattafiori et al., 2024)."""

from collections.abc import Mapping
from typing import Any

from finetune_scaling import configuration
from finetune_scaling.interop.families.config_json import Fields
from finetune_scaling.interop.families.family import Family
from finetune_scaling.interop.families.llama_like import (
    ATTENTION_LAYERS,
    FEED_FORWARD_LAYERS,
    IGNORED,
    biased_layers,
    llama_tensors,
    read_llama_fields,
    write_llama_fields,
)
from finetune_scaling.interop.families.rope_json import read_rope, rope_group
from finetune_scaling.models.config import ModelConfig


def read_config(values: Mapping[str, Any], where: str) -> ModelConfig:
    """Convert the fields of a config.json. Raises ConfigError, naming `where` and the field."""
    fields = Fields(values, where, "a Llama model")
    group = rope_group(fields)
    form = {
        **read_llama_fields(fields, kv_heads=fields.number("num_attention_heads")),
        **read_rope(fields, group),
        "biased": biased_layers(fields, attention_bias=ATTENTION_LAYERS, mlp_bias=FEED_FORWARD_LAYERS),
    }
    fields.check_rest()
    return configuration.build(ModelConfig, form, where)


def write_config(config: ModelConfig) -> dict[str, Any]:
    """Return the fields of a config.json."""
    return {
        **write_llama_fields(config, "llama", "LlamaForCausalLM"),
        "attention_bias": "attention_out" in config.biased,
        "mlp_bias": "down" in config.biased,
    }


LLAMA = Family("llama", read_config, llama_tensors, write_config, ignored=IGNORED)
