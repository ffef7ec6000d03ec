"""OLMo 2 (OLMo Team, 2024): Llama with norms after attention and feed-forward, and QK norm over all heads."""

from finetune_scaling.interop.families.llama_like import ATTENTION_LAYERS, llama_family

OLMO2 = llama_family(
    "olmo2",
    "Olmo2ForCausalLM",
    biases={"attention_bias": ATTENTION_LAYERS},
    constants={"norm_place": "after", "qk_norm": "all"},
    norms={"attention_out_norm": "post_attention_layernorm", "feed_forward_out_norm": "post_feedforward_layernorm"},
)
