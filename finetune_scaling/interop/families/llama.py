"""The Llama family (Touvron et al., 2023; Grattafiori et al., 2024), the form that most later ones descend from."""

from collections.abc import Mapping
from typing import Any

from finetune_scaling import configuration
from finetune_scaling.interop.families.config_json import Fields
from finetune_scaling.interop.families.family import Family
from finetune_scaling.interop.families.llama_form import (
    ATTENTION_LAYERS,
    FEED_FORWARD_LAYERS,
    IGNORED,
    biased,
    form_tensors,
    read_form,
    write_form,
)
from finetune_scaling.interop.families.rope_json import read_rope, rope_group
from finetune_scaling.models.config import ModelConfig


def read_config(values: Mapping[str, Any], where: str) -> ModelConfig:
    """Our config of a Llama's config.json. Raises ConfigError that names `where` and the field."""
    fields = Fields(values, where, "Llama")
    group = rope_group(fields)
    form = {
        **read_form(fields, kv_heads=fields.number("num_attention_heads")),
        **read_rope(fields, group),
        "biased": biased(fields, attention_bias=ATTENTION_LAYERS, mlp_bias=FEED_FORWARD_LAYERS),
    }
    fields.check_rest()
    return configuration.build(ModelConfig, form, where)


def write_config(config: ModelConfig) -> dict[str, Any]:
    """The fields of a Llama's config.json."""
    return {
        **write_form(config, "llama", "LlamaForCausalLM"),
        "attention_bias": "attention_out" in config.biased,
        "mlp_bias": "down" in config.biased,
    }


LLAMA = Family("llama", read_config, form_tensors, write_config, ignored=IGNORED)
