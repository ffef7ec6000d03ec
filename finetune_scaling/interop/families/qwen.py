"""Qwen 2, 2.5 (Yang et al., 2024) and 3 (Qwen Team, 2025): Llama with an optional sliding window in the upper layers.

Qwen 2 has biases of queries, keys and values; Qwen 3 has QK norm per head instead.
"""

from typing import Any

from finetune_scaling.interop.families.config_json import Fields
from finetune_scaling.interop.families.llama_like import ATTENTION_LAYERS, llama_family
from finetune_scaling.interop.families.rope_json import layer_types, read_windows
from finetune_scaling.models.config import ModelConfig


def _read(fields: Fields) -> dict[str, Any]:
    if not fields.flag("use_sliding_window"):
        fields.get("sliding_window")  # unused then
        return {}
    first, layers = fields.integer("max_window_layers", 28), fields.integer("num_hidden_layers")
    return read_windows(fields, [layer >= first for layer in range(layers)])


def _write(config: ModelConfig) -> dict[str, Any]:
    local = config.local_layers
    return {
        "use_sliding_window": config.window is not None,
        "sliding_window": config.window,
        "max_window_layers": local.index(True) if any(local) else config.layers,
        "layer_types": layer_types(config),
    }


_DEFAULTS = {"num_key_value_heads": 32}
QWEN2 = llama_family(
    "qwen2",
    "Qwen2ForCausalLM",
    constants={"biased": ("query", "key", "value")},
    read=_read,
    write=_write,
    defaults=_DEFAULTS,
)
QWEN3 = llama_family(
    "qwen3",
    "Qwen3ForCausalLM",
    biases={"attention_bias": ATTENTION_LAYERS},
    constants={"qk_norm": "head"},
    read=_read,
    write=_write,
    defaults={**_DEFAULTS, "head_dim": 128},
)
