"""Weight-decomposed low-rank adaptation (DoRA; Liu et al., 2024): W' = m (W + s A B) / ||W + s A B||.

The norm is taken over the inputs of each output; the magnitude m is trained and starts at ||W||. The norm is a constant
in the backward pass (section 4.3 of the paper).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from finetune_scaling.models.adapters import DenseLayer, Leaves
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.models.language_model import Params
from finetune_scaling.tuning.lora import LoraAdapter, LoraOptions
from finetune_scaling.tuning.method import Defaults, MethodSpec, ShortRuns, TuningMethod

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class DoraOptions(LoraOptions):
    """Options of DoRA: those of LoRA."""


@dataclasses.dataclass(frozen=True)
class DoraAdapter(LoraAdapter):
    """LoRA's factors and a float32 magnitude [F] of each target."""

    def dense(self, layer: DenseLayer, x: Array) -> Array:
        """Return m (x W + s dropout(x) A B) / ||W + s A B|| + b, [N, D] -> [N, F]."""
        if layer.name not in self.targets:
            return layer(x)
        y = layer.matmul(x)
        a, b = self.factors(layer)
        magnitude = layer.parameter("magnitude", jax.nn.initializers.ones, y.shape[-1:], jnp.float32)
        ratio = magnitude / jax.lax.stop_gradient(output_norms(layer.kernel, a, b, self.scale))
        directed = (y + self.low_rank(layer, x, y, a, b)).astype(jnp.float32)
        return layer.add_bias((directed * ratio).astype(y.dtype))

    def merge(self, name: str, leaves: Leaves) -> dict[str, Any]:
        """Return the leaves with the kernel m (W + s A B) / ||W + s A B||."""
        rest = {leaf: value for leaf, value in leaves.items() if leaf != "magnitude"}
        if "magnitude" not in leaves or "kernel" not in leaves:
            return super().merge(name, rest)
        kernel = leaves["kernel"]
        directed = super().merge(name, {**rest, "kernel": kernel.astype(jnp.float32)})
        norms = jnp.linalg.norm(directed["kernel"], axis=-2, keepdims=True)
        merged = leaves["magnitude"][..., None, :] * directed["kernel"] / norms
        return {**directed, "kernel": merged.astype(kernel.dtype)}


def output_norms(kernel: Array, a: Array, b: Array, scale: float) -> Array:
    """Return the norms [F] of the columns of W + s A B, float32.

    ||w + s A b||^2 = ||w||^2 + 2 s w'A b + s^2 b'A'A b, so that the sum [D, F] is never stored.
    """
    with jax.default_matmul_precision("highest"):  # these products are small, and their errors would scale all outputs
        weights = kernel.astype(jnp.float32)
        cross = ((a.T @ weights) * b).sum(0)
        square = ((a.T @ a) @ b * b).sum(0)
    return jnp.sqrt(jnp.square(weights).sum(0) + 2 * scale * cross + scale**2 * square)


@dataclasses.dataclass(frozen=True)
class NormFlops:
    """FLOPs of `output_norms` in all layers, forward only. A bound method would not equal that of an equal adapter."""

    rank: int
    targets: tuple[str, ...]

    def __call__(self, config: ModelConfig) -> float:
        names = [name for name in config.dense_layers if name in self.targets]
        sizes = [(config.dense_inputs(name), config.dense_features(name)) for name in names]
        return config.layers * sum(2.0 * self.rank * (d * f + d * self.rank + self.rank * f) for d, f in sizes)


def initial_magnitudes(rng: Array, config: ModelConfig, params: Params, tokens: Array) -> Params:
    """Return the norms of the kernels of all layers that have a magnitude, as the layers read them."""

    def norms(node: Params) -> Params:
        found = {name: norms(child) for name, child in node.items() if isinstance(child, dict)}
        if "magnitude" in node:
            kernel = node["kernel"].astype(config.compute_dtype).astype(jnp.float32)
            found["magnitude"] = jnp.linalg.norm(kernel, axis=-2)
        return found

    return norms(params)


def build(options: DoraOptions) -> TuningMethod:
    """Return DoRA with these options."""
    return TuningMethod(
        name="dora",
        trainable=r".*/(lora_[ab]|magnitude)",
        size=options.rank,
        adapter=DoraAdapter(options.rank, options.scale, options.targets, options.dropout),
        new_params=initial_magnitudes,
        learning_rate_multipliers=options.learning_rate_multipliers,
        step_flops=NormFlops(options.rank, options.targets),
    )


SPEC = MethodSpec(
    "dora",
    DoraOptions,
    build,
    Defaults(learning_rate=1e-2, batch_size=16),
    size_field="rank",
    display_name="DoRA",
    short_runs=ShortRuns(parameter_scale=False),
)
