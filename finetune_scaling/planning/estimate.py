"""Memory of a train step without a compiler: what a chip holds, which is exact, and what it needs beside, estimated.

The estimate is for choosing which layouts to compile, and for GPUs and CPUs, of which nothing is compiled. It counts
the largest things that are alive in the backward pass of a layer; docs/planning.md shows it beside the compiler's.
"""

import dataclasses

from finetune_scaling.models.config import ModelConfig, count_parameters
from finetune_scaling.planning.bounds import compute_bytes
from finetune_scaling.planning.chips import Chip
from finetune_scaling.planning.layout import Held, Layout, held
from finetune_scaling.planning.workload import Workload
from finetune_scaling.training.flops import trains_weights

_LOSS_CHUNKS = 3 * 2**26  # bytes: float32 logits of a chunk, their exponentials and their gradient


@dataclasses.dataclass(frozen=True)
class Memory:
    """Of one chip, in bytes: what it holds between steps, and what a step needs beside."""

    holds: Held
    temporary: int

    @property
    def peak(self) -> int:
        return self.holds.total + self.temporary

    def fits(self, chip: Chip) -> bool:
        """Whether it is no more than the chip has."""
        return self.peak <= chip.hbm_bytes


def memory(workload: Workload, layout: Layout) -> Memory:
    """The memory of a train step on each chip."""
    return estimated(workload, layout, held(workload, layout))


def estimated(workload: Workload, layout: Layout, holds: Held) -> Memory:
    """As `memory`, of what is already known to be held."""
    model = workload.model
    tokens = workload.batch / layout.accumulation / layout.batch_parts * workload.positions
    temporary = (
        _weights(workload, layout, holds)
        + model.layers * tokens * _saved_row(model, layout, workload.positions)
        + _layer(model, layout, tokens, workload.positions)
        + _LOSS_CHUNKS
    )
    return Memory(holds, round(temporary))


def _weights(workload: Workload, layout: Layout, holds: Held) -> float:
    """Gradients in float32 (twice where they are summed over parts), and trained weights in the compute dtype."""
    gradients = holds.trainable * (2 if layout.accumulation > 1 else 1)
    copies = holds.trainable * compute_bytes(workload.model) / 4 if trains_weights(workload.tuning) else 0.0
    return gradients + copies


def _saved_row(model: ModelConfig, layout: Layout, positions: int) -> float:
    """Bytes of a position that one layer keeps for the backward pass."""
    size = compute_bytes(model)
    stream = model.model_dim * size
    heads = (model.heads + 2 * model.kv_heads) * model.head_dim
    products = (heads + (2 if model.gated else 1) * model.ffn_dim) / layout.tensor * size + 2 * stream
    plain = model.attention == "plain"  # the other forms keep no scores
    scores = model.heads / layout.tensor * positions * (4 + size) if plain else 0.0  # before the softmax, and behind it
    elementwise = 4 * model.ffn_dim / layout.tensor * size + 6 * stream  # the norm's in float32
    everything = stream + products + scores + elementwise
    return {"offload": 0.0, "full": stream, "dots": stream + products, "none": everything}[layout.remat]


def _layer(model: ModelConfig, layout: Layout, tokens: float, positions: int) -> float:
    """A layer's gathered weights, and what its backward pass works with."""
    size = compute_bytes(model)
    weights = count_parameters(model).non_embedding / model.layers * size / layout.tensor
    feed_forward = 4 * tokens * model.ffn_dim / layout.tensor * size
    scores = 2 * tokens * model.heads / layout.tensor * positions * 4 if model.attention == "plain" else 0.0
    return weights + feed_forward + scores + 4 * tokens * model.model_dim * size
