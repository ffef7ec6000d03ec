"""A batch decodes as each of its prompts alone, for every batch size, chunk and bucket, with few programs."""

import functools
import runpy
from pathlib import Path

import jax
import numpy as np
import pytest

from finetune_scaling.decoding import generation
from finetune_scaling.decoding.buckets import bucket, groups, rows_for
from finetune_scaling.models.language_model import LanguageModel
from finetune_scaling.models.token_layout import TokenLayout
from finetune_scaling.training.compilations import compiled_programs
from finetune_scaling.tuning.partition import combine

merge_adapter = runpy.run_path(str(Path(__file__).parents[1] / "merging.py"))["merge_adapter"]
EOS, NEW, WIDTH = 1, 12, 17
FULL, PROMPT, LORA = {"name": "full"}, {"name": "prompt", "length": 4}, {"name": "lora", "rank": 3}
DORA, PREFIX = {"name": "dora", "rank": 3}, {"name": "prefix", "length": 4, "mlp_width": 6}
BEAM = {"method": "beam", "beams": 3, "n_best": 2}


@pytest.fixture(scope="module")
def method(tiny_config, tuned):
    """method(name, ...): on the tiny base, as `decode` takes it."""
    return lambda **block: (tiny_config, *tuned(**block))


def best(texts):
    return [row[0].tokens for row in texts]


@functools.cache
def full_forward(config, tuning):
    """logits(params, tokens [B, L], layout) of the prompted text, without a cache: [B, L, V]."""
    model = LanguageModel(config, tuning.adapter)

    def logits(params, tokens, layout):
        params = tuning.model_params(config, params)
        hidden, _ = model.forward(params, *tuning.embed(model, params, tokens, layout))
        return model.unembed(params, hidden[:, tuning.prompt_length :])

    return jax.jit(logits)


def teacher_forced(config, tuning, trainable, frozen, prompts, outputs, bidirectional):
    """What the full forward pass chooses after each prompt and each prefix of its output."""
    tokens = np.zeros((len(prompts), WIDTH + NEW), np.int32)
    for row, (prompt, output) in enumerate(zip(prompts, outputs, strict=True)):
        tokens[row, : len(prompt) + len(output)] = prompt + output
    positions = np.broadcast_to(np.arange(WIDTH + NEW), tokens.shape)
    lengths = np.array([len(prompt) for prompt in prompts])[:, None]
    layout = TokenLayout(positions, np.ones_like(tokens), (positions < lengths) & bidirectional)
    choices = np.argmax(full_forward(config, tuning)(combine(trainable, frozen), tokens, layout), axis=-1)
    pairs = zip(prompts, outputs, strict=True)
    return [choices[row, len(p) - 1 : len(p) + len(output)].tolist() for row, (p, output) in enumerate(pairs)]


@pytest.mark.parametrize(
    ("block", "bidirectional"),
    [(FULL, False), (PROMPT, True), (LORA, True)],
    ids=["full", "prompt", "lora"],
)
def test_every_token_is_the_full_forward_passs_choice(method, decode, prompts, block, bidirectional):
    decoder = method(**block)
    outputs = best(decode(decoder, prompts, longest=NEW, bidirectional=bidirectional))
    for output, choice in zip(outputs, teacher_forced(*decoder, prompts, outputs, bidirectional), strict=True):
        assert choice[: len(output)] == output
        assert len(output) == NEW or choice[len(output)] == EOS


@pytest.mark.parametrize(("block", "settings"), [(PROMPT, {}), (LORA, BEAM)], ids=["prompt-greedy", "lora-beam"])
def test_a_batch_gives_each_prompt_what_it_gives_it_alone(method, decode, prompts, block, settings):
    """In one batch, in batches of two of other widths with empty rows, and in another order."""
    decoder = method(**block)
    together = decode(decoder, prompts, longest=NEW, bidirectional=True, **settings)
    alone = [decode(decoder, [p], longest=NEW, bidirectional=True, batch_size=1, **settings) for p in prompts]
    for one, row in zip(alone, together, strict=True):
        assert [text.tokens for text in one[0]] == [text.tokens for text in row]
        if settings:
            np.testing.assert_allclose([text.score for text in one[0]], [text.score for text in row], rtol=1e-5)
    again = decode(decoder, prompts[::-1], longest=NEW, bidirectional=True, batch_size=2, **settings)
    assert best(again) == best(together)[::-1]
    assert len(set(map(tuple, best(together)))) == len(prompts)
    assert decode(decoder, []) == []


def test_a_prompt_and_an_adapter_change_what_is_written_and_a_merged_one_nothing(
    method, fully_tuned, decode, prompts, tiny_base
):
    config, tuning, *parts = method(**LORA)
    base = best(decode(fully_tuned(config, tiny_base), prompts, longest=NEW))
    adapted = best(decode((config, tuning, *parts), prompts, longest=NEW))
    merged = fully_tuned(*merge_adapter(config, tuning, combine(*parts)))
    assert best(decode(merged, prompts, longest=NEW)) == adapted
    assert adapted != base
    assert best(decode(method(**PROMPT), prompts, longest=NEW)) != base


