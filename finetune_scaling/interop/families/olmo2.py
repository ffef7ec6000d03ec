"""OLMo 2 (OLMo Team, 2024): a Llama whose norms stand behind attention and feed-forward layer, and which norms queries
and keys over all heads.
"""

from collections.abc import Mapping
from typing import Any

from finetune_scaling import configuration
from finetune_scaling.interop.families.config_json import Fields
from finetune_scaling.interop.families.family import Family, Tensor
from finetune_scaling.interop.families.llama_form import (
    ATTENTION_LAYERS,
    IGNORED,
    biased,
    form_tensors,
    read_form,
    write_form,
)
from finetune_scaling.interop.families.rope_json import read_rope, rope_group
from finetune_scaling.models.config import ModelConfig

_NORMS = {"attention_out_norm": "post_attention_layernorm", "feed_forward_out_norm": "post_feedforward_layernorm"}


def read_config(values: Mapping[str, Any], where: str) -> ModelConfig:
    """Our config of an OLMo 2's config.json. Raises ConfigError that names `where` and the field."""
    fields = Fields(values, where, "OLMo 2")
    form = {
        **read_form(fields, kv_heads=fields.number("num_attention_heads")),
        **read_rope(fields, rope_group(fields)),
        "biased": biased(fields, attention_bias=ATTENTION_LAYERS),
        "norm_place": "after",
        "qk_norm": "all",
    }
    fields.check_rest()
    return configuration.build(ModelConfig, form, where)


def write_config(config: ModelConfig) -> dict[str, Any]:
    """The fields of an OLMo 2's config.json."""
    return {
        **write_form(config, "olmo2", "Olmo2ForCausalLM"),
        "attention_bias": "attention_out" in config.biased,
    }


def tensors(config: ModelConfig) -> tuple[Tensor, ...]:
    """Every tensor of an OLMo 2."""
    return form_tensors(config, _NORMS)


OLMO2 = Family("olmo2", read_config, tensors, write_config, ignored=IGNORED)
