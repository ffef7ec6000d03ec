"""Mistral (Jiang et al., 2023): Llama with an optional sliding window in all layers."""

from collections.abc import Mapping
from typing import Any

from finetune_scaling import configuration
from finetune_scaling.interop.families.config_json import Fields
from finetune_scaling.interop.families.family import Family
from finetune_scaling.interop.families.llama_like import IGNORED, llama_tensors, read_llama_fields, write_llama_fields
from finetune_scaling.interop.families.rope_json import read_rope, rope_group
from finetune_scaling.models.config import ModelConfig

_WINDOW = 4096  # default where the field is absent; null disables the window


def read_config(values: Mapping[str, Any], where: str) -> ModelConfig:
    """Convert the fields of a config.json. Raises ConfigError, naming `where` and the field."""
    fields = Fields(values, where, "a Mistral model")
    form = {
        **read_llama_fields(fields, kv_heads=None),
        **read_rope(fields, rope_group(fields)),
        "window": fields.optional_number("sliding_window", _WINDOW),
    }
    fields.check_rest()
    return configuration.build(ModelConfig, form, where)


def write_config(config: ModelConfig) -> dict[str, Any]:
    """Return the fields of a config.json."""
    return {**write_llama_fields(config, "mistral", "MistralForCausalLM"), "sliding_window": config.window}


MISTRAL = Family("mistral", read_config, llama_tensors, write_config, ignored=IGNORED)
