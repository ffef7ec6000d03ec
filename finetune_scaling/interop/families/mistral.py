"""Mistral (Jiang et al., 2023): a Llama all of whose layers may attend to a window."""

from collections.abc import Mapping
from typing import Any

from finetune_scaling import configuration
from finetune_scaling.interop.families.config_json import Fields
from finetune_scaling.interop.families.family import Family
from finetune_scaling.interop.families.llama_form import IGNORED, form_tensors, read_form, write_form
from finetune_scaling.interop.families.rope_json import read_rope, rope_group
from finetune_scaling.models.config import ModelConfig

_WINDOW = 4096  # where the field is absent; null is no window


def read_config(values: Mapping[str, Any], where: str) -> ModelConfig:
    """Our config of a Mistral's config.json. Raises ConfigError that names `where` and the field."""
    fields = Fields(values, where, "Mistral")
    form = {
        **read_form(fields, kv_heads=None),
        **read_rope(fields, rope_group(fields)),
        "window": fields.optional_number("sliding_window", _WINDOW),
    }
    fields.check_rest()
    return configuration.build(ModelConfig, form, where)


def write_config(config: ModelConfig) -> dict[str, Any]:
    """The fields of a Mistral's config.json."""
    return {
        **write_form(config, "mistral", "MistralForCausalLM"),
        "sliding_window": config.window,
    }


MISTRAL = Family("mistral", read_config, form_tensors, write_config, ignored=IGNORED)
