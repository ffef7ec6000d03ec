"""Perplexity per token and per byte.

A token is not the same amount of text for two tokenizers, so only losses per byte compare across them. Both losses
have the same numerator, every target token's negative log-likelihood in nats, that of the end-of-text token included:
without it a model would be free not to end, and its probabilities of texts would not sum to one. The bytes are those of
the target's UTF-8 text that those tokens cover; a target that was cut to its limit counts by the text that was kept.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from finetune_scaling.data.encoding import SequenceFormat, Template
from finetune_scaling.data.tokenizers.interface import Tokenizer


def utf8_bytes(texts: Iterable[str]) -> np.ndarray:
    """The length of each text in UTF-8, int64[N]."""
    return np.array([len(text.encode()) for text in texts], np.int64)


def likelihood(loss_sum: float, tokens: int, size: int) -> dict[str, float]:
    """Figures of a loss summed over `tokens` tokens that cover `size` bytes: nats a byte, and both perplexities."""
    figures = {"perplexity": perplexity(loss_sum / max(1, tokens))}
    if not size:
        return figures
    return figures | {"loss_per_byte": loss_sum / size, "perplexity_per_byte": perplexity(loss_sum / size)}


def perplexity(loss: float) -> float:
    """exp(loss), infinite where it exceeds a float."""
    return math.exp(loss) if loss < math.log(np.finfo(np.float64).max) else math.inf


def covered_targets(
    examples: Sequence[Mapping[str, Any]], tokenizer: Tokenizer, template: Template, form: SequenceFormat
) -> list[str]:
    """The text of each example's target that its loss covers: all of it, or what form.max_target_tokens leaves."""
    targets = [template.render(examples[i])[1] for i in range(len(examples))]
    return [tokenizer.continuation.truncate(text, form.max_target_tokens) for text in targets]
