"""Losses and logits of given texts, with a run's model on the available devices."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from finetune_scaling.data.encoding import SequenceFormat, encode_examples, encode_prompts
from finetune_scaling.data.objectives import TokenSequence, causal
from finetune_scaling.data.packing import pack_batch
from finetune_scaling.data.task import Task
from finetune_scaling.errors import ConfigError
from finetune_scaling.evaluation.likelihood import covered_targets, utf8_bytes
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.models.language_model import LanguageModel
from finetune_scaling.models.token_layout import TokenLayout
from finetune_scaling.reading.generation import Languages, checked_texts, continuation_task, language_pair
from finetune_scaling.runs.model_loading import TunedModel
from finetune_scaling.runs.run_config import RunConfig
from finetune_scaling.runs.run_data import task_and_format
from finetune_scaling.sharding.axes import AxisRules
from finetune_scaling.sharding.batches import shard_batch
from finetune_scaling.training.loss import Batch
from finetune_scaling.training.step import make_evaluation_step
from finetune_scaling.trees import Tree
from finetune_scaling.tuning.context import check_context
from finetune_scaling.tuning.method import TuningMethod
from finetune_scaling.tuning.partition import combine

_LENGTH_STEP = 32  # lengths are rounded up to a multiple, so that few programs are compiled


class Logits(NamedTuple):
    """The token ids of a text, int32[n], and float32[n, V]: logits[i] are those of the token that follows ids[i]."""

    ids: np.ndarray
    logits: np.ndarray


class TargetSequences(NamedTuple):
    """Training sequences, and the number of UTF-8 bytes of each target, int64[N]."""

    sequences: list[TokenSequence]
    sizes: np.ndarray


def losses(
    run_config: RunConfig,
    load: Callable[[], TunedModel],
    texts: Iterable[str],
    targets: Iterable[str] | None,
    languages: Languages,
) -> pd.DataFrame:
    """Return the loss of every text; see Run.losses. load: loads the model, after the arguments are checked."""
    texts = checked_texts(texts, "losses")
    targets = None if targets is None else checked_texts(targets, "losses")
    if targets is None and run_config.task is not None:
        raise ConfigError("losses of a finetuned run need targets, as its texts are sources. Fix: give targets=[...]")
    if targets is not None and len(targets) != len(texts):
        raise ConfigError(f"losses: {len(texts)} texts, but {len(targets)} targets. Fix: give one for each text")
    named = language_pair(run_config, languages)
    model = load()
    if targets is None:
        scored = _plain_sequences(model, texts)
    else:
        scored = _target_sequences(run_config, model, texts, targets, named)
    rows = [(*_loss_sum(model, one), size) for one, size in zip(*scored, strict=True)]
    frame = pd.DataFrame(rows, columns=["loss_sum", "tokens", "bytes"])
    frame.insert(0, "loss", frame["loss_sum"] / frame["tokens"])
    frame.insert(1, "loss_per_byte", frame["loss_sum"] / frame["bytes"])
    return frame


def logits(
    run_config: RunConfig, load: Callable[[], TunedModel], text: str, target: str | None, languages: Languages
) -> Logits:
    """Return the logits of a text; see Run.logits. load: loads the model, after the arguments are checked."""
    texts = checked_texts([text], "logits")
    targets = None if target is None else checked_texts([target], "logits")
    named = language_pair(run_config, languages)
    model = load()
    if targets is not None:
        sequence = _target_sequences(run_config, model, texts, targets, named).sequences[0]
    elif run_config.task is not None:
        task, sequence_format = _task_and_format(run_config, model, texts)
        example = {"source": text, "target": "", **named}
        (ids,) = encode_prompts([example], model.tokenizer, task.template, sequence_format)
        sequence = _unscored(ids, bidirectional=sequence_format.bidirectional_input)
    else:
        bos = model.tokenizer.special_tokens.bos_id
        sequence = _unscored([*([] if bos is None else [bos]), *model.tokenizer.encode(text)], bidirectional=False)
    if not len(sequence.tokens):
        raise ConfigError("logits: the text is empty, and the tokenizer adds no bos. Fix: give a text")
    batch = _batch(model, sequence)
    step = _logits_step(model.config, model.tuning, model.sharding.rules)
    with model.sharding.use_mesh():
        found = np.array(step(model.trainable, model.frozen, batch)[0])
    return Logits(np.asarray(sequence.tokens), found[: len(sequence.tokens)])


def _plain_sequences(model: TunedModel, texts: Sequence[str]) -> TargetSequences:
    """Return the sequences of texts that a base model reads from their beginning, without eos."""
    tokenizer = model.tokenizer
    special, encoded = tokenizer.special_tokens, tokenizer.encode_batch(texts)
    for index, ids in enumerate(encoded):
        if len(ids) < (1 if special.bos_id is not None else 2):
            raise ConfigError(f"losses: texts[{index}] = {texts[index]!r} has no token to predict. Fix: remove it")
    sequences = [causal(np.asarray(ids, np.int32), special, append_eos=False) for ids in encoded]
    covered = texts if special.bos_id is not None else [text[tokenizer.token_ends(text)[0] :] for text in texts]
    return TargetSequences(sequences, utf8_bytes(covered))


def _target_sequences(
    run_config: RunConfig, model: TunedModel, texts: Sequence[str], targets: Sequence[str], named: dict[str, str]
) -> TargetSequences:
    """Return the sequences of prompts and targets, encoded and truncated as in training and scoring."""
    if not texts:
        return TargetSequences([], np.zeros(0, np.int64))
    task, sequence_format = _task_and_format(run_config, model, texts, targets)
    examples = [{"source": text, "target": target, **named} for text, target in zip(texts, targets, strict=True)]
    encoded = encode_examples(examples, model.tokenizer, task.template, sequence_format)
    sizes = utf8_bytes(covered_targets(examples, model.tokenizer, task.template, sequence_format))
    return TargetSequences([encoded.sequence(i, sequence_format) for i in range(len(examples))], sizes)


def _task_and_format(
    run_config: RunConfig, model: TunedModel, texts: Sequence[str], targets: Sequence[str] = ()
) -> tuple[Task, SequenceFormat]:
    """Return the run's task; for a run without one the task of continuing texts, which are not truncated."""
    if run_config.task is not None:
        return task_and_format(run_config)
    longest = [max((len(ids) for ids in model.tokenizer.encode_batch(some)), default=0) for some in (texts, targets)]
    return continuation_task(run_config, max(1, longest[0]), longest[1] + 1)


