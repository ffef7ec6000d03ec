"""Losses against optax on plain logits; packing changes none of them; no array of all logits ever exists."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from finetune_scaling.data.objectives import prefix_lm
from finetune_scaling.data.packing import pack_batch
from finetune_scaling.data.tokenizers.interface import SpecialTokens
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.models.language_model import LanguageModel
from finetune_scaling.models.token_layout import TokenLayout
from finetune_scaling.training import loss
from finetune_scaling.training.optimizers import OptimizerConfig
from finetune_scaling.training.step import init_state, make_train_step
from finetune_scaling.tuning import full
from finetune_scaling.tuning.partition import combine

SPECIAL = SpecialTokens(bos_id=2, eos_id=1, mode_ids={}, sentinel_ids=())
ROW = 24
SIZES = [(4, 3), (2, 6), (0, 5)]  # tokens of input and target; the last is a causal text


def sequences(seed: int = 0):
    rng = np.random.default_rng(seed)
    pairs = [(rng.integers(4, 61, before), rng.integers(4, 61, after)) for before, after in SIZES]
    return [prefix_lm(before, after, SPECIAL, bidirectional=True) for before, after in pairs]


@functools.partial(jax.jit, static_argnums=(0, 1))
def losses(config: ModelConfig, tuning, params, batch):
    return loss.token_losses(LanguageModel(config, tuning.adapter), tuning, params, batch)


PROMPT = {"name": "prompt", "length": 3, "attends_to_input": False}  # packed texts share it


@pytest.fixture(params=[{"name": "full"}, PROMPT], ids=["full", "prompt"])
def compute(request, tiny_config, tuned):
    """batch -> losses [B, L]."""
    tuning, trainable, frozen = tuned(**request.param)
    return lambda batch: np.asarray(losses(tiny_config, tuning, combine(trainable, frozen), batch))


def segments(batch, values) -> list[np.ndarray]:
    """`values` of the three texts of row 0."""
    return [values[0][batch["segments"][0] == segment] for segment in (1, 2, 3)]


def test_packed_texts_have_the_losses_that_they_have_alone(compute):
    texts = sequences()
    packed, apart = pack_batch([texts, [], []], ROW), pack_batch([[text] for text in texts], ROW)
    together, separate = segments(packed, compute(packed)), compute(apart)
    for text, values, row in zip(texts, together, separate, strict=True):
        np.testing.assert_allclose(values, row[: len(values)], atol=1e-5)
        assert (values > 0).sum() == text.weights.sum()
        assert not row[len(values) :].any()


@pytest.mark.parametrize("changed", range(3))
def test_another_text_in_the_row_changes_no_loss(compute, changed):
    """To the bit: what is invisible has weight zero exactly."""
    texts, others = sequences(0), sequences(1)
    mixed = [others[i] if i == changed else texts[i] for i in range(3)]
    batches = [pack_batch([row, [], []], ROW) for row in (texts, mixed)]
    before, after = (segments(batch, compute(batch)) for batch in batches)
    for i in range(3):
        assert np.array_equal(before[i], after[i]) == (i != changed)


def test_padding_may_hold_anything(compute):
    batch = pack_batch([sequences(), [], []], ROW)
    filled = {**batch, "tokens": np.where(batch["segments"] == 0, 33, batch["tokens"])}
    np.testing.assert_array_equal(compute(batch), compute(filled))


def test_losses_are_the_cross_entropy_of_the_targets(tiny_config, tuned):
    tuning, trainable, frozen = tuned("full")
    params, model = combine(trainable, frozen), LanguageModel(tiny_config)
    batch = pack_batch([[text] for text in sequences()], ROW)
    layout = TokenLayout(batch["positions"], batch["segments"], batch["prefix"])
    embeddings = model.embed(params, batch["tokens"])
    logits = model.unembed(params, jax.jit(model.forward)(params, embeddings, layout)[0])
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, batch["targets"]) * batch["weights"]
    np.testing.assert_allclose(losses(tiny_config, tuning, params, batch), expected, atol=1e-5)


def test_no_array_of_all_logits_exists_in_the_train_step():
    """8 x 256 tokens with a vocabulary of 65,536 would be 2^27 logits, 512 MiB; a part is an eighth of that."""
    config = ModelConfig(65_536, 1, 16, 1, 1, 16, 32, compute_dtype="float32")
    tuning, optimizer = full.build(full.FullOptions()), OptimizerConfig()
    params = jax.eval_shape(LanguageModel(config).init, jax.random.key(0))
    state = jax.eval_shape(lambda tree: init_state(tree, optimizer), params)
    integers = jax.ShapeDtypeStruct((8, 256), jnp.int32)
    batch = dict.fromkeys(("tokens", "targets", "positions", "segments"), integers)
    batch |= {"weights": jax.ShapeDtypeStruct((8, 256), jnp.float32), "prefix": jax.ShapeDtypeStruct((8, 256), bool)}
    frozen = jax.tree.map(lambda _: None, params)
    program = make_train_step(config, tuning, optimizer).lower(state, frozen, batch, jnp.float32(0.1)).compile()

    shapes = re.findall(r"\b(?:f32|bf16|f16|pred|s32)\[([\d,]+)\]", program.as_text())
    sizes = {np.prod([int(size) for size in shape.split(",")], dtype=np.int64) for shape in shapes}
    assert max(sizes) == 2**24
    assert program.memory_analysis().temp_size_in_bytes < 2**27 * 4 / 2
