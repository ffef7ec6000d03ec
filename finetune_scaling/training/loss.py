"""The loss of a batch as (sum, count), so that gradient accumulation, packing and uneven batches are exact."""

import jax

from finetune_scaling.models.language_model import LanguageModel, Params
from finetune_scaling.models.token_layout import TokenLayout
from finetune_scaling.training.cross_entropy import cross_entropy, cross_entropy_sum
from finetune_scaling.tuning.method import TuningMethod

Array = jax.Array
Batch = dict[str, Array]  # tokens, targets, weights, positions, segments and, of prefix LMs, prefix: each [B, L]


def token_losses(
    model: LanguageModel, tuning: TuningMethod, params: Params, batch: Batch, dropout_rng: Array | None = None
) -> Array:
    """Return the negative log-likelihood of every target in nats times its weight, [B, L]; for evaluation only."""
    states, table = _states_and_table(model, tuning, params, batch, dropout_rng)
    return cross_entropy(states, table, batch["targets"], model.axes, model.config.logit_softcap) * batch["weights"]


def loss_sum_and_count(
    model: LanguageModel, tuning: TuningMethod, params: Params, batch: Batch, dropout_rng: Array | None = None
) -> tuple[Array, Array]:
    """Return the summed loss in nats and the number of target tokens of a batch, float32 scalars."""
    states, table = _states_and_table(model, tuning, params, batch, dropout_rng)
    targets, weights = batch["targets"], batch["weights"]
    return cross_entropy_sum(states, table, targets, weights, model.axes, model.config.logit_softcap), weights.sum()


def _states_and_table(
    model: LanguageModel, tuning: TuningMethod, params: Params, batch: Batch, dropout_rng: Array | None
) -> tuple[Array, Array]:
    """Return the states that predict the targets, [B, L, D], and the head's table [V, D]."""
    params = tuning.model_params(model.config, params)
    layout = TokenLayout(batch["positions"], batch["segments"], batch.get("prefix"))
    embeddings, layout = tuning.embed(model, params, batch["tokens"], layout)
    hidden, _ = model.forward(params, embeddings, layout, dropout_rng=dropout_rng)
    return model.head(params, hidden[:, tuning.prompt_length :])
