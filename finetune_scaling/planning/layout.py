"""Layout of a train step over chips, and the resulting bytes per chip, from shapes alone."""

import dataclasses
import functools
import math
from typing import Literal

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType

from finetune_scaling.models.config import ModelConfig
from finetune_scaling.models.model_sharding import ModelSharding
from finetune_scaling.planning.workload import Workload
from finetune_scaling.sharding.axes import DEFAULT_RULES, MESH_AXES, AxisRules
from finetune_scaling.training.optimizers import OptimizerConfig
from finetune_scaling.training.step import State
from finetune_scaling.training.step import state_shapes as training_state_shapes
from finetune_scaling.trees import Tree
from finetune_scaling.tuning.attach import parameter_shapes
from finetune_scaling.tuning.method import TuningMethod

Remat = Literal["none", "dots", "full", "offload"]


@dataclasses.dataclass(frozen=True)
class Layout:
    """Mesh shape, number of microbatches (accumulation) and rematerialization of a train step."""

    data: int
    fsdp: int
    tensor: int
    accumulation: int = 1
    remat: Remat = "none"
    axes: AxisRules = DEFAULT_RULES

    @property
    def chips(self) -> int:
        """Return the number of chips of the mesh."""
        return self.data * self.fsdp * self.tensor

    def text(self) -> str:
        """Return the layout as text."""
        mesh = f"data {self.data} x fsdp {self.fsdp} x tensor {self.tensor}"
        return f"mesh {mesh}, accumulation {self.accumulation}, remat {self.remat}"

    @property
    def batch_shards(self) -> int:
        """Return the number of shards of a batch."""
        sizes = dict(zip(MESH_AXES, (self.data, self.fsdp, self.tensor), strict=True))
        return math.prod(sizes[axis] for axis in self.axes.batch)

    def mesh(self) -> AbstractMesh:
        """Return the mesh without devices."""
        return AbstractMesh((self.data, self.fsdp, self.tensor), MESH_AXES, axis_types=(AxisType.Auto,) * 3)


@dataclasses.dataclass(frozen=True)
class ResidentBytes:
    """Bytes per chip between steps: trainable and frozen parameters, optimizer state, one batch."""

    trainable: int
    frozen: int
    optimizer: int
    batch: int

    @property
    def total(self) -> int:
        """Return the bytes of all of them."""
        return self.trainable + self.frozen + self.optimizer + self.batch


_BATCH_FIELDS = {
    "tokens": np.dtype(np.int32),
    "targets": np.dtype(np.int32),
    "weights": np.dtype(np.float32),
    "positions": np.dtype(np.int32),
    "segments": np.dtype(np.int32),
    "prefix": np.dtype(bool),
}


def batch_fields(workload: Workload) -> dict[str, np.dtype]:
    """Return the fields of a batch, as `data.packing.pack_batch` makes them."""
    return {name: dtype for name, dtype in _BATCH_FIELDS.items() if workload.bidirectional or name != "prefix"}


def state_shapes(workload: Workload) -> tuple[State, Tree]:
    """Return the training state and the frozen parameters as ShapeDtypeStructs, without allocating arrays."""
    return _shapes(workload.model, workload.tuning, workload.optimizer)


@functools.lru_cache(maxsize=64)
def _shapes(model: ModelConfig, tuning: TuningMethod, optimizer: OptimizerConfig) -> tuple[State, Tree]:
    trainable, frozen = parameter_shapes(model, tuning)
    return training_state_shapes(trainable, optimizer), frozen


def state_shardings(workload: Workload, sharding: ModelSharding) -> State:
    """Return the shardings of the training state, like training.step.state_shardings but from cached shapes."""
    state, _ = state_shapes(workload)
    return State(sharding.parameters(state.trainable), sharding.optimizer(state.optimizer, state.trainable))


def resident_bytes(workload: Workload, layout: Layout) -> ResidentBytes:
    """Return the exact bytes per chip between steps, by the sharding rules of a run."""
    rows = math.ceil(workload.batch / layout.batch_shards)
    mesh = dataclasses.replace(layout, accumulation=1, remat="none")
    without_batch = dataclasses.replace(workload, batch=0, length=0, evaluation_batch=0, decoding=None)
    batch = rows * workload.length * sum(dtype.itemsize for dtype in batch_fields(workload).values())
    return dataclasses.replace(_parameters(without_batch, mesh), batch=batch)


@functools.lru_cache(maxsize=4096)
def _parameters(workload: Workload, layout: Layout) -> ResidentBytes:
    """Return the bytes without a batch, cached for the thousands of calls of a search."""
    state, frozen = state_shapes(workload)
    sharding = ModelSharding(workload.model, layout.mesh(), layout.axes)
    shardings = state_shardings(workload, sharding)
    return ResidentBytes(
        trainable=bytes_per_device(state.trainable, shardings.trainable),
        frozen=bytes_per_device(frozen, sharding.parameters(frozen)),
        optimizer=bytes_per_device(state.optimizer, shardings.optimizer),
        batch=0,
    )


def bytes_per_device(tree: Tree, shardings: Tree | None = None) -> int:
    """Return the bytes of a tree per device. shardings: default: those of the leaves."""
    leaves = jax.tree.leaves(tree)
    found = [leaf.sharding for leaf in leaves] if shardings is None else jax.tree.leaves(shardings)
    return sum(
        math.prod(sharding.shard_shape(leaf.shape)) * np.dtype(leaf.dtype).itemsize
        for leaf, sharding in zip(leaves, found, strict=True)
    )
