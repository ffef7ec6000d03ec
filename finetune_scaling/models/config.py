"""The shape of a decoder, as data."""

import dataclasses
import math
from typing import Literal

from finetune_scaling.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """One decoder-only Transformer. The defaults are the family of arXiv 2402.17193 (parallel, multi-query, tied).

    kv_heads = 1 is multi-query attention, kv_heads = heads multi-head, anything between grouped-query.
    """

    vocab_size: int
    layers: int
    model_dim: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn_dim: int
    max_length: int = 2048  # longest sequence in tokens, soft prompt included
    block: Literal["parallel", "sequential"] = "parallel"
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    norm_epsilon: float = 1e-6
    activation: Literal["swiglu", "geglu", "gelu", "relu"] = "swiglu"
    positions: Literal["rope", "none"] = "rope"
    rope_theta: float = 10_000.0
    tied_head: bool = True
    scale_logits: bool = True  # logits / sqrt(model_dim), which goes with embeddings of unit variance
    embedding_std: float = 1.0
    compute_dtype: Literal["bfloat16", "float32"] = "bfloat16"
    remat: Literal["none", "full", "dots", "offload"] = "none"  # what of a block's forward pass is computed again
    attention: Literal["plain", "blockwise", "flash", "cudnn"] = "plain"  # the same numbers in less memory

    def __post_init__(self) -> None:
        for name in ("vocab_size", "layers", "model_dim", "heads", "kv_heads", "head_dim", "ffn_dim", "max_length"):
            if getattr(self, name) < 1:
                raise ConfigError(f"model.{name} = {getattr(self, name)} must be at least 1")
        for name in ("norm_epsilon", "rope_theta", "embedding_std"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"model.{name} = {getattr(self, name)} must be a finite number above 0")
        if self.heads % self.kv_heads:
            raise ConfigError(f"model.heads = {self.heads} must be a multiple of model.kv_heads = {self.kv_heads}")
        if self.positions == "rope" and self.head_dim % 2:
            raise ConfigError(f"model.head_dim = {self.head_dim} must be even, since rotary positions turn pairs")

    @property
    def gated(self) -> bool:
        """Whether the feed-forward layer has a gate beside its up projection."""
        return self.activation in ("swiglu", "geglu")


@dataclasses.dataclass(frozen=True)
class ParameterCount:
    """Parameters of a model: all of them, and all but the embedding table and an untied head."""

    total: int
    non_embedding: int


def count_parameters(config: ModelConfig) -> ParameterCount:
    """Closed-form parameter counts, [total, non-embedding]; the built model's shapes agree with it (tested)."""
    attention = 2 * config.model_dim * config.head_dim * (config.heads + config.kv_heads)
    feed_forward = (3 if config.gated else 2) * config.model_dim * config.ffn_dim
    norm = config.model_dim * (2 if config.norm == "layernorm" else 1)
    norms = 1 if config.block == "parallel" else 2
    body = config.layers * (attention + feed_forward + norms * norm) + norm
    embeddings = config.vocab_size * config.model_dim * (1 if config.tied_head else 2)
    return ParameterCount(total=body + embeddings, non_embedding=body)
