"""The families of public models that can be read and written.

The error about a model of another family names the nearest one and the differences.
"""

import difflib
import re
from collections.abc import Mapping
from typing import Any

from finetune_scaling.errors import ConfigError
from finetune_scaling.interop.families.family import Family
from finetune_scaling.interop.families.gemma import GEMMA2, GEMMA3, GEMMA3_TEXT
from finetune_scaling.interop.families.gpt_neox import GPT_NEOX
from finetune_scaling.interop.families.llama import LLAMA
from finetune_scaling.interop.families.mistral import MISTRAL
from finetune_scaling.interop.families.olmo2 import OLMO2
from finetune_scaling.interop.families.qwen import QWEN2, QWEN3
from finetune_scaling.messages import first_names
from finetune_scaling.models.config import ModelConfig

FAMILIES: dict[str, Family] = {
    family.model_type: family for family in (LLAMA, MISTRAL, QWEN2, QWEN3, OLMO2, GEMMA2, GEMMA3_TEXT, GEMMA3, GPT_NEOX)
}
# Fields that do not change what a decoder computes from tokens.
_IRRELEVANT = {
    "_name_or_path", "architectures", "attention_dropout", "attn_implementation", "auto_map", "bos_token_id",
    "cache_implementation", "chunk_size_feed_forward", "classifier_dropout", "dtype", "embd_pdrop", "eos_token_id",
    "hidden_dropout", "id2label", "initializer_range", "is_decoder", "is_encoder_decoder", "label2id",
    "max_window_layers", "model_type", "output_attentions", "output_hidden_states", "pad_token_id", "pretraining_tp",
    "problem_type", "resid_pdrop", "return_dict", "tokenizer_class", "torch_dtype", "transformers_version",
    "unk_token_id", "use_cache",
}  # fmt: skip
_MAX_LISTED = 4  # fields that a message names
# Distances in units of one unknown field: a config that the family cannot read, and an entirely different name.
_UNREADABLE_DISTANCE, _NAME_DISTANCE = 3, 6


def parse_config(fields: Mapping[str, Any], where: str) -> tuple[Family, ModelConfig]:
    """Return the family and the config that the fields of a config.json describe.

    Raises:
        ConfigError: The model type or a field is not supported; names `where` and the field.
    """
    model_type = fields.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise unsupported_model_type(fields, where)
    _check_architectures(fields.get("architectures"), where)
    if (name := fields.get("transformers_weights")) is not None:
        raise ConfigError(
            f"{where}: transformers_weights = {name!r} is not supported, as the weights are those of model.safetensors "
            "or its index. Fix: save the model again with transformers: "
            "AutoModelForCausalLM.from_pretrained(DIR, dtype='auto').save_pretrained(NEW)"
        )
    try:
        return FAMILIES[model_type], FAMILIES[model_type].read_config(fields, where)
    except ConfigError as error:
        if where in str(error):
            raise
        raise ConfigError(f"{where}: {error}") from error  # the message names a field of our config only


def _check_architectures(architectures: Any, where: str) -> None:
    """Raise ConfigError for a model whose head is not that of a language model."""
    for name in architectures if isinstance(architectures, list) else ():
        if re.search(r"For(?!CausalLM|ConditionalGeneration)[A-Z]", str(name)):
            raise ConfigError(
                f"{where}: architectures = {architectures!r} is not supported: its head predicts no tokens. Fix: name "
                "a language model (...ForCausalLM)."
            )


def unsupported_model_type(fields: Mapping[str, Any], where: str) -> ConfigError:
    """Return the error about a config.json whose model_type belongs to none of the families."""
    names = ", ".join(FAMILIES)
    if not fields.get("model_type"):
        return ConfigError(f"{where}: model_type is missing. Fix: set it to one of {names}.")
    _, nearest, differences = min(_compare(fields, family, where) for family in FAMILIES.values())
    return ConfigError(
        f"{where}: model_type = {fields['model_type']!r} is not supported (supported: {names}). The nearest family is "
        f"{nearest}: {differences}"
    )


def _compare(fields: Mapping[str, Any], family: Family, where: str) -> tuple[float, str, str]:
    """Return the distance from a family in unknown fields, the family's name, and the differences."""
    checked, error_message = family.fields(fields, where), ""
    try:
        family.config(checked)
    except ConfigError as error:
        error_message = str(error).removeprefix(f"{where}: ")
    relevant = (name for name, value in fields.items() if name not in _IRRELEVANT and value is not None)
    unknown = sorted(name for name in relevant if not checked.was_read(name))
    dissimilarity = 1 - difflib.SequenceMatcher(None, str(fields["model_type"]), family.model_type).ratio()
    distance = len(unknown) + _UNREADABLE_DISTANCE * bool(error_message) + _NAME_DISTANCE * dissimilarity
    return distance, family.model_type, _describe(unknown, error_message)


def _describe(unknown: list[str], error_message: str) -> str:
    if error_message:  # reading stopped there, so `unknown` is incomplete
        return f"reading the config as that family fails: {error_message}"
    if not unknown:
        return "it has the same fields, so the model's code must differ."
    return f"it has no {first_names(unknown, _MAX_LISTED)}."
