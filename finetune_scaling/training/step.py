"""Compiled training and evaluation steps, cached by model, method and optimizer.

`frozen` is a plain argument: not differentiated, not donated, not returned. Runs that share model, method and optimizer
share one program, whatever their data, seed, learning rate and number of steps.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from finetune_scaling.models.config import ModelConfig
from finetune_scaling.models.language_model import LanguageModel
from finetune_scaling.models.model_sharding import ModelSharding
from finetune_scaling.sharding.axes import DEFAULT_RULES, AxisRules, constrain
from finetune_scaling.training.loss import Batch, loss_sum_and_count, token_losses
from finetune_scaling.training.optimizers import OptimizerConfig, learning_rate_factors, make_optimizer
from finetune_scaling.trees import Tree, shapes_of, with_shardings
from finetune_scaling.tuning.method import TuningMethod
from finetune_scaling.tuning.partition import combine

Array = jax.Array


class State(NamedTuple):
    """Trainable parameters and their optimizer state."""

    trainable: Tree
    optimizer: Any


class StepMetrics(NamedTuple):
    """Metrics of one step: loss summed over target tokens (nats), number of these, global norm of the gradient."""

    loss_sum: Array
    tokens: Array
    gradient_norm: Array


# (state, frozen, batch, learning rate: float32 scalar[, dropout seed: uint32[2]]) -> state, metrics
TrainStep = Callable[..., tuple[State, StepMetrics]]


def init_state(trainable: Tree, optimizer: OptimizerConfig, sharding: ModelSharding | None = None) -> State:
    """Return the state at step 0, with its sharding, or on one device without one.

    It takes over `trainable`, which is not copied: the first step donates it.
    """
    shapes = shapes_of(trainable)
    leaves, structure = jax.tree.flatten(shapes)
    moments = _make_optimizer_state(optimizer, sharding, structure, tuple(leaves))(trainable)
    if sharding is not None:
        trainable = jax.device_put(trainable, sharding.parameters(shapes))
    return State(trainable, moments)


@functools.lru_cache(maxsize=64)
def _make_optimizer_state(
    optimizer: OptimizerConfig, sharding: ModelSharding | None, structure: Any, leaves: tuple
) -> Callable[[Tree], Any]:
    # One program: created leaf by leaf, each array of the optimizer would be compiled separately.
    where = None
    if sharding is not None:
        where = state_shardings(jax.tree.unflatten(structure, leaves), optimizer, sharding).optimizer
    return jax.jit(make_optimizer(optimizer).init, out_shardings=where)


def state_shapes(trainable: Tree, optimizer: OptimizerConfig) -> State:
    """Return the state over `trainable` as ShapeDtypeStructs; its leaves need a shape and a dtype only."""
    shapes = shapes_of(trainable)
    return State(shapes, jax.eval_shape(make_optimizer(optimizer).init, shapes))


def state_shardings(trainable: Tree, optimizer: OptimizerConfig, sharding: ModelSharding) -> State:
    """Return the shardings of the state over `trainable`, whose leaves need a shape and a dtype only."""
    shapes = state_shapes(trainable, optimizer)
    return State(sharding.parameters(shapes.trainable), sharding.optimizer(shapes.optimizer, shapes.trainable))


def sharded_state_shapes(trainable: Tree, optimizer: OptimizerConfig, sharding: ModelSharding) -> State:
    """Return `state_shapes` with shardings: what a checkpoint is read into."""
    return with_shardings(state_shapes(trainable, optimizer), state_shardings(trainable, optimizer, sharding))


def learning_rate_multipliers(optimizer: OptimizerConfig, tuning: TuningMethod) -> tuple[tuple[str, float], ...]:
    """Return the (regular expression, factor) pairs of a run, its optimizer's before its method's."""
    return optimizer.learning_rate_multipliers + tuning.learning_rate_multipliers


@functools.lru_cache(maxsize=32)
def make_train_step(
    config: ModelConfig,
    tuning: TuningMethod,
    optimizer: OptimizerConfig,
    accumulation: int = 1,
    axes: AxisRules = DEFAULT_RULES,
) -> TrainStep:
    """Build step(state, frozen, batch, learning_rate, dropout_seed) -> (state, metrics); batches are [B, L] arrays.

    accumulation: number of microbatches whose gradients are summed before the one update. dropout_seed: uint32 [2], the
    run's seed and the step, if the method uses dropout; else None. Gradients and new state are sharded by `axes` over
    the mesh in context, if any.
    """
    model = LanguageModel(config, tuning.adapter, axes)
    transformation = make_optimizer(optimizer)
    multipliers = learning_rate_multipliers(optimizer, tuning)

    def losses(trainable: Tree, frozen: Tree, batch: Batch, dropout_rng: Array | None) -> tuple[Array, Array]:
        return loss_sum_and_count(model, tuning, combine(trainable, frozen), batch, dropout_rng)

    gradient = jax.value_and_grad(losses, has_aux=True)

    def step(
        state: State, frozen: Tree, batch: Batch, learning_rate: Array, dropout_seed: Array | None = None
    ) -> tuple[State, StepMetrics]:
        where = ModelSharding(config, jax.sharding.get_abstract_mesh(), axes)

        def sharded_gradient(*inputs: Any) -> Any:
            totals, gradients = gradient(*inputs)
            return totals, where.constrain(gradients)

        rng = None if dropout_seed is None else jax.random.fold_in(jax.random.key(dropout_seed[0]), dropout_seed[1])
        inputs = (state.trainable, frozen, batch, rng)
        (loss_sum, count), summed = _accumulate(sharded_gradient, *inputs, accumulation)
        mean = jax.tree.map(lambda leaf: leaf / jnp.maximum(count, 1.0), summed)
        updates, optimizer_state = transformation.update(mean, state.optimizer, state.trainable)
        factors = learning_rate_factors(multipliers, updates)
        scale = lambda leaf, factor: leaf * (learning_rate if factor == 1 else factor * learning_rate)  # noqa: E731
        updates = jax.tree.map(scale, updates, factors)
        trainable = where.constrain(optax.apply_updates(state.trainable, updates))
        optimizer_state = where.constrain_optimizer(optimizer_state, trainable)
        return State(trainable, optimizer_state), StepMetrics(loss_sum, count, optax.global_norm(mean))

    return jax.jit(step, donate_argnums=0)


def _accumulate(
    gradient: Callable, trainable: Tree, frozen: Tree, batch: Batch, dropout_rng: Array | None, count: int
) -> Any:
    """Sum losses, counts and gradients over `count` microbatches.

    A microbatch takes every `count`-th row, so that no row moves to another device.
    """
    if count == 1:
        return gradient(trainable, frozen, batch, dropout_rng)
    rows = jax.tree.map(lambda leaf: leaf.reshape(-1, count, *leaf.shape[1:]).swapaxes(0, 1), batch)
    rngs = None if dropout_rng is None else jax.random.split(dropout_rng, count)
    microbatches = (rows, rngs)

    def add(total: Any, microbatch: tuple[Batch, Array | None]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, gradient(trainable, frozen, *microbatch)), None

    shapes = jax.eval_shape(gradient, trainable, frozen, *jax.tree.map(lambda leaf: leaf[0], microbatches))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(add, zeros, microbatches)[0]


@functools.lru_cache(maxsize=32)
def make_evaluation_step(
    config: ModelConfig, tuning: TuningMethod, axes: AxisRules = DEFAULT_RULES
) -> Callable[[Tree, Tree, Batch], tuple[Array, Array]]:
    """Build step(trainable, frozen, batch) -> (loss sums [B] in nats, target counts [B]), replicated."""
    model = LanguageModel(config, tuning.adapter, axes)

    def step(trainable: Tree, frozen: Tree, batch: Batch) -> tuple[Array, Array]:
        losses = token_losses(model, tuning, combine(trainable, frozen), batch)
        return constrain(losses.sum(axis=1), axes, None), constrain(batch["weights"].sum(axis=1), axes, None)

    return jax.jit(step)


@jax.jit
def all_finite(tree: Tree) -> Array:
    """Return whether all numbers in a tree are finite, a bool scalar."""
    return jnp.all(jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]))
