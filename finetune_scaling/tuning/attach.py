"""Attaching a method to a base model: the full parameter tree, partitioned by the method's rule."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from finetune_scaling.models.config import ModelConfig
from finetune_scaling.models.language_model import LanguageModel, Params
from finetune_scaling.models.model_sharding import ModelSharding
from finetune_scaling.trees import Tree, flatten, merge, path_name, unflatten
from finetune_scaling.tuning.method import TuningMethod
from finetune_scaling.tuning.partition import partition


def attach(
    config: ModelConfig,
    tuning: TuningMethod,
    rng: jax.Array,
    base: Params | None = None,
    tokens: Sequence[int] = (),
    sharding: ModelSharding | None = None,
) -> tuple[Tree, Tree]:
    """Return trainable (float32) and frozen parameters (see cast_frozen) of a method on `base`, or on a new model.

    Parameters that the base lacks (adapters, prompts) are initialized, sharded by `sharding`; leaves of the base that
    have their dtype are not copied. tokens: token ids for methods that start from embeddings, see
    TuningMethod.initial_text and frequent_tokens.
    """
    model_rng, new_rng = jax.random.split(rng)
    model = LanguageModel(config, tuning.adapter)
    params = merge(_init_missing(model, model_rng, base or {}, sharding), base or {})
    if tuning.new_params is not None:
        make = _make_new(tuning.new_params, config, sharding)
        params = merge(params, make(new_rng, params, np.asarray(tokens, np.int32)))
    if tuning.derived is not None:
        derived = flatten(jax.eval_shape(functools.partial(tuning.derived, config), params))
        params = unflatten({name: leaf for name, leaf in flatten(params).items() if name not in derived})
    trainable, frozen = partition(params, tuning.trainable)
    trainable = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), trainable)
    return trainable, cast_frozen(frozen, config.compute_dtype)


def parameter_shapes(config: ModelConfig, tuning: TuningMethod) -> tuple[Tree, Tree]:
    """Return trainable and frozen parameters as `attach` does, as ShapeDtypeStructs."""
    tokens = tuple(range(min(5000, config.vocab_size)))  # the shapes do not depend on the ids
    rng = jax.eval_shape(jax.random.key, 0)
    return jax.eval_shape(lambda key: attach(config, tuning, key, None, tokens), rng)


def cast_frozen(params: Tree, dtype: Any) -> Tree:
    """Return parameters in the dtypes of frozen ones, see `frozen_dtype`; those that have theirs are not copied."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.asarray(leaf, frozen_dtype(path_name(path), leaf.ndim, dtype)), params
    )


def frozen_dtype(name: str, dimensions: int, compute_dtype: Any) -> Any:
    """Return the dtype of a frozen parameter: the compute dtype for matrices, float32 for norm scales and biases.

    Layers compute with float32 vectors and round matrices to the compute dtype, so that one base has one loss whether
    its parameters train or not.
    """
    layer_axes = name.startswith("layers/")  # stacked layers have a first axis more
    return compute_dtype if dimensions - layer_axes >= 2 else jnp.float32


def _init_missing(model: LanguageModel, rng: jax.Array, base: Params, sharding: ModelSharding | None) -> Params:
    """Initialize only what `base` lacks; None where it has a leaf."""
    present = frozenset(path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(base))
    return _make_init(model, present, sharding)(rng)


@functools.lru_cache(maxsize=32)
def _make_init(
    model: LanguageModel, present: frozenset[str], sharding: ModelSharding | None
) -> Callable[[jax.Array], Params]:
    """Build one program for all runs of a method on a base; XLA removes what is `present` as dead code."""

    def init(rng: jax.Array) -> Params:
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: None if path_name(path) in present else leaf, model.init(rng)
        )

    if sharding is None:
        return jax.jit(init)
    # Initialized with its sharding: a large model does not fit on one device.
    return jax.jit(init, out_shardings=sharding.parameters(jax.eval_shape(init, jax.random.key(0))))


@functools.lru_cache(maxsize=32)
def _make_new(
    new_params: Callable[..., Params], config: ModelConfig, sharding: ModelSharding | None
) -> Callable[[jax.Array, Params, np.ndarray], Params]:
    """Build the program of a method's `new_params`, which are small and so replicated."""

    def make(rng: jax.Array, params: Params, tokens: jax.Array) -> Params:
        return new_params(rng, config, params, tokens)

    return jax.jit(make, out_shardings=None if sharding is None else sharding.replicated())
