"""Analytic floating-point operations: XLA's own count includes a scanned layer only once.

Convention: a multiply-add is two operations; every computed position counts, padding and soft prompt included;
attention scores count half, since they are causal, and those of local layers within their window. A weight costs 2 per
position forward, 2 for the gradient of its input and, if it trains, 2 for its own. Attention multiplies two
activations, and so needs the gradients of both whatever trains. The matrices of adapters count as the model's own.
"""

import functools
import re

import jax

from finetune_scaling.models.adapters import LayerAdapter
from finetune_scaling.models.config import ModelConfig, count_parameters
from finetune_scaling.models.language_model import LanguageModel
from finetune_scaling.trees import flatten
from finetune_scaling.tuning.method import TuningMethod


def forward_flops_per_token(config: ModelConfig, length: int, adapter: LayerAdapter | None = None) -> float:
    """Return the forward FLOPs of one position of a sequence of `length`, head and adapter included."""
    weights = _multiplying_weights(config) + adapter_weights(config, adapter)
    return 2.0 * weights + attention_flops_per_token(config, length)


def training_flops_per_token(config: ModelConfig, tuning: TuningMethod, length: int) -> float:
    """Return the forward and backward FLOPs of one position of a sequence of `length`."""
    weights = weight_training_flops(_multiplying_weights(config), trains_weights(tuning))
    added = weight_training_flops(adapter_weights(config, tuning.adapter), True)
    return weights + added + 3 * attention_flops_per_token(config, length)


def weight_training_flops(weights: float, trains: bool) -> float:
    """Return the FLOPs of one position for a number of weights: 6 each if they train, 4 if they are frozen."""
    return 2.0 * weights * (3 if trains else 2)


def _multiplying_weights(config: ModelConfig) -> int:
    return count_parameters(config).non_embedding + config.vocab_size * config.model_dim


@functools.cache
def adapter_weights(config: ModelConfig, adapter: LayerAdapter | None) -> int:
    """Return the number of weights in an adapter's matrices, which multiply every position."""
    if adapter is None:
        return 0
    own, plain = (
        flatten(jax.eval_shape(LanguageModel(config, each).init, jax.eval_shape(jax.random.key, 0)))
        for each in (adapter, None)
    )
    # Matrices of stacked layers have three axes; vectors have two, and the keys and values of a prefix four.
    return sum(leaf.size for name, leaf in own.items() if name not in plain and leaf.ndim == 3)


def attention_flops_per_token(config: ModelConfig, length: int) -> float:
    """Return the forward FLOPs of a position's scores and their products with values, averaged over the sequence."""
    local = sum(config.local_layers)
    window = length if config.window is None else min(config.window, length)
    in_window = window - window**2 / (2 * length)  # keys per query on average; length / 2 without a window
    keys = local * in_window + (config.layers - local) * length / 2
    return 2 * 2 * config.heads * config.head_dim * keys


def training_flops(config: ModelConfig, tuning: TuningMethod, steps: int, batch_size: int, length: int) -> float:
    """Return the FLOPs of a training run; `length` is a row's without the soft prompt."""
    length = length + tuning.prompt_length
    per_step = 0.0 if tuning.step_flops is None else tuning.step_flops(config)
    return steps * (batch_size * length * training_flops_per_token(config, tuning, length) + per_step)


def trains_weights(tuning: TuningMethod) -> bool:
    """Return whether the model's own kernels train."""
    return re.fullmatch(tuning.trainable, "layers/feed_forward/up/kernel") is not None
