"""Mistral (Jiang et al., 2023): Llama with an optional sliding window in all layers."""

from finetune_scaling.interop.families.llama_like import llama_family

MISTRAL = llama_family(
    "mistral",
    "MistralForCausalLM",
    read=lambda fields: {"window": fields.optional_number("sliding_window")},
    write=lambda config: {"sliding_window": config.window},
    defaults={"num_key_value_heads": 8, "sliding_window": 4096},
)
