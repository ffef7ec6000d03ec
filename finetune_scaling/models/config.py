"""The architecture of a decoder as a config."""

import dataclasses
import math
from typing import Literal

from finetune_scaling.errors import ConfigError
from finetune_scaling.models.rope import RopeScaling, YarnScaling

DENSE_LAYERS = ("query", "key", "value", "attention_out", "gate", "up", "down")


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
    max_length: int = 2048  # longest sequence in tokens, including the soft prompt
    block: Literal["parallel", "sequential"] = "parallel"
    shared_norm: bool = True  # of a parallel block's attention and feed-forward layer; False: one norm each
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    norm_place: Literal["before", "after", "both"] = "before"  # relative to attention and feed-forward layer
    norm_epsilon: float = 1e-6
    norm_offset: float = 0.0  # added to the scales of all norms
    qk_norm: Literal["none", "head", "all"] = "none"  # of queries and keys, per head or over all heads
    activation: Literal["swiglu", "geglu", "gelu", "relu"] = "swiglu"
    biased: tuple[str, ...] = ()  # dense layers with a bias (of DENSE_LAYERS)
    positions: Literal["rope", "none"] = "rope"
    rope_theta: float = 10_000.0
    rope_fraction: float = 1.0  # share of each head's dimensions with rotary positions, the first ones
    rope_scaling: RopeScaling | None = None
    window: int | None = None  # tokens that local layers attend to, the query's own included
    window_pattern: tuple[bool, ...] = (True,)  # which layers are local if there is a window; repeated
    local_rope_theta: float | None = None  # of local layers, then without rope_scaling; None: as global layers
    query_scalar: float | None = None  # scores are divided by its square root; None: head_dim
    attention_softcap: float | None = None  # c: scores become c tanh(scores / c)
    tied_head: bool = True
    scale_logits: bool = True  # logits / sqrt(model_dim), for embeddings of unit variance
    logit_softcap: float | None = None  # c: logits become c tanh(logits / c)
    embedding_std: float = 1.0
    scale_embeddings: bool = False  # token embeddings * sqrt(model_dim); a soft prompt is not scaled
    compute_dtype: Literal["bfloat16", "float32"] = "bfloat16"
    # Of matrix products: with float32, GPUs multiply in TF32 and TPUs in bfloat16 unless this is "highest".
    matmul_precision: Literal["default", "high", "highest"] = "default"
    remat: Literal["none", "full", "dots", "offload"] = "none"  # what the backward pass recomputes of a block
    # The same function with different memory; "auto": chosen by platform and length (models/attention_choice.py).
    attention: Literal["auto", "plain", "blockwise", "flash", "cudnn"] = "auto"

    def __post_init__(self) -> None:
        for name in _COUNTS:
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ConfigError(f"model.{name} = {getattr(self, name)} must be at least 1")
        for name in _POSITIVE:
            if getattr(self, name) is not None and not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"model.{name} = {getattr(self, name)} must be a finite number above 0")
        if not math.isfinite(self.norm_offset):
            raise ConfigError(f"model.norm_offset = {self.norm_offset} must be a finite number")
        if self.heads % self.kv_heads:
            raise ConfigError(f"model.heads = {self.heads} must be a multiple of model.kv_heads = {self.kv_heads}")
        self._check_positions()
        self._check_layers()

    def _check_positions(self) -> None:
        if self.positions == "none":
            for name in ("rope_scaling", "local_rope_theta"):
                if getattr(self, name) is not None:
                    raise ConfigError(
                        f"model.{name} needs rotary positions, but model.positions = 'none'. Fix: remove it"
                    )
        elif isinstance(self.rope_scaling, YarnScaling) and self.rope_theta <= 1:
            raise ConfigError(f"model.rope_theta = {self.rope_theta} must be above 1 with YaRN scaling")
        elif self.rope_fraction == 1 and self.head_dim % 2:
            raise ConfigError(f"model.head_dim = {self.head_dim} must be even: rotary positions rotate pairs")
        elif self.rope_fraction > 1 or self.rotary_dim < 2 or self.rotary_dim % 2:
            raise ConfigError(
                f"model.rope_fraction = {self.rope_fraction} rotates {self.rotary_dim} of a head's {self.head_dim} "
                "dimensions, which must be an even number of at least 2"
            )
        if self.window is None:
            for name, default in (("window_pattern", (True,)), ("local_rope_theta", None)):
                if getattr(self, name) != default:
                    raise ConfigError(f"model.{name} needs a model.window. Fix: set it or remove model.{name}")
        if not self.window_pattern or len(self.window_pattern) > self.layers or not any(self.window_pattern):
            raise ConfigError(
                f"model.window_pattern = {list(self.window_pattern)} must have 1 to {self.layers} "
                "entries, at least one of them True"
            )

    def _check_layers(self) -> None:
        if not self.shared_norm and (self.block == "sequential" or self.norm_place == "after"):
            raise ConfigError("model.shared_norm = False needs parallel blocks with norms before. Fix: remove it")
        if unknown := [name for name in self.biased if name not in self.dense_layers]:
            known = ", ".join(self.dense_layers)
            raise ConfigError(
                f"model.biased names {unknown[0]!r}; this model's dense layers are {known}. Fix: remove or correct it"
            )
        if len(set(self.biased)) < len(self.biased):
            raise ConfigError(f"model.biased = {list(self.biased)} names a layer twice. Fix: remove one")

    @property
    def dense_layers(self) -> tuple[str, ...]:
        """The dense layers of a block, of DENSE_LAYERS."""
        return tuple(name for name in DENSE_LAYERS if name != "gate" or self.gated)

    @property
    def gated(self) -> bool:
        """Whether the feed-forward layer has a gate in addition to its up projection."""
        return self.activation in ("swiglu", "geglu")

    @property
    def embedding_scale(self) -> float | None:
        """Factor of token embeddings; None without scaling."""
        return self.model_dim**0.5 if self.scale_embeddings else None

    @property
    def rotary_dim(self) -> int:
        """Number of a head's dimensions that rotary positions rotate."""
        return int(self.head_dim * self.rope_fraction)

    @property
    def local_layers(self) -> tuple[bool, ...]:
        """Whether each layer attends within a window."""
        length = len(self.window_pattern)
        return tuple(self.window is not None and self.window_pattern[i % length] for i in range(self.layers))

    @property
    def layer_norms(self) -> tuple[str, ...]:
        """Names of a block's norms, before and after attention and feed-forward layer."""
        both = self.block == "sequential" or not self.shared_norm
        before = ("norm", "feed_forward_norm") if both else ("norm",)
        after = ("attention_out_norm", "feed_forward_out_norm")
        return {"before": before, "after": after, "both": before + after}[self.norm_place]

    def dense_inputs(self, name: str) -> int:
        """Number of inputs of a dense layer."""
        return {"attention_out": self.heads * self.head_dim, "down": self.ffn_dim}.get(name, self.model_dim)

    def dense_features(self, name: str) -> int:
        """Number of outputs of a dense layer."""
        heads = {"query": self.heads, "key": self.kv_heads, "value": self.kv_heads}
        if name in heads:
            return heads[name] * self.head_dim
        return self.model_dim if name in ("attention_out", "down") else self.ffn_dim


