"""OLMo 2 (OLMo Team, 2024): Llama with norms after attention and feed-forward, and QK norm over all heads."""

from collections.abc import Mapping
from typing import Any

from finetune_scaling import configuration
from finetune_scaling.interop.families.config_json import Fields
from finetune_scaling.interop.families.family import Family, Tensor
from finetune_scaling.interop.families.llama_like import (
    ATTENTION_LAYERS,
    IGNORED,
    biased_layers,
    llama_tensors,
    read_llama_fields,
    write_llama_fields,
)
from finetune_scaling.interop.families.rope_json import read_rope, rope_group
from finetune_scaling.models.config import ModelConfig

_NORMS = {"attention_out_norm": "post_attention_layernorm", "feed_forward_out_norm": "post_feedforward_layernorm"}


def read_config(values: Mapping[str, Any], where: str) -> ModelConfig:
    """Convert the fields of a config.json. Raises ConfigError, naming `where` and the field."""
    fields = Fields(values, where, "an OLMo 2 model")
    form = {
        **read_llama_fields(fields, kv_heads=fields.number("num_attention_heads")),
        **read_rope(fields, rope_group(fields)),
        "biased": biased_layers(fields, attention_bias=ATTENTION_LAYERS),
        "norm_place": "after",
        "qk_norm": "all",
    }
    fields.check_rest()
    return configuration.build(ModelConfig, form, where)


def write_config(config: ModelConfig) -> dict[str, Any]:
    """Return the fields of a config.json."""
    biases = {"attention_bias": "attention_out" in config.biased}
    return {**write_llama_fields(config, "olmo2", "Olmo2ForCausalLM"), **biases}


def tensors(config: ModelConfig) -> tuple[Tensor, ...]:
    """Return every tensor of a model."""
    return llama_tensors(config, _NORMS)


OLMO2 = Family("olmo2", read_config, tensors, write_config, ignored=IGNORED)