def test_beam_search_with_dora_is_that_of_the_merged_model(method, fully_tuned, decode, prompts, tiny_base):
    config, tuning, *parts = method(**DORA)
    found = decode((config, tuning, *parts), prompts, longest=NEW, **BEAM)
    merged = decode(fully_tuned(*merge_adapter(config, tuning, combine(*parts))), prompts, longest=NEW, **BEAM)
    for tuned_texts, merged_texts in zip(found, merged, strict=True):
        assert [text.tokens for text in tuned_texts] == [text.tokens for text in merged_texts]
    assert best(found) != best(decode(fully_tuned(config, tiny_base), prompts, longest=NEW, **BEAM))


def test_beam_scores_with_a_prefix_are_those_of_the_full_forward_pass(method, decode, prompts):
    config, tuning, *parts = method(**PREFIX)
    params = combine(*parts)
    for prompt, texts in zip(prompts, decode((config, tuning, *parts), prompts, longest=NEW, **BEAM), strict=True):
        for text in texts:
            output = text.tokens if len(text.tokens) == NEW else [*text.tokens, EOS]
            tokens = np.zeros((1, WIDTH + NEW), np.int32)
            tokens[0, : len(prompt) + len(output)] = prompt + output
            positions = np.arange(WIDTH + NEW)[None]
            layout = TokenLayout(positions, np.ones_like(tokens), np.zeros(tokens.shape, bool))
            logits = full_forward(config, tuning)(params, tokens, layout)[0, len(prompt) - 1 :][: len(output)]
            score = jax.nn.log_softmax(logits)[np.arange(len(output)), output].mean()
            np.testing.assert_allclose(text.score, score, rtol=1e-4)


def test_a_row_ends_at_its_eos_while_others_go_on(method, decode, prompts):
    """With a token as eos that some rows write in their middle, those stop there and the others are unchanged."""
    decoder = method(**LORA)
    free = best(decode(decoder, prompts, longest=NEW, eos_id=-1))
    assert {len(output) for output in free} == {NEW}
    eos = next(token for token in free[1][2:] if 0 < sum(token in output for output in free) < len(free))
    texts = decode(decoder, prompts, longest=NEW, eos_id=eos)
    ended = best(texts)
    assert [row[0].at_limit for row in texts] == [eos not in output for output in free]
    assert ended == [output[: output.index(eos)] if eos in output else output for output in free]


def test_rows_that_ended_leave_the_batch(method, decode, prompts, monkeypatch):
    """Limits by ratio end 6 of 8 rows early; the batch shrinks to 2 rows, and what is written does not change."""
    decoder, many = method(**LORA), [[5, 6]] * 6 + [prompts[3], prompts[3][::-1]]
    options = {"longest": 90, "eos_id": -1, "max_length_ratio": 4.5, "batch_size": 8}
    rows = []
    run = generation._BatchDecoder._resize

    def spied(batch, decoding, owners, ended, width):
        rows.append(len(owners))
        return run(batch, decoding, owners, ended, width)

    monkeypatch.setattr(generation._BatchDecoder, "_resize", spied)
    written = decode(decoder, many, **options)
    assert all(row[0].at_limit for row in written)
    texts = best(written)
    assert [len(text) for text in texts] == [9] * 6 + [77, 77]
    assert texts[:5] == texts[1:6]
    assert rows[0] == 8
    assert rows[-1] == 2
    assert texts[-3:] == best(decode(decoder, many[-3:], **{**options, "batch_size": 2}))


def test_other_parameters_of_the_same_shapes_compile_nothing(method, decode, prompts):
    """Adapters of one base, one after the other: the base is an argument like them."""
    config, tuning, trainable, frozen = method(**LORA)
    first = decode((config, tuning, trainable, frozen), prompts, longest=NEW)
    before = compiled_programs()
    other = jax.tree.map(lambda leaf: np.asarray(leaf) * 1.5, trainable)
    second = decode((config, tuning, other, frozen), prompts, longest=NEW)
    assert compiled_programs() == before
    assert best(second) != best(first)


def test_lengths_fall_into_few_buckets():
    assert [bucket(n) for n in (1, 16, 17, 24, 25, 33, 48, 49, 65, 96, 97)] == [
        16, 16, 24, 24, 32, 48, 48, 64, 96, 96, 128,
    ]  # fmt: skip
    assert len({bucket(n) for n in range(1, 2049)}) == 15


def test_prompts_are_grouped_by_length_the_longest_first():
    found = groups([5, 100, 7, 30, 6], batch_size=2, multiple=1)
    members = [(group.members, group.rows, group.width) for group in found]
    assert members == [([1, 3], 2, 128), ([2, 4], 2, 16), ([0], 1, 16)]
    assert [rows_for(n, 32, 4) for n in (32, 17, 16, 9, 5, 1)] == [32, 32, 16, 16, 8, 4]
    assert rows_for(1, 6, 2) == 6  # half of it is no multiple of 2
