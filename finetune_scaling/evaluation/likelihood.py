"""Perplexity per token and per byte.

Tokenizers split the same text into different numbers of tokens, so models with different tokenizers are comparable only
per byte. Both losses have the same numerator: the negative log-likelihood of all target tokens in nats, including the
end-of-text token, without which the probabilities of texts would not sum to one. The bytes are those of the UTF-8 text
that these tokens cover; a truncated target counts with the text that was kept.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from finetune_scaling.data.encoders.make import make_encoder
from finetune_scaling.data.encoding import SequenceFormat
from finetune_scaling.data.templates import Template
from finetune_scaling.data.tokenizers.interface import Tokenizer


def utf8_bytes(texts: Iterable[str]) -> np.ndarray:
    """Return the UTF-8 length of each text, int64[N]."""
    return np.array([len(text.encode()) for text in texts], np.int64)


def likelihood(loss_sum: float, tokens: int, size: int) -> dict[str, float]:
    """Return nats per byte and both perplexities of a loss summed over `tokens` tokens that cover `size` bytes."""
    values = {"perplexity": perplexity(loss_sum / max(1, tokens))}
    if not size:
        return values
    return values | {"loss_per_byte": loss_sum / size, "perplexity_per_byte": perplexity(loss_sum / size)}


def perplexity(loss: float) -> float:
    """Return exp(loss), or infinity if it overflows."""
    return math.exp(loss) if loss < math.log(np.finfo(np.float64).max) else math.inf


def covered_targets(
    examples: Sequence[Mapping[str, Any]], tokenizer: Tokenizer, template: Template, sequence_format: SequenceFormat
) -> list[str]:
    """Return the text of each target that its loss covers, truncated to sequence_format.max_target_tokens."""
    targets = make_encoder(tokenizer, template).target_texts(examples)
    return [tokenizer.continuation.truncate(text, sequence_format.max_target_tokens) for text in targets]
