"""Soft prompts start from embeddings of distinct frequent tokens, from those of a text, or from random numbers."""

import dataclasses

import jax
import numpy as np
import pytest

from finetune_scaling.models.language_model import LanguageModel
from finetune_scaling.tuning.prompt import PromptInitializer, PromptOptions


@pytest.fixture
def drawn(tiny_config, tiny_base):
    """drawn(length, frequent, seed, scaled=...): the tokens whose embeddings, as layers read them, a new prompt has."""

    def tokens(length: int, frequent: int, seed: int = 0, scaled: bool = False) -> list[int]:
        config = dataclasses.replace(tiny_config, scale_embeddings=scaled)
        make = PromptInitializer(PromptOptions(length, frequent))
        prompt = make(jax.random.key(seed), config, tiny_base, np.array([7, 3, 50, 21, 9, 30]))["prompt"]["embedding"]
        table = np.asarray(LanguageModel(config).embed(tiny_base, np.arange(config.vocab_size)[None])[0])
        return [int(np.flatnonzero((table == row).all(axis=1))[0]) for row in np.asarray(prompt)]

    return tokens


@pytest.mark.parametrize(("length", "frequent", "among"), [(3, 3, {7, 3, 50}), (6, 100, {7, 3, 50, 21, 9, 30})])
@pytest.mark.parametrize("scaled", [False, True])
def test_starts_from_distinct_embeddings_of_the_commonest_tokens(drawn, length, frequent, among, scaled):
    tokens = drawn(length, frequent, scaled=scaled)
    assert len(tokens) == length
    assert set(tokens) == among


def test_tokens_repeat_only_where_the_vocabulary_does_not_last(drawn):
    tokens = drawn(8, 4)
    assert len(tokens) == 8
    assert set(tokens) <= {7, 3, 50, 21}


def test_the_seed_decides(drawn):
    assert drawn(4, 6, seed=0) == drawn(4, 6, seed=0)
    assert len({tuple(drawn(4, 6, seed)) for seed in range(4)}) > 1


@pytest.mark.parametrize(("length", "expected"), [(2, [7, 3]), (5, [7, 3, 9, 7, 3])])
def test_a_text_is_cut_or_repeated(tiny_config, tiny_base, length, expected):
    make = PromptInitializer(PromptOptions(length, initialization="text", text="three tokens"))
    prompt = make(jax.random.key(0), tiny_config, tiny_base, np.array([7, 3, 9]))["prompt"]["embedding"]
    np.testing.assert_array_equal(prompt, LanguageModel(tiny_config).embed(tiny_base, np.array([expected]))[0])


def test_random_embeddings_have_the_standard_deviation_of_the_models(tiny_config, tiny_base):
    make = PromptInitializer(PromptOptions(400, initialization="random"))
    prompt = make(jax.random.key(0), tiny_config, tiny_base, np.arange(4))["prompt"]["embedding"]
    table = np.asarray(LanguageModel(tiny_config).embed(tiny_base, np.arange(tiny_config.vocab_size)[None])[0])
    np.testing.assert_allclose([prompt.mean() / table.std(), prompt.std() / table.std()], [0, 1], atol=0.05)
    assert len(np.unique(prompt, axis=0)) == len(prompt)
