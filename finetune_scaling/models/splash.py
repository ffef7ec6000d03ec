"""Causal attention on TPUs by JAX's splash attention kernel, for texts that attend to nothing but themselves.

Its masks are computed from indices and segments, so it does not serve prefix LMs and soft prompts, which flash.py does.
"""

import jax
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

Array = jax.Array


def splash_attention(
    query: Array, keys: Array, values: Array, segments: Array, *, window: int | None, softcap: float | None, block: int
) -> Array:
    """Return softmax attention of every token to the earlier ones of its text, which are contiguous in their row.

    query [B, heads, L, H], scaled, keys and values [B, kv_heads, L, H], segments int32 [B, L] -> [B, heads, L, H].
    block: tokens per block, which divide L. window, softcap: as in flash_attention.
    """
    heads, length = query.shape[1:3]
    shape = (length, length)
    mask = masks.CausalMask(shape) if window is None else masks.LocalMask(shape, (window - 1, 0), offset=0)
    kernel = kernels.make_splash_mha(
        masks.MultiHeadMask([mask] * heads),
        head_shards=1,
        q_seq_shards=1,
        block_sizes=_block_sizes(block),
        attn_logits_soft_cap=softcap,
    )
    return jax.vmap(kernel)(query, keys, values, kernels.SegmentIds(segments, segments))


def _block_sizes(block: int) -> kernels.BlockSizes:
    return kernels.BlockSizes(
        block_q=block, block_kv=block, block_q_dkv=block, block_kv_dkv=block, block_q_dq=block, block_kv_dq=block
    )
