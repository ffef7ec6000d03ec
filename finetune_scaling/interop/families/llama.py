"""Llama (Touvron et al., 2023; Grattafiori et al., 2024)."""

from finetune_scaling.interop.families.llama_like import ATTENTION_LAYERS, FEED_FORWARD_LAYERS, llama_family

LLAMA = llama_family(
    "llama", "LlamaForCausalLM", biases={"attention_bias": ATTENTION_LAYERS, "mlp_bias": FEED_FORWARD_LAYERS}
)
