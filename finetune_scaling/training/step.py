"""Compiled steps: one for training, one for evaluation, cached by what shapes them.

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
from finetune_scaling.training.optimizers import OptimizerConfig, make_optimizer
from finetune_scaling.trees import Tree
from finetune_scaling.tuning.method import TuningMethod
from finetune_scaling.tuning.partition import combine

Array = jax.Array


class State(NamedTuple):
    """What training changes: trainable parameters and the optimizer's state over them."""

    trainable: Tree
    optimizer: Any


class StepMetrics(NamedTuple):
    """Of one step: loss summed over target tokens (nats), their number (tokens), and the gradient's global norm."""

    loss_sum: Array
    tokens: Array
    gradient_norm: Array


TrainStep = Callable[[State, Tree, Any, Any], tuple[State, StepMetrics]]  # the last: the rate, a float32 scalar


def init_state(trainable: Tree, optimizer: OptimizerConfig, sharding: ModelSharding | None = None) -> State:
    """The state at step 0, created with its sharding, or on one device without one.

    The leaves are copied, since training donates them and they may be the base's own.
    """
    leaves, structure = jax.tree.flatten(jax.eval_shape(lambda tree: tree, trainable))
    return _make_init(optimizer, sharding, structure, tuple(leaves))(trainable)


@functools.cache
def _make_init(
    optimizer: OptimizerConfig, sharding: ModelSharding | None, structure: Any, leaves: tuple
) -> Callable[[Tree], State]:
    # One program: made leaf by leaf, the optimizer's zeros would be a small compilation each.
    where = None if sharding is None else state_shardings(jax.tree.unflatten(structure, leaves), optimizer, sharding)
    return jax.jit(functools.partial(_new_state, optimizer=optimizer), out_shardings=where)


def _new_state(trainable: Tree, optimizer: OptimizerConfig) -> State:
    return State(jax.tree.map(jnp.copy, trainable), make_optimizer(optimizer).init(trainable))


def state_shardings(trainable: Tree, optimizer: OptimizerConfig, sharding: ModelSharding) -> State:
    """Return the shardings of the state over `trainable`, whose leaves need a shape and a dtype only."""
    shapes = jax.eval_shape(functools.partial(_new_state, optimizer=optimizer), trainable)
    return State(sharding.parameters(shapes.trainable), sharding.optimizer(shapes.optimizer, shapes.trainable))


@functools.cache
def make_train_step(
    config: ModelConfig,
    tuning: TuningMethod,
    optimizer: OptimizerConfig,
    accumulation: int = 1,
    axes: AxisRules = DEFAULT_RULES,
) -> TrainStep:
    """Builds step(state, frozen, batch, learning_rate) -> (state, metrics); batches are [B, L] arrays.

    accumulation: parts into which the batch is divided, one after the other, before the one update. On the mesh in
    context, gradients and new state lie as the rules say; where there is none, everything is on one device.
    """
    model = LanguageModel(config, tuning.adapter, axes)
    transformation = make_optimizer(optimizer)

    def losses(trainable: Tree, frozen: Tree, batch: Batch) -> tuple[Array, Array]:
        return loss_sum_and_count(model, tuning, combine(trainable, frozen), batch)

    gradient = jax.value_and_grad(losses, has_aux=True)

    def step(state: State, frozen: Tree, batch: Batch, learning_rate: Array) -> tuple[State, StepMetrics]:
        where = ModelSharding(config, jax.sharding.get_abstract_mesh(), axes)

        def divided_gradient(*inputs: Any) -> Any:
            totals, gradients = gradient(*inputs)
            return totals, where.constrain(gradients)

        (loss_sum, count), summed = _accumulate(divided_gradient, state.trainable, frozen, batch, accumulation)
        mean = jax.tree.map(lambda leaf: leaf / jnp.maximum(count, 1.0), summed)
        updates, optimizer_state = transformation.update(mean, state.optimizer, state.trainable)
        updates = jax.tree.map(lambda leaf: leaf * learning_rate, updates)
        trainable = where.constrain(optax.apply_updates(state.trainable, updates))
        optimizer_state = where.constrain_optimizer(optimizer_state, trainable)
        return State(trainable, optimizer_state), StepMetrics(loss_sum, count, optax.global_norm(mean))

    return jax.jit(step, donate_argnums=0)


def _accumulate(gradient: Callable, trainable: Tree, frozen: Tree, batch: Batch, parts: int) -> Any:
    """Sums losses, counts and gradients over `parts` equal pieces of the batch.

    A piece takes every `parts`-th row, so that each device's rows stay its own.
    """
    if parts == 1:
        return gradient(trainable, frozen, batch)
    pieces = jax.tree.map(lambda leaf: leaf.reshape(-1, parts, *leaf.shape[1:]).swapaxes(0, 1), batch)

    def add(total: Any, piece: Batch) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, gradient(trainable, frozen, piece)), None

    shapes = jax.eval_shape(gradient, trainable, frozen, jax.tree.map(lambda leaf: leaf[0], pieces))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(add, zeros, pieces)[0]


@functools.cache
def make_evaluation_step(
    config: ModelConfig, tuning: TuningMethod, axes: AxisRules = DEFAULT_RULES
) -> Callable[[Tree, Tree, Batch], tuple[Array, Array]]:
    """Builds step(trainable, frozen, batch) -> (loss sums [B] in nats, target counts [B]) per row, on every device."""
    model = LanguageModel(config, tuning.adapter, axes)

    def step(trainable: Tree, frozen: Tree, batch: Batch) -> tuple[Array, Array]:
        losses = token_losses(model, tuning, combine(trainable, frozen), batch)
        return constrain(losses.sum(axis=1), axes, None), constrain(batch["weights"].sum(axis=1), axes, None)

    return jax.jit(step)


@jax.jit
def all_finite(tree: Tree) -> Array:
    """Whether no number in a tree is infinite or NaN, a boolean scalar."""
    return jnp.all(jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]))


def compiled_programs() -> int:
    """Number of programs that XLA compiled or loaded from its cache in this process so far."""
    return _compilations[0]


_compilations = [0]


def _count_compilation(event: str, duration_secs: float, **_: str | int) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
        _compilations[0] += 1


jax.monitoring.register_event_duration_secs_listener(_count_compilation)
