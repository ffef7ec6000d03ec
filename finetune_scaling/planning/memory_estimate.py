"""Memory of a train step without compiling: exact resident bytes and an estimate of the temporaries.

It selects the layouts to compile, and is the only figure for GPUs and CPUs. It counts the largest arrays that are alive
in the backward pass of a layer; docs/planning.md compares it with the compiler's figures.
"""

import dataclasses

from finetune_scaling.models.config import ModelConfig, count_parameters
from finetune_scaling.planning.bounds import compute_bytes
from finetune_scaling.planning.chips import Chip
from finetune_scaling.planning.layout import Layout, ResidentBytes, resident_bytes
from finetune_scaling.planning.workload import Workload
from finetune_scaling.training.flops import trains_weights

_LOSS_CHUNKS = 3 * 2**26  # bytes: float32 logits of a chunk, their exponentials and their gradient


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes per chip: resident between steps, and temporaries of a step."""

    resident: ResidentBytes
    temporary: int

    @property
    def peak(self) -> int:
        return self.resident.total + self.temporary

    def fits(self, chip: Chip) -> bool:
        """Return whether the chip has enough memory."""
        return self.peak <= chip.hbm_bytes


def estimate_memory(workload: Workload, layout: Layout, resident: ResidentBytes | None = None) -> Memory:
    """Return the memory of a train step per chip. resident: computed if not given."""
    resident = resident or resident_bytes(workload, layout)
    model = workload.model
    tokens = workload.batch / layout.accumulation / layout.batch_shards * workload.positions
    temporary = (
        _weights(workload, layout, resident)
        + model.layers * tokens * _saved_row(model, layout, workload.positions)
        + _layer(model, layout, tokens, workload.positions)
        + _LOSS_CHUNKS
    )
    return Memory(resident, round(temporary))


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
