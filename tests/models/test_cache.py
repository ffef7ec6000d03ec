"""Prefill and extension through a cache give the full forward pass's hidden states, layers apart or stacked."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finetune_scaling.models.cache import empty_cache, grow_cache, select_rows, slot_count, unstack_layers
from finetune_scaling.models.language_model import LanguageModel
from finetune_scaling.models.token_layout import TokenLayout, attention_mask
from finetune_scaling.sharding.axes import DEFAULT_RULES
from finetune_scaling.tuning.partition import combine

SLOTS = 16


WINDOW = {"window": 3, "query_scalar": 5.0}
MIXED = {**WINDOW, "window_pattern": (False, True), "local_rope_theta": 50.0, "attention_softcap": 2.0}


@pytest.mark.parametrize("unstacked", [True, False], ids=["unstacked", "stacked"])
@pytest.mark.parametrize(
    ("block", "fields"),
    [
        ({"name": "prompt", "length": 4}, {}),
        ({"name": "lora", "rank": 3}, {}),
        ({"name": "prompt", "length": 4}, MIXED),
        ({"name": "lora", "rank": 3}, WINDOW),
    ],
    ids=["prompt", "lora", "prompt, some local", "lora, all local"],
)
def test_prefill_and_extension_give_the_full_forward_passs_hidden_states(tiny_config, tuned, block, fields, unstacked):
    """A prefill of 5 tokens, then pieces of 1 and of 3; the cache grows between, and has spare slots at its end.

    Windows are shorter than the text, and than the soft prompt before it.
    """
    method, tiny_config = tuned(**block), dataclasses.replace(tiny_config, **fields)
    tuning, params = method.tuning, combine(method.trainable, method.frozen)
    model = LanguageModel(tiny_config, tuning.adapter)
    tokens = np.random.default_rng(0).integers(4, 61, size=(2, 9))
    positions = np.broadcast_to(np.arange(9, dtype=np.int32), tokens.shape)
    of_tokens = TokenLayout(positions, np.ones_like(positions), positions < 5)

    @jax.jit
    def whole_and_in_pieces(params):
        embeddings, layout = tuning.embed(model, params, tokens, of_tokens)
        whole, _ = model.forward(params, embeddings, layout)
        own = unstack_layers(params, tiny_config.layers) if unstacked else params
        edges = np.cumsum([0, tuning.prompt_length + 5, 1, 3])
        cache = empty_cache(tiny_config, DEFAULT_RULES, 2, SLOTS - 2, unstacked)
        pieces = []
        for start, end in itertools.pairwise(edges):
            piece = embeddings[:, start:end]
            part, so_far = (TokenLayout(*(field[:, s:end] for field in layout)) for s in (start, 0))
            if start == 0:
                hidden, cache = model.forward(own, piece, part, cache)
                cache = grow_cache(cache, SLOTS)
            else:
                spare = ((0, 0), (0, 0), (0, SLOTS - end))
                seen = jnp.pad(attention_mask(part, so_far), spare)
                in_window = jnp.pad(attention_mask(part, so_far, tiny_config.window), spare)
                hidden, cache = model.extend(own, piece, part.positions, seen, cache, jnp.int32(start), in_window)
            pieces.append(hidden)
        return whole, jnp.concatenate(pieces, axis=1), cache

    whole, pieces, cache = whole_and_in_pieces(params)
    assert slot_count(cache) == SLOTS
    np.testing.assert_allclose(pieces, whole, atol=1e-4)
    second = select_rows(cache, jnp.array([1]))
    leaf, one = jax.tree.leaves(cache)[0], jax.tree.leaves(second)[0]
    np.testing.assert_array_equal(one, leaf[1:] if unstacked else leaf[:, 1:])
