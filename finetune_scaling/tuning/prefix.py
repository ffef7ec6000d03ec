"""Prefix tuning (Li and Liang, 2021): trained keys and values before every text, in each layer of a frozen model.

The prefix is a soft prompt of placeholders whose keys and values are replaced, so that positions, packing, caches and
beam search treat it as any soft prompt. Its keys have no rotary positions, as in Hugging Face PEFT.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from finetune_scaling.errors import ConfigError
from finetune_scaling.models.adapters import LayerAdapter, MakeParameter
from finetune_scaling.models.attention import LayerCache
from finetune_scaling.models.cache import empty_cache
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.models.language_model import LanguageModel, Params
from finetune_scaling.models.token_layout import TokenLayout
from finetune_scaling.tuning.method import Defaults, MethodSpec, TuningMethod
from finetune_scaling.tuning.prompt import sample_tokens

Array = jax.Array

_RANDOM_STD = 0.02
_kernel_init = jax.nn.initializers.lecun_normal()


@dataclasses.dataclass(frozen=True)
class PrefixOptions:
    """Options of prefix tuning; length: number of virtual tokens.

    mlp_width: hidden units of an MLP that computes all keys and values from one trained embedding per virtual token
    (section 4.3 of the paper); None trains them directly. initialization: `vocabulary` starts from the keys and values,
    or with an MLP from the embeddings, of tokens sampled among the `frequent` most frequent ones; `random` from a
    normal distribution.
    """

    length: int = 30
    mlp_width: int | None = None
    initialization: Literal["vocabulary", "random"] = "vocabulary"
    frequent: int = 5000

    def __post_init__(self) -> None:
        if self.length < 0:
            raise ConfigError(f"method.length = {self.length} must not be negative")
        for name in ("frequent", "mlp_width"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ConfigError(f"method.{name} = {getattr(self, name)} must be at least 1")

    @property
    def reads_tokens(self) -> bool:
        """Whether the prefix starts from tokens."""
        return self.initialization == "vocabulary" and self.length > 0


@dataclasses.dataclass(frozen=True)
class PrefixAdapter(LayerAdapter):
    """Float32 prefix_keys and prefix_values [length, kv_heads, head_dim] of each layer's attention."""

    length: int

    def key_values(self, parameter: MakeParameter, keys: Array, values: Array) -> tuple[Array, Array]:
        """Return keys and values with those of the first `length` positions replaced by the prefix."""

        def replace(name: str, array: Array) -> Array:
            shape = (self.length, *array.shape[2:])
            prefix = parameter(name, jax.nn.initializers.normal(_RANDOM_STD), shape, jnp.float32)
            rest = array[:, self.length :]
            prefix = prefix[: array.shape[1]].astype(array.dtype)  # a model is initialized with one position
            return jnp.concatenate([jnp.broadcast_to(prefix, (array.shape[0], *prefix.shape)), rest], axis=1)

        return replace("prefix_keys", keys), replace("prefix_values", values)


@dataclasses.dataclass(frozen=True)
class PrefixInitializer:
    """Creates the prefix, or the embeddings and the MLP that it is computed from."""

    options: PrefixOptions

    def __call__(self, rng: Array, config: ModelConfig, params: Params, tokens: Array) -> Params:
        options = self.options
        config = dataclasses.replace(config, compute_dtype="float32", attention="plain", remat="none")
        model = LanguageModel(config)
        token_rng, mlp_rng = jax.random.split(rng)
        chosen = None
        if options.reads_tokens:
            chosen = sample_tokens(token_rng, tokens, options.frequent, options.length)[None]
        if options.mlp_width is not None:
            shape = (options.length, config.model_dim)
            embedding = jax.random.normal(token_rng, shape) if chosen is None else model.embed(params, chosen)[0]
            return {"prefix": {"embedding": embedding, **_new_mlp(mlp_rng, config, options.mlp_width)}}
        return {} if chosen is None else key_values_of(model, params, chosen)


def _new_mlp(rng: Array, config: ModelConfig, width: int) -> Params:
    outputs = config.layers * 2 * config.kv_heads * config.head_dim
    first, second = jax.random.split(rng)
    hidden = {"kernel": _kernel_init(first, (config.model_dim, width)), "bias": jnp.zeros(width)}
    return {"hidden": hidden, "output": {"kernel": _kernel_init(second, (width, outputs)), "bias": jnp.zeros(outputs)}}


def key_values_of(model: LanguageModel, params: Params, tokens: Array) -> Params:
    """Return the keys and values of tokens [1, P] in every layer as prefix parameters."""
    positions = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
    layout = TokenLayout(positions, jnp.ones_like(positions), jnp.zeros(tokens.shape, bool))
    empty = empty_cache(model.config, model.axes, 1, tokens.shape[1], False)
    _, cache = model.forward(params, model.embed(params, tokens), layout, empty)
    assert isinstance(cache, LayerCache)
    keys, values = (array[:, 0].swapaxes(1, 2) for array in cache)  # [layers, P, kv_heads, head_dim]
    return _as_leaves(keys, values)


def computed_prefix(config: ModelConfig, params: Params) -> Params:
    """Return the keys and values that the MLP computes: tanh(E W + b) V + c."""
    mlp = params["prefix"]
    hidden = jnp.tanh(mlp["embedding"] @ mlp["hidden"]["kernel"] + mlp["hidden"]["bias"])
    flat = hidden @ mlp["output"]["kernel"] + mlp["output"]["bias"]
    split = flat.reshape(-1, config.layers, 2, config.kv_heads, config.head_dim)  # the order of PEFT
    keys, values = split[:, :, 0].swapaxes(0, 1), split[:, :, 1].swapaxes(0, 1)
    return _as_leaves(keys, values)


def _as_leaves(keys: Array, values: Array) -> Params:
    return {"layers": {"attention": {"prefix_keys": keys, "prefix_values": values}}}


@dataclasses.dataclass(frozen=True)
class MlpFlops:
    """FLOPs of the MLP in a training step: forward, and the gradients of its weights and inputs."""

    length: int
    width: int

    def __call__(self, config: ModelConfig) -> float:
        outputs = config.layers * 2 * config.kv_heads * config.head_dim
        return 3 * 2.0 * self.length * self.width * (config.model_dim + outputs)


@dataclasses.dataclass(frozen=True)
class Placeholders:
    """The soft prompt: embeddings whose keys and values no layer reads."""

    length: int

    def __call__(self, params: Params) -> Array:
        return jnp.zeros((self.length, params["embedding"].shape[1]))


def build(options: PrefixOptions) -> TuningMethod:
    """Return prefix tuning with these options."""
    mlp = options.mlp_width
    return TuningMethod(
        name="prefix",
        trainable=r"layers/attention/prefix_(keys|values)" if mlp is None else r"prefix/.*",
        size=options.length,
        adapter=PrefixAdapter(options.length),
        new_params=PrefixInitializer(options),
        frequent_tokens=options.frequent if options.reads_tokens else 0,
        soft_prompt=Placeholders(options.length),
        prompt_length=options.length,
        derived=None if mlp is None else computed_prefix,
        step_flops=None if mlp is None else MlpFlops(options.length, mlp),
    )


SPEC = MethodSpec(
    "prefix",
    PrefixOptions,
    build,
    Defaults(learning_rate=1e-2, batch_size=16),
    size_field="length",
    display_name="prefix tuning",
)
