"""Greedy decoding with a cache: what the full forward pass would choose, for a batch as for each prompt alone."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finetune_scaling.decoding.greedy import generate, make_greedy
from finetune_scaling.models.language_model import LanguageModel
from finetune_scaling.models.layout import Layout
from finetune_scaling.tuning.lora import merge
from finetune_scaling.tuning.method import configure
from finetune_scaling.tuning.partition import combine, partition
from finetune_scaling.tuning.registry import METHODS

EOS, PAD, NEW, WIDTH, BATCH = 1, 0, 12, 16, 5
LENGTHS = (3, 9, 1, 6, 5)
FULL, PROMPT, LORA = {"name": "full"}, {"name": "prompt", "length": 4}, {"name": "lora", "rank": 3}
PROMPTS = [np.random.default_rng(seed).integers(4, 61, size=length).tolist() for seed, length in enumerate(LENGTHS)]


each_method = pytest.mark.parametrize("block", [PROMPT, LORA], ids=["prompt", "lora"])


def decoded(config, method, prompts, *, batch_size=BATCH, multiple=WIDTH, eos_id=EOS, bidirectional=True):
    tuning, trainable, frozen = method
    decode = make_greedy(config, tuning, NEW, eos_id, PAD, bidirectional)
    return generate(decode, trainable, frozen, prompts, batch_size=batch_size, eos_id=eos_id, multiple=multiple)


@functools.cache
def full_forward(config, tuning):
    """logits(params, tokens [B, L], layout) of the prompted text, without a cache: [B, L, V]."""
    model = LanguageModel(config, tuning.adapter)

    def logits(params, tokens, layout):
        hidden, _ = model.forward(params, *tuning.embed(model, params, tokens, layout))
        return model.unembed(params, hidden[:, tuning.prefix_length :])

    return jax.jit(logits)


def teacher_forced(config, method, prompts, outputs, bidirectional):
    """What the full forward pass chooses after each prompt and each prefix of its output."""
    tuning, trainable, frozen = method
    tokens = np.zeros((len(prompts), WIDTH + NEW), np.int32)
    for row, (prompt, output) in enumerate(zip(prompts, outputs, strict=True)):
        tokens[row, : len(prompt) + len(output)] = prompt + output
    positions = np.broadcast_to(np.arange(WIDTH + NEW), tokens.shape)
    lengths = np.array([len(prompt) for prompt in prompts])[:, None]
    layout = Layout(positions, np.ones_like(tokens), (positions < lengths) & bidirectional)
    choices = np.argmax(full_forward(config, tuning)(combine(trainable, frozen), tokens, layout), axis=-1)
    pairs = zip(prompts, outputs, strict=True)
    return [choices[row, len(p) - 1 : len(p) + len(output)].tolist() for row, (p, output) in enumerate(pairs)]


@pytest.mark.parametrize(
    ("block", "bidirectional"), [(FULL, False), (PROMPT, True), (LORA, True)], ids=["full", "prompt", "lora"]
)
def test_every_token_is_the_full_forward_passs_choice(tiny_config, tuned, block, bidirectional):
    method = tuned(**block)
    outputs = decoded(tiny_config, method, PROMPTS, bidirectional=bidirectional)
    for output, choice in zip(
        outputs, teacher_forced(tiny_config, method, PROMPTS, outputs, bidirectional), strict=True
    ):
        assert choice[: len(output)] == output
        assert len(output) == NEW or choice[len(output)] == EOS


@each_method
def test_a_batch_gives_each_prompt_what_it_gives_it_alone(tiny_config, tuned, block):
    """Alone, a prompt has other padding too: up to 9 tokens, the length of the longest, which then has none."""
    method = tuned(**block)
    together = decoded(tiny_config, method, PROMPTS)
    assert decoded(tiny_config, method, PROMPTS, batch_size=1, multiple=9) == together
    assert len(set(map(tuple, together))) == len(PROMPTS)


def test_order_and_batching_do_not_matter(tiny_config, tuned):
    """Two batches, of which the last is filled up with empty rows, and the prompts in another order."""
    method = tuned(**LORA)
    together = decoded(tiny_config, method, PROMPTS)
    assert decoded(tiny_config, method, PROMPTS[::-1], batch_size=BATCH) == together[::-1]
    assert decoded(tiny_config, method, [*PROMPTS, PROMPTS[0]]) == [*together, together[0]]
    assert decoded(tiny_config, method, []) == []


def test_a_row_ends_at_its_eos_while_others_go_on(tiny_config, tuned):
    """With a token as eos that some rows write in their middle, those stop there and the others are unchanged."""
    method = tuned(**LORA)
    free = decoded(tiny_config, method, PROMPTS)
    assert {len(output) for output in free} == {NEW}
    eos = next(token for token in free[1][2:] if sum(token in output for output in free) < len(free))
    tuning, trainable, frozen = method
    decode = make_greedy(tiny_config, tuning, NEW, eos, PAD, True)
    tokens = np.zeros((len(PROMPTS), WIDTH), np.int32)
    for row, prompt in enumerate(PROMPTS):
        tokens[row, : len(prompt)] = prompt
    new = np.asarray(decode(trainable, frozen, jnp.asarray(tokens), jnp.asarray(LENGTHS)))
    for output, row in zip(free, new.tolist(), strict=True):
        expected = output[: output.index(eos) + 1] if eos in output else output
        assert row == expected + [PAD] * (NEW - len(expected))
    assert decoded(tiny_config, method, PROMPTS, eos_id=eos) == [
        output[: output.index(eos)] if eos in output else output for output in free
    ]


def test_a_prompt_and_an_adapter_change_what_is_decoded(tiny_config, tiny_base, tuned):
    full = configure(METHODS, FULL)
    base = decoded(tiny_config, (full, *partition(tiny_base, full.trainable)), PROMPTS)
    prompted = decoded(tiny_config, tuned(**PROMPT), PROMPTS)
    adapted = tuned(**LORA)
    merged = merge(combine(adapted.trainable, adapted.frozen), adapted.tuning.adapter)
    from_merged = decoded(tiny_config, (full, *partition(merged, full.trainable)), PROMPTS)
    assert prompted != base
    assert from_merged == decoded(tiny_config, adapted, PROMPTS)
    assert from_merged != base


@each_method
def test_prefill_and_extension_give_the_full_forward_passs_hidden_states(tiny_config, tuned, block):
    """A prefill of 5 tokens, then pieces of 1 and of 3; three spare slots at the end of the cache."""
    method = tuned(**block)
    tuning, params = method.tuning, combine(method.trainable, method.frozen)
    model = LanguageModel(tiny_config, tuning.adapter)
    tokens = np.random.default_rng(0).integers(4, 61, size=(2, 9))
    positions = np.broadcast_to(np.arange(9, dtype=np.int32), tokens.shape)
    packed = Layout(positions, np.ones_like(positions), positions < 5)

    @jax.jit
    def whole_and_in_pieces(params):
        embeddings, layout = tuning.embed(model, params, tokens, packed)
        whole, _ = model.forward(params, embeddings, layout)
        cache = model.empty_cache(2, tuning.prefix_length + 12)
        edges = np.cumsum([0, tuning.prefix_length + 5, 1, 3])
        pieces = []
        for start, end in itertools.pairwise(edges):
            piece = jax.tree.map(lambda leaf, part=slice(start, end): leaf[:, part], (embeddings, layout))
            hidden, cache = model.forward(params, *piece, cache)
            pieces.append(hidden)
        return whole, jnp.concatenate(pieces, axis=1), cache.end

    whole, pieces, end = whole_and_in_pieces(params)
    assert int(end) == tuning.prefix_length + 9
    np.testing.assert_allclose(pieces, whole, atol=1e-4)
