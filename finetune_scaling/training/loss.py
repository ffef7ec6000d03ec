"""The loss of a batch as (sum, count), so that gradient accumulation, packing and uneven batches are exact."""

import jax

from finetune_scaling.models.language_model import LanguageModel, Params
from finetune_scaling.models.token_layout import TokenLayout
from finetune_scaling.training.cross_entropy import cross_entropy
from finetune_scaling.tuning.method import TuningMethod

Array = jax.Array
Batch = dict[str, Array]  # tokens, targets, weights, positions, segments and, of prefix LMs, prefix: each [B, L]


def token_losses(
    model: LanguageModel, tuning: TuningMethod, params: Params, batch: Batch, dropout_rng: Array | None = None
) -> Array:
    """Return the negative log-likelihood of every target in nats times its weight, [B, L]."""
    params = tuning.model_params(model.config, params)
    layout = TokenLayout(batch["positions"], batch["segments"], batch.get("prefix"))
    embeddings, layout = tuning.embed(model, params, batch["tokens"], layout)
    hidden, _ = model.forward(params, embeddings, layout, dropout_rng=dropout_rng)
    states, table = model.head(params, hidden[:, tuning.prompt_length :])
    losses = cross_entropy(states, table, batch["targets"], model.axes, model.config.logit_softcap)
    return losses * batch["weights"]


def loss_sum_and_count(
    model: LanguageModel, tuning: TuningMethod, params: Params, batch: Batch, dropout_rng: Array | None = None
) -> tuple[Array, Array]:
    """Return the summed loss in nats and the number of target tokens of a batch, float32 scalars."""
    return token_losses(model, tuning, params, batch, dropout_rng).sum(), batch["weights"].sum()