_COUNTS = ("vocab_size", "layers", "model_dim", "heads", "kv_heads", "head_dim", "ffn_dim", "max_length", "window")
_POSITIVE = (
    "norm_epsilon", "rope_theta", "rope_fraction", "local_rope_theta", "query_scalar", "attention_softcap",
    "logit_softcap", "embedding_std",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ParameterCount:
    """Numbers of parameters: total, and without the embedding table and an untied head."""

    total: int
    non_embedding: int


def count_parameters(config: ModelConfig) -> ParameterCount:
    """Return the parameter counts of a model, in closed form."""
    attention = 2 * config.model_dim * config.head_dim * (config.heads + config.kv_heads)
    feed_forward = (3 if config.gated else 2) * config.model_dim * config.ffn_dim
    biases = sum(config.dense_features(name) for name in config.biased)
    of_norm = 2 if config.norm == "layernorm" else 1  # parameters per dimension
    qk_norms = {"none": 0, "head": 2, "all": config.heads + config.kv_heads}[config.qk_norm] * config.head_dim
    norms = (len(config.layer_norms) * config.model_dim + qk_norms) * of_norm
    body = config.layers * (attention + feed_forward + biases + norms) + config.model_dim * of_norm
    embeddings = config.vocab_size * config.model_dim * (1 if config.tied_head else 2)
    return ParameterCount(total=body + embeddings, non_embedding=body)
