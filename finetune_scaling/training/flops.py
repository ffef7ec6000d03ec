"""Analytic floating-point operations: XLA's own count sees a scanned layer once.

Convention: a multiply-add is two operations; every computed position counts, padding and soft prompt included;
attention scores count half, since they are causal, and those of local layers within their window. A frozen weight needs
the gradient of its input, not its own; attention multiplies two activations, and so needs the gradients of both
whatever trains.
"""

import re

from finetune_scaling.models.config import ModelConfig, count_parameters
from finetune_scaling.tuning.method import TuningMethod


def forward_flops_per_token(config: ModelConfig, length: int) -> float:
    """Of one position of a sequence of `length`: 2 per weight that multiplies it, head included, and attention."""
    return 2.0 * _multiplying_weights(config) + attention_flops_per_token(config, length)


def training_flops_per_token(config: ModelConfig, tuning: TuningMethod, length: int) -> float:
    """Forward and backward of one position: 3 forwards of its weights, or 2 where they are frozen, 3 of attention."""
    weights = weight_training_flops(_multiplying_weights(config), trains_weights(tuning))
    return weights + 3 * attention_flops_per_token(config, length)


def weight_training_flops(weights: float, trains: bool) -> float:
    """Of one position: 6 for each weight where the weights train, 4 where they are frozen."""
    return 2.0 * weights * (3 if trains else 2)


def _multiplying_weights(config: ModelConfig) -> int:
    return count_parameters(config).non_embedding + config.vocab_size * config.model_dim


def attention_flops_per_token(config: ModelConfig, length: int) -> float:
    """Scores of one position, and their products with values, in the forward pass, averaged over the sequence."""
    local = sum(config.local_layers)
    window = length if config.window is None else min(config.window, length)
    in_window = window - window**2 / (2 * length)  # keys that a query has on average; length / 2 where all are seen
    keys = local * in_window + (config.layers - local) * length / 2
    return 2 * 2 * config.heads * config.head_dim * keys


def training_flops(config: ModelConfig, tuning: TuningMethod, steps: int, batch_size: int, length: int) -> float:
    """Of a whole training run; `length` is a row's, the soft prompt comes on top."""
    length = length + tuning.prefix_length
    return steps * batch_size * length * training_flops_per_token(config, tuning, length)


def trains_weights(tuning: TuningMethod) -> bool:
    """Whether the model's own kernels train."""
    return re.fullmatch(tuning.trainable, "layers/feed_forward/up/kernel") is not None
