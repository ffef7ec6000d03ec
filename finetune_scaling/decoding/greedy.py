"""Greedy decoding with a key-value cache: one prefill, then one token a step until every row has ended.

Rows of unequal prompts are padded on the right; padding slots are invisible and positions count each row's own tokens,
so a batch gives what each prompt alone would.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from finetune_scaling.models.config import ModelConfig
from finetune_scaling.models.decoder import Cache
from finetune_scaling.models.language_model import LanguageModel, Params
from finetune_scaling.models.layout import Layout
from finetune_scaling.sharding.axes import PLAIN_RULES, AxisRules, constrain
from finetune_scaling.sharding.batches import place_whole
from finetune_scaling.tuning.method import Tuning
from finetune_scaling.tuning.partition import Tree, combine

Array = jax.Array
DecodeStep = Callable[[Tree, Tree, Array, Array], Array]


class _Decoding(NamedTuple):
    """The loop's state: the last token [B], its position [B], ended rows [B], output [B, T], tokens written, cache."""

    token: Array
    position: Array
    ended: Array
    output: Array
    written: Array
    cache: Cache


@functools.cache
def make_greedy(
    config: ModelConfig,
    tuning: Tuning,
    max_new_tokens: int,
    eos_id: int,
    pad_id: int,
    bidirectional_input: bool,
    axes: AxisRules = PLAIN_RULES,
) -> DecodeStep:
    """Builds decode(trainable, frozen, prompts [B, L], lengths [B]) -> new tokens [B, max_new_tokens].

    Prompts are padded on the right; what follows a row's eos is pad_id. The eos itself is part of the output.
    """
    model = LanguageModel(config, tuning.adapter, axes)

    def decode(trainable: Tree, frozen: Tree, prompts: Array, lengths: Array) -> Array:
        params = combine(trainable, frozen)
        hidden, cache = _prefill(model, tuning, params, prompts, lengths, max_new_tokens, bidirectional_input)
        first = _most_likely(model, params, hidden)
        rows = prompts.shape[0]
        output = jnp.full((rows, max_new_tokens), pad_id, jnp.int32).at[:, 0].set(first)
        start = _Decoding(
            token=first,
            position=lengths + tuning.prefix_length,
            ended=(first == eos_id) | (lengths == 0),
            output=output,
            written=jnp.ones((), jnp.int32),
            cache=cache,
        )
        unfinished = lambda state: (state.written < max_new_tokens) & ~state.ended.all()  # noqa: E731
        advance = functools.partial(_advance, model, params, eos_id, pad_id)
        written = jax.lax.while_loop(unfinished, advance, start).output
        return constrain(written, axes, None, None)  # every device has all of it, so that every process can read it

    return jax.jit(decode)


def _prefill(
    model: LanguageModel,
    tuning: Tuning,
    params: Params,
    prompts: Array,
    lengths: Array,
    max_new_tokens: int,
    bidirectional_input: bool,
) -> tuple[Array, Cache]:
    """Hidden state [B, D] of each row's last prompt token, and the cache with room for the new ones."""
    rows, width = prompts.shape
    real = jnp.arange(width) < lengths[:, None]
    layout = Layout(
        positions=jnp.broadcast_to(jnp.arange(width, dtype=jnp.int32), (rows, width)),
        segments=real.astype(jnp.int32),
        prefix=real & bidirectional_input,
    )
    embeddings, layout = tuning.embed(model, params, prompts, layout)
    cache = model.empty_cache(rows, tuning.prefix_length + width + max_new_tokens)
    hidden, filled = model.forward(params, embeddings, layout, cache)
    assert filled is not None
    last = tuning.prefix_length + jnp.maximum(lengths, 1) - 1
    return jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0], filled


def _advance(model: LanguageModel, params: Params, eos_id: int, pad_id: int, state: _Decoding) -> _Decoding:
    layout = Layout(
        positions=state.position[:, None],
        segments=jnp.ones_like(state.position)[:, None],
        prefix=jnp.zeros_like(state.ended)[:, None],
    )
    embeddings = model.embed(params, state.token[:, None])
    hidden, cache = model.forward(params, embeddings, layout, state.cache)
    assert cache is not None
    token = jnp.where(state.ended, pad_id, _most_likely(model, params, hidden[:, 0]))
    return _Decoding(
        token=token,
        position=state.position + 1,
        ended=state.ended | (token == eos_id),
        output=jax.lax.dynamic_update_slice_in_dim(state.output, token[:, None], state.written, axis=1),
        written=state.written + 1,
        cache=cache,
    )


def _most_likely(model: LanguageModel, params: Params, hidden: Array) -> Array:
    """Greedy choice [B] from hidden states [B, D]; the lowest id among equals."""
    return jnp.argmax(model.unembed(params, hidden), axis=-1).astype(jnp.int32)


def generate(
    decode: DecodeStep,
    trainable: Tree,
    frozen: Tree,
    prompts: Sequence[Sequence[int]],
    *,
    batch_size: int,
    eos_id: int,
    multiple: int = 16,
    sharding: NamedSharding | None = None,
) -> list[list[int]]:
    """New tokens of every prompt, in order, without eos and what follows it.

    sharding: how a batch's rows are divided over a mesh.
    Prompts of similar length share a batch, padded to a multiple of `multiple`: few shapes, few compilations.
    """
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    outputs: list[list[int]] = [[] for _ in prompts]
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        width = -(-max(len(prompts[i]) for i in chosen) // multiple) * multiple
        tokens = np.zeros((batch_size, width), np.int32)
        lengths = np.zeros(batch_size, np.int32)  # rows that fill the last batch up have none and end at once
        for row, i in enumerate(chosen):
            tokens[row, : len(prompts[i])] = prompts[i]
            lengths[row] = len(prompts[i])
        placed = [tokens, lengths] if sharding is None else [place_whole(a, sharding) for a in (tokens, lengths)]
        new = np.asarray(decode(trainable, frozen, *placed))
        for row, i in enumerate(chosen):
            outputs[i] = _until(new[row].tolist(), eos_id)
    return outputs


def _until(tokens: list[int], eos_id: int) -> list[int]:
    return tokens[: tokens.index(eos_id)] if eos_id in tokens else tokens
