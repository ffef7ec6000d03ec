"""Memory and time of a train step without compiling.

Resident bytes are exact. Temporaries are an estimate, which selects the layouts to compile and is the only figure for
GPUs and CPUs. It counts the largest arrays that are alive in the backward pass of a layer; docs/planning.md compares it
with the compiler's figures.
"""

import dataclasses

from finetune_scaling.chips import Slice
from finetune_scaling.models.attention_choice import resolve_attention
from finetune_scaling.models.config import ModelConfig, count_parameters
from finetune_scaling.planning.bounds import StepBound, compute_bytes, step_bound
from finetune_scaling.planning.layout import Layout, ResidentBytes, resident_bytes
from finetune_scaling.planning.workload import Workload
from finetune_scaling.training.flops import trains_weights

_LOSS_CHUNKS = 3 * 2**26  # bytes: float32 logits of a chunk, their exponentials and their gradient


@dataclasses.dataclass(frozen=True)
class EstimatedStep:
    """A train step with a layout on a slice.

    resident, temporary: bytes per chip, between steps and of a step's temporaries.
    bound: lower bound of its time.
    """

    workload: Workload
    slice: Slice
    layout: Layout
    resident: ResidentBytes
    temporary: int
    bound: StepBound

    @property
    def peak(self) -> int:
        """Return the estimated peak memory per chip in bytes."""
        return self.resident.total + self.temporary

    @property
    def fits(self) -> bool:
        """Return whether the chips have enough memory."""
        return self.peak <= self.slice.chip.hbm_bytes

    @property
    def chip_seconds(self) -> float:
        """Return the lower bound of the chip-seconds of one train step."""
        return self.slice.chips * self.bound.seconds

    @property
    def chip_seconds_per_sequence(self) -> float:
        """Return the least chip-seconds per sequence, which compares different batch sizes."""
        return self.chip_seconds / self.workload.batch


def estimate_step(
    workload: Workload, slice_: Slice, layout: Layout, resident: ResidentBytes | None = None
) -> EstimatedStep:
    """Return the estimate of a train step, whose attention is that of the slice. resident: computed if not given."""
    model = resolve_attention(workload.model, slice_.chip.platform, workload.positions)
    workload = dataclasses.replace(workload, model=model)
    resident = resident or resident_bytes(workload, layout)
    bound = step_bound(workload, slice_.chip, layout, resident)
    return EstimatedStep(workload, slice_, layout, resident, temporary_bytes(workload, layout, resident), bound)


def temporary_bytes(workload: Workload, layout: Layout, resident: ResidentBytes) -> int:
    """Return the estimated bytes of a train step's temporaries per chip."""
    model = workload.model
    tokens = workload.batch / layout.accumulation / layout.batch_shards * workload.positions
    return round(
        _weights(workload, layout, resident)
        + model.layers * tokens * _saved_row(model, layout, workload.positions)
        + _layer(model, layout, tokens, workload.positions)
        + _LOSS_CHUNKS
    )


def _weights(workload: Workload, layout: Layout, resident: ResidentBytes) -> float:
    """Return the bytes of float32 gradients (twice with accumulation) and of trained weights in the compute dtype."""
    gradients = resident.trainable * (2 if layout.accumulation > 1 else 1)
    copies = resident.trainable * compute_bytes(workload.model) / 4 if trains_weights(workload.tuning) else 0.0
    return gradients + copies


def _saved_row(model: ModelConfig, layout: Layout, positions: int) -> float:
    """Return the bytes per position that one layer saves for the backward pass."""
    size = compute_bytes(model)
    stream = model.model_dim * size
    heads = (model.heads + 2 * model.kv_heads) * model.head_dim
    products = (heads + (2 if model.gated else 1) * model.ffn_dim) / layout.tensor * size + 2 * stream
    plain = model.attention == "plain"  # the other kernels save no scores
    scores = model.heads / layout.tensor * positions * (4 + size) if plain else 0.0  # before and after the softmax
    elementwise = 4 * model.ffn_dim / layout.tensor * size + 6 * stream  # the norm's in float32
    everything = stream + products + scores + elementwise
    return {"offload": 0.0, "full": stream, "dots": stream + products, "none": everything}[layout.remat]


def _layer(model: ModelConfig, layout: Layout, tokens: float, positions: int) -> float:
    """Return the bytes of a layer's gathered weights and of the temporaries of its backward pass."""
    size = compute_bytes(model)
    weights = count_parameters(model).non_embedding / model.layers * size / layout.tensor
    feed_forward = 4 * tokens * model.ffn_dim / layout.tensor * size
    scores = 2 * tokens * model.heads / layout.tensor * positions * 4 if model.attention == "plain" else 0.0
    return weights + feed_forward + scores + 4 * tokens * model.model_dim * size
