"""A lower bound of a step's time: operations, memory traffic and messages between chips, each at its full stated rate.

    seconds >= max(operations / peak, memory bytes / memory bandwidth, received bytes / interconnect bandwidth,
                   bytes to and from the host / host bandwidth)

All four are of one chip. They overlap at best, so no step is faster; how far a real one is from the bound, only a run
tells. The counts themselves are lower bounds too:

operations    training/flops.py, plus what is computed again in the backward pass: with remat "full" or "offload" a
              forward pass of the layers, with "dots" the attention scores; with "none" nothing.
memory        arguments are read and what is not left as it is is written; the weights of the layers and of the head are
              read by every forward and backward pass of every part of the batch, as the chip uses them (whole along
              fsdp, divided along tensor); the residual stream of every layer is written and read once.
interconnect  fsdp: weights are gathered for the forward and for the backward pass of every part, and gradients are
              scattered once; data: gradients are reduced; tensor: one sum of [rows, length, model_dim] a parallel block
              (two a sequential one) forward, as much backward, and again with remat "full" or "offload". n chips
              that share an array of b bytes receive b (n-1)/n to gather or scatter it, and twice that to reduce it.
host          with remat "offload" the input of every layer goes to the host in the forward pass and comes back in the
              backward pass; otherwise nothing.
"""

import dataclasses

import numpy as np

from finetune_scaling.models.config import ModelConfig, count_parameters
from finetune_scaling.planning.chips import Chip
from finetune_scaling.planning.layout import Held, Layout
from finetune_scaling.planning.workload import Workload
from finetune_scaling.training.flops import (
    attention_flops_per_token,
    forward_flops_per_token,
    training_flops,
    trains_weights,
)


@dataclasses.dataclass(frozen=True)
class Work:
    """Of one chip in one step: operations, bytes to and from memory, bytes received from other chips, bytes to the host
    and back.
    """

    flops: float
    hbm_bytes: float
    link_bytes: float
    host_bytes: float = 0.0


@dataclasses.dataclass(frozen=True)
class Bound:
    """Seconds that a step takes at least, by what limits it."""

    compute: float
    hbm: float
    interconnect: float
    host: float = 0.0

    @property
    def seconds(self) -> float:
        return max(self.compute, self.hbm, self.interconnect, self.host)

    @property
    def set_by(self) -> str:
        """The name of the largest of the four."""
        return max(("compute", "hbm", "interconnect", "host"), key=lambda name: getattr(self, name))


def bound(chip: Chip, work: Work) -> Bound:
    """The least time of so much work on a chip."""
    return Bound(
        compute=work.flops / chip.peak_flops,
        hbm=work.hbm_bytes / chip.hbm_bandwidth,
        interconnect=work.link_bytes / chip.interconnect_bandwidth,
        host=work.host_bytes / chip.host_bandwidth if work.host_bytes else 0.0,
    )


def training_work(workload: Workload, layout: Layout, holds: Held, link_bytes: float | None = None) -> Work:
    """The least work of a train step on each chip; link_bytes: as counted in its program, in place of the formula."""
    counted = least_link_bytes(workload, layout) if link_bytes is None else link_bytes
    flops = model_flops(workload) + recomputed_flops(workload, layout)
    held_back = _residual_bytes(workload, layout) if layout.remat == "offload" else 0.0
    return Work(flops / layout.chips, least_hbm_bytes(workload, layout, holds), counted, held_back)


def model_flops(workload: Workload) -> float:
    """Of one train step over all chips, by the convention of training/flops.py."""
    return training_flops(workload.model, workload.tuning, 1, workload.batch, workload.length)


def recomputed_flops(workload: Workload, layout: Layout) -> float:
    """Of the forward computations that the backward pass repeats, over all chips."""
    model, positions = workload.model, workload.positions
    head = 2.0 * model.vocab_size * model.model_dim
    scores = attention_flops_per_token(model, positions)
    layers = forward_flops_per_token(model, positions) - head
    repeated = {"none": 0.0, "dots": scores, "full": layers, "offload": layers}
    return workload.batch * positions * repeated[layout.remat]


def least_hbm_bytes(workload: Workload, layout: Layout, holds: Held) -> float:
    """Bytes that a chip reads and writes in a train step, at least."""
    written = holds.trainable + holds.optimizer
    weights = 2 * layout.accumulation * _weight_bytes(workload.model) / layout.tensor
    return holds.total + written + weights + _residual_bytes(workload, layout)


def _residual_bytes(workload: Workload, layout: Layout) -> float:
    """The residual stream of every layer, once there and once back."""
    rows = workload.batch / layout.batch_parts
    return 2 * workload.model.layers * rows * workload.positions * _row_bytes(workload.model)


def least_link_bytes(workload: Workload, layout: Layout) -> float:
    """Bytes that a chip receives in a train step, at least."""
    weights = _weight_bytes(workload.model) / layout.tensor
    trained = weights if trains_weights(workload.tuning) else 0.0
    gathered = 2 * layout.accumulation * weights * _others(layout.fsdp)
    scattered = trained * _others(layout.fsdp)
    reduced = 2 * trained / layout.fsdp * _others(layout.data)
    return gathered + scattered + reduced + _tensor_bytes(workload, layout)


def _tensor_bytes(workload: Workload, layout: Layout) -> float:
    """What tensor parallelism sums over chips."""
    sums = (1 if workload.model.block == "parallel" else 2) * (3 if layout.remat in ("full", "offload") else 2)
    rows = workload.batch / layout.batch_parts
    one = rows * workload.positions * _row_bytes(workload.model)
    return workload.model.layers * sums * 2 * one * _others(layout.tensor)


def _others(chips: int) -> float:
    """The share of an array that a chip lacks where `chips` of them divide it."""
    return (chips - 1) / chips


def _weight_bytes(model: ModelConfig) -> float:
    """Layers and head in the compute dtype."""
    return (count_parameters(model).non_embedding + model.vocab_size * model.model_dim) * compute_bytes(model)


def _row_bytes(model: ModelConfig) -> float:
    """One position of the residual stream."""
    return model.model_dim * compute_bytes(model)


def compute_bytes(model: ModelConfig) -> int:
    """Bytes of a number of the compute dtype."""
    return 2 if model.compute_dtype == "bfloat16" else np.dtype(model.compute_dtype).itemsize
