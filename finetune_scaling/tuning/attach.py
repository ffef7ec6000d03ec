"""Putting a method on a base: the full tree of parameters, divided by the method's rule."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from finetune_scaling.models.config import ModelConfig
from finetune_scaling.models.language_model import LanguageModel, Params
from finetune_scaling.models.model_sharding import ModelSharding
from finetune_scaling.trees import Tree, merge, path_name
from finetune_scaling.tuning.method import TuningMethod
from finetune_scaling.tuning.partition import partition


def attach(
    config: ModelConfig,
    tuning: TuningMethod,
    rng: jax.Array,
    base: Params | None = None,
    common_tokens: Sequence[int] = (),
    sharding: ModelSharding | None = None,
) -> tuple[Tree, Tree]:
    """Trainable (float32) and frozen (compute dtype) parameters of a method on `base`, or on a new model where None.

    Parameters that the base lacks (adapters, prompts) are born here, where `sharding` says; the base's own leaves are
    taken as they are. common_tokens: token ids from the commonest on, for methods that start from embeddings.
    """
    model_rng, new_rng = jax.random.split(rng)
    model = LanguageModel(config, tuning.adapter)
    params = merge(_init_missing(model, model_rng, base or {}, sharding), base or {})
    if tuning.new_params is not None:
        make = _make_new(tuning.new_params, config, sharding)
        params = merge(params, make(new_rng, params, np.asarray(common_tokens, np.int32)))
    trainable, frozen = partition(params, tuning.trainable)
    return cast(trainable, jnp.float32), cast(frozen, config.compute_dtype)


def cast(tree: Tree, dtype: Any) -> Tree:
    """A tree in another dtype; leaves that have it already are not copied."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)


def _init_missing(model: LanguageModel, rng: jax.Array, base: Params, sharding: ModelSharding | None) -> Params:
    """Initialises only what `base` lacks; None where it has a leaf."""
    present = frozenset(path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(base))
    return _make_init(model, present, sharding)(rng)


@functools.cache
def _make_init(
    model: LanguageModel, present: frozenset[str], sharding: ModelSharding | None
) -> Callable[[jax.Array], Params]:
    """One program for all runs of a method on a base: what is `present` is dead code that XLA drops."""

    def init(rng: jax.Array) -> Params:
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: None if path_name(path) in present else leaf, model.init(rng)
        )

    if sharding is None:
        return jax.jit(init)
    # Born where they live: a large model would not fit on one device first.
    return jax.jit(init, out_shardings=sharding.parameters(jax.eval_shape(init, jax.random.key(0))))


@functools.cache
def _make_new(
    new_params: Callable[..., Params], config: ModelConfig, sharding: ModelSharding | None
) -> Callable[[jax.Array, Params, np.ndarray], Params]:
    """A method's further parameters; they are small, so every device has them."""

    def make(rng: jax.Array, base: Params, common_tokens: jax.Array) -> Params:
        return new_params(rng, config, base, common_tokens)

    return jax.jit(make, out_shardings=None if sharding is None else sharding.replicated())
