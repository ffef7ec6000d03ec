"""Lower bound of the time of a train step (roofline): FLOPs and traffic at the stated rates of the chip.

    seconds >= max(FLOPs / peak FLOPs, HBM bytes / HBM bandwidth, received bytes / interconnect bandwidth,
                   host bytes / host bandwidth)

All four are per chip. At best they overlap completely, so no step is faster. The counts are lower bounds too:

FLOPs         training/flops.py, plus recomputation in the backward pass: with remat "full" or "offload" a forward pass
              of the layers, with "dots" the attention scores, with "none" nothing.
HBM           Arguments are read, updated ones written. Every forward and backward pass of every microbatch reads the
              weights of the layers and of the head (gathered along fsdp, sharded along tensor). The residual stream of
              every layer is written and read once.
interconnect  fsdp: an all-gather of the weights for the forward and the backward pass of every microbatch, and one
              reduce-scatter of the gradients. data: an all-reduce of the gradients. tensor: per layer an all-reduce of
              [rows, length, model_dim] for a parallel block (two for a sequential one) in the forward pass, as many in
              the backward pass, and again with remat "full" or "offload". For an array of b bytes on n chips, a chip
              receives b (n-1)/n in an all-gather or reduce-scatter, and twice that in an all-reduce.
host          With remat "offload" the input of every layer is sent to the host and back; otherwise nothing.
"""

import dataclasses

import numpy as np

from finetune_scaling.chips import Chip
from finetune_scaling.models.config import ModelConfig, count_parameters
from finetune_scaling.planning.layout import Layout, ResidentBytes
from finetune_scaling.planning.workload import Workload
from finetune_scaling.training.flops import (
    attention_flops_per_token,
    forward_flops_per_token,
    training_flops,
    trains_weights,
)


@dataclasses.dataclass(frozen=True)
class StepBound:
    """Lower bounds of the seconds of a step, one for each resource."""

    compute: float
    hbm: float
    interconnect: float
    host: float = 0.0

    @property
    def seconds(self) -> float:
        """Return the lower bound of the seconds of a step, that of the limiting resource."""
        return max(dataclasses.astuple(self))

    @property
    def set_by(self) -> str:
        """Return the name of the limiting resource."""
        times = dataclasses.asdict(self)
        return max(times, key=times.__getitem__)


def step_bound(
    workload: Workload, chip: Chip, layout: Layout, resident: ResidentBytes, link_bytes: float | None = None
) -> StepBound:
    """Return the lower bound of a train step.

    link_bytes: received bytes counted in the compiled program; default: by formula.
    """
    flops = (model_flops(workload) + recomputed_flops(workload, layout)) / layout.chips
    received = min_link_bytes(workload, layout) if link_bytes is None else link_bytes
    return StepBound(
        compute=flops / chip.peak_flops,
        hbm=min_hbm_bytes(workload, layout, resident) / chip.hbm_bandwidth,
        interconnect=received / chip.interconnect_bandwidth,
        host=_residual_bytes(workload, layout) / chip.host_bandwidth if layout.remat == "offload" else 0.0,
    )


def model_flops(workload: Workload) -> float:
    """Return the FLOPs of one train step over all chips, by the convention of training/flops.py."""
    return training_flops(workload.model, workload.tuning, 1, workload.batch, workload.length)


def recomputed_flops(workload: Workload, layout: Layout) -> float:
    """Return the FLOPs that the backward pass recomputes, over all chips."""
    model, positions = workload.model, workload.positions
    head = 2.0 * model.vocab_size * model.model_dim
    scores = attention_flops_per_token(model, positions)
    layers = forward_flops_per_token(model, positions, workload.tuning.adapter) - head
    recomputed = {"none": 0.0, "dots": scores, "full": layers, "offload": layers}
    return workload.batch * positions * recomputed[layout.remat]


def min_hbm_bytes(workload: Workload, layout: Layout, resident: ResidentBytes) -> float:
    """Return the minimum number of bytes that a chip reads and writes in a train step."""
    written = resident.trainable + resident.optimizer
    weights = 2 * layout.accumulation * _weight_bytes(workload.model) / layout.tensor
    return resident.total + written + weights + _residual_bytes(workload, layout)


def _residual_bytes(workload: Workload, layout: Layout) -> float:
    """Return twice the bytes of the residual stream of all layers: written and read, or to the host and back."""
    rows = workload.batch / layout.batch_shards
    return 2 * workload.model.layers * rows * workload.positions * _row_bytes(workload.model)


def min_link_bytes(workload: Workload, layout: Layout) -> float:
    """Return the minimum number of bytes that a chip receives in a train step."""
    weights = _weight_bytes(workload.model) / layout.tensor
    trained = weights if trains_weights(workload.tuning) else 0.0
    gathered = 2 * layout.accumulation * weights * _received_share(layout.fsdp)
    scattered = trained * _received_share(layout.fsdp)
    reduced = 2 * trained / layout.fsdp * _received_share(layout.data)
    return gathered + scattered + reduced + _tensor_bytes(workload, layout)


def _tensor_bytes(workload: Workload, layout: Layout) -> float:
    """Return the bytes that a chip receives in the all-reduces of tensor parallelism."""
    all_reduces = (1 if workload.model.block == "parallel" else 2) * (3 if layout.remat in ("full", "offload") else 2)
    rows = workload.batch / layout.batch_shards
    size = rows * workload.positions * _row_bytes(workload.model)
    return workload.model.layers * all_reduces * 2 * size * _received_share(layout.tensor)


def _received_share(chips: int) -> float:
    """Return the share of an array, sharded over `chips`, that is on other chips."""
    return (chips - 1) / chips


def _weight_bytes(model: ModelConfig) -> float:
    """Return the bytes of layers and head in the compute dtype."""
    return (count_parameters(model).non_embedding + model.vocab_size * model.model_dim) * compute_bytes(model)


def _row_bytes(model: ModelConfig) -> float:
    """Return the bytes of one position of the residual stream."""
    return model.model_dim * compute_bytes(model)


def compute_bytes(model: ModelConfig) -> int:
    """Return the item size of the compute dtype."""
    return np.dtype(model.compute_dtype).itemsize
