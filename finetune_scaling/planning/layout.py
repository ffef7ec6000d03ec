"""How a step is laid out over chips, and the bytes that a chip then holds, from shapes alone."""

import dataclasses
import functools
import math
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType

from finetune_scaling.models.config import ModelConfig
from finetune_scaling.models.model_sharding import ModelSharding
from finetune_scaling.planning.workload import Workload
from finetune_scaling.sharding.axes import DEFAULT_RULES, MESH_AXES, AxisRules
from finetune_scaling.training.optimizers import OptimizerConfig
from finetune_scaling.training.step import State, init_state
from finetune_scaling.trees import Tree
from finetune_scaling.tuning.attach import attach
from finetune_scaling.tuning.method import TuningMethod

Remat = Literal["none", "dots", "full", "offload"]


@dataclasses.dataclass(frozen=True)
class Layout:
    """Sizes of the mesh's axes; parts of a batch, one after another; which activations are computed again (remat)."""

    data: int
    fsdp: int
    tensor: int
    accumulation: int = 1
    remat: Remat = "none"
    axes: AxisRules = DEFAULT_RULES

    @property
    def chips(self) -> int:
        return self.data * self.fsdp * self.tensor

    def text(self) -> str:
        """The layout in a few words."""
        mesh = f"data {self.data} x fsdp {self.fsdp} x tensor {self.tensor}"
        return f"mesh {mesh}, accumulation {self.accumulation}, remat {self.remat}"

    @property
    def batch_parts(self) -> int:
        """Chips over which a batch's rows are divided."""
        sizes = dict(zip(MESH_AXES, (self.data, self.fsdp, self.tensor), strict=True))
        return math.prod(sizes[axis] for axis in self.axes.batch)

    def mesh(self) -> AbstractMesh:
        """The mesh without devices."""
        return AbstractMesh((self.data, self.fsdp, self.tensor), MESH_AXES, axis_types=(AxisType.Auto,) * 3)


@dataclasses.dataclass(frozen=True)
class Held:
    """Bytes that one chip holds between steps: trainable and frozen parameters, optimizer state, one batch."""

    trainable: int
    frozen: int
    optimizer: int
    batch: int

    @property
    def total(self) -> int:
        return self.trainable + self.frozen + self.optimizer + self.batch


BATCH_FIELDS = {
    "tokens": np.dtype(np.int32),
    "targets": np.dtype(np.int32),
    "weights": np.dtype(np.float32),
    "positions": np.dtype(np.int32),
    "segments": np.dtype(np.int32),
    "prefix": np.dtype(bool),
}


def shapes(workload: Workload) -> tuple[State, Tree]:
    """The training state and the frozen parameters as ShapeDtypeStructs; nothing is allocated."""
    return _shapes(workload.model, workload.tuning, workload.optimizer)


@functools.lru_cache(maxsize=64)
def _shapes(model: ModelConfig, tuning: TuningMethod, optimizer: OptimizerConfig) -> tuple[State, Tree]:
    tokens = tuple(range(min(5000, model.vocab_size)))  # which ones they are does not matter to shapes
    rng = jax.eval_shape(jax.random.key, 0)
    trainable, frozen = jax.eval_shape(lambda key: attach(model, tuning, key, None, tokens), rng)
    return jax.eval_shape(lambda tree: init_state(tree, optimizer), trainable), frozen


def placed_state(workload: Workload, sharding: ModelSharding) -> State:
    """Where the training state lives, as training.step.state_shardings has it, from shapes that are known already."""
    state, _ = shapes(workload)
    return State(sharding.parameters(state.trainable), sharding.optimizer(state.optimizer, state.trainable))


def held(workload: Workload, layout: Layout) -> Held:
    """What a chip holds between steps: exact, by the same rules that place the arrays of a run."""
    rows = math.ceil(workload.batch / layout.batch_parts)
    mesh = dataclasses.replace(layout, accumulation=1, remat="none")
    one = dataclasses.replace(workload, batch=0, length=0, evaluation_batch=0, decoding=None)
    batch = rows * workload.length * sum(dtype.itemsize for dtype in BATCH_FIELDS.values())
    return dataclasses.replace(_parameters(one, mesh), batch=batch)


@functools.lru_cache(maxsize=4096)
def _parameters(workload: Workload, layout: Layout) -> Held:
    """What is held beside a batch, which neither batch nor remat changes: a search asks thousands of times."""
    state, frozen = shapes(workload)
    sharding = ModelSharding(workload.model, layout.mesh(), layout.axes)
    where = placed_state(workload, sharding)
    return Held(
        trainable=held_bytes(state.trainable, where.trainable),
        frozen=held_bytes(frozen, sharding.parameters(frozen)),
        optimizer=held_bytes(state.optimizer, where.optimizer),
        batch=0,
    )


def held_bytes(tree: Tree, shardings: Tree | None = None) -> int:
    """Bytes of a tree's leaves that one device holds; without shardings, the leaves' own."""
    leaves = jax.tree.leaves(tree)
    places = [leaf.sharding for leaf in leaves] if shardings is None else jax.tree.leaves(shardings)
    return sum(_leaf_bytes(leaf, place) for leaf, place in zip(leaves, places, strict=True))


def _leaf_bytes(leaf: Any, sharding: Any) -> int:
    return math.prod(sharding.shard_shape(leaf.shape)) * np.dtype(leaf.dtype).itemsize
