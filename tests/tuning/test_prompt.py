"""Where a soft prompt starts: at embeddings of common tokens, no two the same while there are enough."""

import jax
import numpy as np
import pytest

from finetune_scaling.tuning.prompt import SampledVocabulary


def drawn(base, length: int, frequent: int, seed: int = 0) -> list[int]:
    """The tokens whose embeddings a new prompt has."""
    common = [7, 3, 50, 21, 9, 30]
    prompt = SampledVocabulary(length, frequent)(jax.random.key(seed), base, np.array(common))["prompt"]["embedding"]
    table = np.asarray(base["embedding"])
    return [int(np.flatnonzero((table == row).all(axis=1))[0]) for row in np.asarray(prompt)]


@pytest.mark.parametrize(("length", "frequent", "among"), [(3, 3, {7, 3, 50}), (6, 100, {7, 3, 50, 21, 9, 30})])
def test_starts_from_distinct_embeddings_of_the_commonest_tokens(tiny_base, length, frequent, among):
    tokens = drawn(tiny_base, length, frequent)
    assert len(tokens) == length
    assert set(tokens) == among


def test_tokens_repeat_only_where_the_vocabulary_does_not_last(tiny_base):
    tokens = drawn(tiny_base, 8, 4)
    assert len(tokens) == 8
    assert set(tokens) <= {7, 3, 50, 21}


def test_the_seed_decides(tiny_base):
    assert drawn(tiny_base, 4, 6, seed=0) == drawn(tiny_base, 4, 6, seed=0)
    assert len({tuple(drawn(tiny_base, 4, 6, seed)) for seed in range(4)}) > 1
