"""The families of public models that can be read and written."""

from collections.abc import Mapping
from typing import Any

from finetune_scaling.errors import ConfigError
from finetune_scaling.interop.families.family import Family
from finetune_scaling.interop.families.gemma import GEMMA2, GEMMA3, GEMMA3_TEXT
from finetune_scaling.interop.families.gpt_neox import GPT_NEOX
from finetune_scaling.interop.families.llama import LLAMA
from finetune_scaling.interop.families.mistral import MISTRAL
from finetune_scaling.interop.families.nearest_family import unsupported_model_type
from finetune_scaling.interop.families.olmo2 import OLMO2
from finetune_scaling.interop.families.qwen import QWEN2, QWEN3
from finetune_scaling.models.config import ModelConfig

FAMILIES: dict[str, Family] = {
    family.model_type: family for family in (LLAMA, MISTRAL, QWEN2, QWEN3, OLMO2, GEMMA2, GEMMA3_TEXT, GEMMA3, GPT_NEOX)
}


def parse_config(fields: Mapping[str, Any], where: str) -> tuple[Family, ModelConfig]:
    """Return the family and the config that the fields of a config.json describe.

    Raises:
        ConfigError: The model type or a field is not supported; names `where` and the field.
    """
    model_type = fields.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise unsupported_model_type(fields, FAMILIES.values(), where)
    try:
        return FAMILIES[model_type], FAMILIES[model_type].read_config(fields, where)
    except ConfigError as error:
        if where in str(error):
            raise
        raise ConfigError(f"{where}: {error}") from error  # the message names a field of our config only
