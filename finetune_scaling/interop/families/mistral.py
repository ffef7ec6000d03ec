"""Mistral (Jiang et al., 2023): Llama with an optional sliding window, or one where `layer_types` says so."""

from typing import Any

from finetune_scaling.interop.families.config_json import Fields
from finetune_scaling.interop.families.llama_like import llama_family
from finetune_scaling.interop.families.rope_json import read_windows


def _read(fields: Fields) -> dict[str, Any]:
    if fields.get("sliding_window") is None:
        return {}
    return read_windows(fields, [True] * fields.integer("num_hidden_layers"))


MISTRAL = llama_family(
    "mistral",
    "MistralForCausalLM",
    read=_read,
    write=lambda config: {"sliding_window": config.window},
    defaults={"num_key_value_heads": 8, "sliding_window": 4096},
)