def _unscored(ids: Sequence[int], *, bidirectional: bool) -> TokenSequence:
    zeros = np.zeros(len(ids), np.int32)
    prefix = np.full(len(ids), bidirectional)
    return TokenSequence(np.asarray(ids, np.int32), zeros, zeros.astype(np.float32), prefix)


def _loss_sum(model: TunedModel, sequence: TokenSequence) -> tuple[float, int]:
    """Return the loss of a sequence's targets, summed in nats, and their number."""
    step = make_evaluation_step(model.config, model.tuning, model.sharding.rules)
    with model.sharding.use_mesh():
        sums, counts = step(model.trainable, model.frozen, _batch(model, sequence))
    return float(np.asarray(sums)[0]), int(np.asarray(counts)[0])


def _batch(model: TunedModel, sequence: TokenSequence) -> Batch:
    """Return a sequence as the first row of a batch, on the model's devices. Raises ConfigError if it is too long."""
    size, context = len(sequence.tokens), model.config.max_length - model.tuning.prompt_length
    check_context("a text is too long", size, model.config, model.tuning, "shorten it")
    length = min(context, size + -size % _LENGTH_STEP)
    rows = model.sharding.batch_shards
    arrays = pack_batch([[sequence], *[[]] * (rows - 1)], length, bidirectional=bool(sequence.prefix.any()))
    return shard_batch(arrays, model.sharding.batch(), rows)


@functools.cache
def _logits_step(
    config: ModelConfig, tuning: TuningMethod, axes: AxisRules
) -> Callable[[Tree, Tree, Batch], jax.Array]:
    """Build step(trainable, frozen, batch) -> float32 logits [B, L, V]."""
    model = LanguageModel(config, tuning.adapter, axes)

    def step(trainable: Tree, frozen: Tree, batch: Batch) -> jax.Array:
        params: Any = tuning.model_params(config, combine(trainable, frozen))
        layout = TokenLayout(batch["positions"], batch["segments"], batch.get("prefix"))
        embeddings, layout = tuning.embed(model, params, batch["tokens"], layout)
        hidden, _ = model.forward(params, embeddings, layout)
        return model.unembed(params, hidden[:, tuning.prompt_length :]).astype(jnp.float32)

    return jax.jit(step)
