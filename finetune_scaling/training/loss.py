"""Cross-entropy as (sum, count), chunked so that no [batch, length, vocabulary] array ever exists.

Sums and counts stay apart until the last moment, so that accumulation, packing and uneven batches stay exact.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from finetune_scaling.models.attention import Layout
from finetune_scaling.models.language_model import LanguageModel, Params
from finetune_scaling.tuning.method import Tuning

Array = jax.Array
Batch = dict[str, Array]  # tokens, targets, weights, positions, segments, prefix: each [B, L]

_LOGITS_AT_ONCE = 2**24  # float32 logits of one chunk: 64 MiB


def token_losses(model: LanguageModel, tuning: Tuning, params: Params, batch: Batch) -> Array:
    """Negative log-likelihood of every target in nats, [B, L], zero where its weight is."""
    layout = Layout(batch["positions"], batch["segments"], batch["prefix"])
    embeddings, layout = tuning.embed(model, params, batch["tokens"], layout)
    hidden, _ = model.forward(params, embeddings, layout)
    hidden = hidden[:, tuning.prefix_length :]
    losses = _chunked_cross_entropy(
        lambda states: model.unembed(params, states),
        hidden.reshape(-1, hidden.shape[-1]),
        batch["targets"].reshape(-1),
        model.config.vocab_size,
    )
    return losses.reshape(batch["targets"].shape) * batch["weights"]


def loss_sum_and_count(model: LanguageModel, tuning: Tuning, params: Params, batch: Batch) -> tuple[Array, Array]:
    """Summed loss in nats and the number of target tokens of a batch, both float32 scalars."""
    return token_losses(model, tuning, params, batch).sum(), batch["weights"].sum()


def _chunked_cross_entropy(unembed: Callable[[Array], Array], hidden: Array, targets: Array, vocab: int) -> Array:
    """hidden [N, D], targets [N] -> losses [N]; logits of one chunk live at a time, forward and backward."""
    tokens = hidden.shape[0]
    chunks = -(-tokens * vocab // _LOGITS_AT_ONCE)
    if chunks == 1:
        return _cross_entropy(unembed(hidden), targets)
    size = -(-tokens // chunks)
    padding = chunks * size - tokens
    hidden = jnp.pad(hidden, ((0, padding), (0, 0))).reshape(chunks, size, -1)
    targets = jnp.pad(targets, (0, padding)).reshape(chunks, size)
    one_chunk = jax.checkpoint(lambda states, ids: _cross_entropy(unembed(states), ids))
    return jax.lax.map(lambda chunk: one_chunk(*chunk), (hidden, targets)).reshape(-1)[:tokens]


def _cross_entropy(logits: Array, targets: Array) -> Array:
    """[N, V], [N] -> [N], in float32."""
    chosen = jnp.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
    return jax.nn.logsumexp(logits, axis=-1) - chosen
