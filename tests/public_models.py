"""Tiny random models of every family, made with transformers, with random norms and biases.

Texts of TEXT tokens are longer than windows and than the original length of RoPE scaling.
"""

from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

TEXT = 24  # tokens
VOCABULARY, EOS = 61, 1
LOCAL, FULL = "sliding_attention", "full_attention"

_SHAPE = {
    "vocab_size": VOCABULARY, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 64, "attn_implementation": "eager",
    "bos_token_id": 0, "eos_token_id": EOS, "pad_token_id": None,
}  # fmt: skip
_GROUPED = {**_SHAPE, "num_key_value_heads": 2}
_LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
_YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 16}
_LINEAR = {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0}
_GEMMA = {**_GROUPED, "head_dim": 8, "query_pre_attn_scalar": 12, "sliding_window": 5}
_GEMMA3_ROPE = {FULL: {**_LINEAR, "rope_theta": 2000.0}, LOCAL: {"rope_type": "default", "rope_theta": 50.0}}

# Config class, model class and config fields by name.
_KINDS: dict[str, tuple[Callable[..., Any], Callable[..., Any], dict[str, Any]]] = {
    "gpt_neox": (GPTNeoXConfig, GPTNeoXForCausalLM, {**_SHAPE, "hidden_size": 32, "rotary_pct": 0.25}),
    "gpt_neox, sequential": (
        GPTNeoXConfig, GPTNeoXForCausalLM,
        {**_SHAPE, "use_parallel_residual": False, "tie_word_embeddings": True, "attention_bias": False,
         "rope_parameters": {**_LINEAR, "partial_rotary_factor": 0.4}},
    ),
    "llama": (LlamaConfig, LlamaForCausalLM, {**_GROUPED, "rope_parameters": _LLAMA3}),
    "llama, biased": (
        LlamaConfig, LlamaForCausalLM,
        {**_SHAPE, "num_key_value_heads": 1, "head_dim": 16, "attention_bias": True, "mlp_bias": True,
         "tie_word_embeddings": True, "rope_parameters": _YARN},
    ),
    "mistral": (MistralConfig, MistralForCausalLM, {**_GROUPED, "sliding_window": 5}),
    "qwen2": (
        Qwen2Config, Qwen2ForCausalLM,
        {**_GROUPED, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1, "rope_parameters": _YARN},
    ),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {**_GROUPED, "head_dim": 8, "tie_word_embeddings": True}),
    "olmo2": (Olmo2Config, Olmo2ForCausalLM, _GROUPED),
    "gemma2": (
        Gemma2Config, Gemma2ForCausalLM, {**_GEMMA, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 6.0},
    ),
    "gemma3_text": (
        Gemma3TextConfig, Gemma3ForCausalLM,
        {**_GEMMA, "num_hidden_layers": 3, "layer_types": [LOCAL, LOCAL, FULL], "rope_parameters": _GEMMA3_ROPE},
    ),
}  # fmt: skip
KINDS = tuple(_KINDS)


def make(kind: str, **changes: Any) -> Any:
    """Return a random model of a kind; `changes` replace fields of its config."""
    config, model, fields = _KINDS[kind]
    torch.manual_seed(0)
    made = model(config(**{**fields, **changes}))
    with torch.no_grad():
        for name, weight in made.named_parameters():
            is_scale = "norm" in name and name.endswith("weight") and "gemma" not in kind  # Gemma's scales are 1 + w
            weight.normal_(1.0 if is_scale else 0.0, 0.3)
    return made.eval()
