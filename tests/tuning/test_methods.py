"""What every method of the registry promises: its start, its merge, decoding through the cache, packed rows."""

import dataclasses
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finetune_scaling.decoding.generation import generate, make_decoder
from finetune_scaling.decoding.settings import DecodingConfig
from finetune_scaling.errors import ConfigError
from finetune_scaling.models.language_model import LanguageModel
from finetune_scaling.models.token_layout import TokenLayout
from finetune_scaling.training.loss import token_losses
from finetune_scaling.training.optimizers import OptimizerConfig
from finetune_scaling.training.step import init_state, make_evaluation_step, make_train_step
from finetune_scaling.trees import flatten
from finetune_scaling.tuning.attach import attach
from finetune_scaling.tuning.method import configure
from finetune_scaling.tuning.partition import combine
from finetune_scaling.tuning.registry import METHODS

merge_adapter = runpy.run_path(str(Path(__file__).parents[1] / "merging.py"))["merge_adapter"]

# Options of small adapters; a method without an entry is tested with its own defaults.
OPTIONS = {
    "prompt": {"length": 3},
    "lora": {"rank": 3, "alpha": 6.0},
    "dora": {"rank": 3, "alpha": 6.0},
    "prefix": {"length": 3},
    "bottleneck": {"width": 5},
}
BLOCKS = {name: {"name": name, **OPTIONS.get(name, {})} for name in (*METHODS, "gain")}
UNMERGEABLE = {"prompt", "prefix", "bottleneck"}
BLOCKS["prefix, MLP"] = {"name": "prefix", "length": 3, "mlp_width": 6}
each_method = pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
pytestmark = pytest.mark.usefixtures("example_method")  # gain, of docs/methods.md
NEW = 6
PROMPTS = [[5, 9, 14, 7, 33, 21, 40], [8, 30], [17, 16, 15, 50, 49]]


def row_layout(rows: int, length: int) -> TokenLayout:
    positions = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (rows, length))
    return TokenLayout(positions, jnp.ones_like(positions), jnp.zeros((rows, length), bool))


def batch_of(rows: int) -> dict:
    """Return a batch of random tokens that are their own targets."""
    tokens = np.random.default_rng(2).integers(4, 61, size=(rows, 8))
    layout = row_layout(*tokens.shape)
    return {"tokens": tokens, "targets": tokens, "weights": np.ones(tokens.shape, np.float32), **layout._asdict()}


def logits(config, method, params, tokens):
    """Return the logits of the full forward pass, [B, L, V]."""
    model = LanguageModel(config, method.adapter)

    def compute(params):
        params = method.model_params(config, params)
        inputs = method.embed(model, params, jnp.asarray(tokens), row_layout(*np.shape(tokens)))
        hidden, _ = model.forward(params, *inputs)
        return model.unembed(params, hidden[:, method.prompt_length :])

    return np.asarray(jax.jit(compute)(params))


TOKENS = np.random.default_rng(0).integers(4, 61, size=(2, 9))
FULL = configure(METHODS, {"name": "full"})


@pytest.fixture(scope="module")
def base_logits(tiny_config, tiny_base):
    return logits(tiny_config, FULL, tiny_base, TOKENS)


@each_method
def test_a_method_starts_as_the_base_and_trains_all_that_it_adds(tiny_config, tiny_base, base_logits, block):
    """Prompts and prefixes of length 0 change nothing, and neither do other methods before their first step."""
    empty = {"length": 0} if METHODS[block["name"]].size_field == "length" else {}
    method = configure(METHODS, block | empty)
    trainable, frozen = attach(tiny_config, method, jax.random.key(1), tiny_base, range(8, 61))
    np.testing.assert_allclose(logits(tiny_config, method, combine(trainable, frozen), TOKENS), base_logits, atol=2e-5)
    trained, kept, before = flatten(trainable), flatten(frozen), flatten(tiny_base)
    assert kept.keys() <= before.keys() <= kept.keys() | trained.keys()
    assert all(kept[name] is before[name] for name in kept)
    assert {leaf.dtype for leaf in trained.values()} == {jnp.float32.dtype}


@pytest.fixture(scope="module")
def half_config(tiny_config):
    return dataclasses.replace(tiny_config, compute_dtype="bfloat16", biased=("query", "down"))


@pytest.fixture(scope="module")
def rounded_base(half_config):
    """A base with norm scales and biases that bfloat16 cannot represent."""
    return combine(*tuned_on(half_config, {"name": "full"}))


@each_method
def test_one_base_has_one_loss_before_training(half_config, rounded_base, block):
    """A frozen leaf is computed with as the same leaf is that trains, also in bfloat16."""

    def loss(block):
        method = configure(METHODS, block)
        trees = attach(half_config, method, jax.random.key(1), rounded_base, range(8, 61))
        return np.asarray(make_evaluation_step(half_config, method)(*trees, batch_of(4))[0])

    empty = {"length": 0} if METHODS[block["name"]].size_field == "length" else {}
    np.testing.assert_allclose(loss(block | empty), loss({"name": "full"}), rtol=1e-6)


@pytest.mark.parametrize("block", [block for block in BLOCKS.values() if block["name"] not in UNMERGEABLE])
def test_merged_equals_unmerged(tiny_config, base_logits, block):
    config = dataclasses.replace(tiny_config, biased=("query", "down"))
    biased = combine(*tuned_on(config, block))
    method = configure(METHODS, block)
    assert method.mergeable
    plain, merged = merge_adapter(config, method, biased)
    shapes = jax.eval_shape(LanguageModel(plain).init, jax.random.key(0))
    assert jax.tree.map(jnp.shape, merged) == jax.tree.map(jnp.shape, shapes)
    adapted = logits(config, method, biased, TOKENS)
    np.testing.assert_allclose(logits(plain, FULL, merged, TOKENS), adapted, atol=2e-4)
    assert np.abs(adapted - base_logits).max() > 0.1


def tuned_on(config, block):
    """Return trainable and frozen parameters of a method on a new model, all moved by noise."""
    method = configure(METHODS, block)
    trees = attach(config, method, jax.random.key(1), None, range(8, 61))
    rng = np.random.default_rng(3)
    return jax.tree.map(lambda leaf: leaf + jnp.asarray(0.2 * rng.normal(size=leaf.shape), leaf.dtype), trees)


@each_method
def test_decoding_through_the_cache_is_the_full_forward_pass(tiny_config, tuned, block):
    """Greedy tokens are the full forward pass's argmax; a batch of unequal prompts decodes as each prompt alone."""
    method, trainable, frozen = tuned(**block)
    decoder = make_decoder(tiny_config, method, DecodingConfig(), longest=NEW, end_ids=(1,), pad_id=0)
    rows = {"batch_size": len(PROMPTS), "multiple": len(PROMPTS)}
    outputs = generate(decoder, DecodingConfig(), trainable, frozen, PROMPTS, **rows)
    alone = generate(decoder, DecodingConfig(), trainable, frozen, PROMPTS[1:2], **rows)
    assert outputs[1][0].tokens == alone[0][0].tokens
    written = [prompt + output[0].tokens for prompt, output in zip(PROMPTS, outputs, strict=True)]
    padded = np.zeros((len(PROMPTS), max(map(len, PROMPTS)) + NEW), np.int32)
    for row, text in zip(padded, written, strict=True):
        row[: len(text)] = text
    best = logits(tiny_config, method, combine(trainable, frozen), padded).argmax(-1)
    for prompt, text, row in zip(PROMPTS, written, best, strict=True):
        assert row[len(prompt) - 1 : len(text) - 1].tolist() == text[len(prompt) :]


@each_method
def test_packed_rows_have_the_losses_of_their_texts(tiny_config, tuned, block):
    method, trainable, frozen = tuned(**block)
    model = LanguageModel(tiny_config, method.adapter)
    losses = jax.jit(lambda params, batch: token_losses(model, method, params, batch))
    texts = np.random.default_rng(1).integers(4, 61, size=(2, 7))
    ones = np.ones_like(texts)
    positions = np.broadcast_to(np.arange(7), texts.shape)
    fields = ("tokens", "targets", "weights", "positions", "segments", "prefix")
    apart = dict(zip(fields, (texts, texts, 1.0 * ones, positions, ones, ones == 0), strict=True))
    packed = {name: field.reshape(1, -1) for name, field in apart.items()}
    packed["segments"] = np.repeat([[1, 2]], 7, axis=1)
    params = combine(trainable, frozen)
    np.testing.assert_allclose(losses(params, packed).ravel(), losses(params, apart).ravel(), atol=2e-4)


@each_method
def test_training_changes_only_the_trainable_parameters(tiny_config, tuned, block):
    method, trainable, frozen = tuned(noise=0.1, **block)
    optimizer = OptimizerConfig(name="adamw")
    step = make_train_step(tiny_config, method, optimizer)
    batch = batch_of(2)
    state, losses = init_state(jax.tree.map(jnp.copy, trainable), optimizer), []
    for _ in range(8):
        state, metrics = step(state, frozen, batch, jnp.float32(0.01))
        losses.append(float(metrics.loss_sum))
    assert losses[-1] < losses[0]
    before, after = flatten(trainable), flatten(state.trainable)
    unread = {"layers/attention/key/bias"}  # a bias of all keys shifts all scores of a query alike
    assert {name for name in after if (after[name] == before[name]).all()} <= unread


@pytest.mark.parametrize(("options", "leaf", "std"), [({}, "prefix_keys", 0.02), ({"mlp_width": 4}, "embedding", 1.0)])
def test_a_random_prefix_is_normal(tiny_config, tiny_base, options, leaf, std):
    method = configure(METHODS, {"name": "prefix", "length": 200, "initialization": "random", **options})
    trainable, _ = attach(tiny_config, method, jax.random.key(1), tiny_base, range(8, 61))
    values = next(value for name, value in flatten(trainable).items() if name.endswith(leaf))
    np.testing.assert_allclose([values.mean() / std, values.std() / std], [0, 1], atol=0.05)


@pytest.mark.parametrize("name", ["lora", "dora"])
def test_dropout_depends_on_seed_and_step_and_is_off_in_evaluation(tiny_config, tuned, name):
    method, trainable, frozen = tuned(name, rank=3, dropout=0.5)
    plain = tuned(name, rank=3).tuning
    optimizer = OptimizerConfig()
    batch = batch_of(4)

    def loss(tuning, accumulation, *seed):
        step = make_train_step(tiny_config, tuning, optimizer, accumulation)
        seeds = [np.array(seed, np.uint32)] if seed else []
        return float(
            step(init_state(jax.tree.map(jnp.copy, trainable), optimizer), frozen, batch, jnp.float32(0.1), *seeds)[
                1
            ].loss_sum
        )

    assert loss(method, 1, 3, 5) == loss(method, 1, 3, 5)
    assert len({loss(method, 1, 3, 5), loss(method, 1, 3, 6), loss(method, 1, 4, 5), loss(method, 2, 3, 5)}) == 4
    assert loss(method, 1) == loss(plain, 1)


def test_learning_rate_multipliers_scale_the_updates_of_matching_parameters(tiny_config, tuned):
    """LoRA+ moves B by its ratio; a config's own multipliers come first; a pattern must match something."""
    _, trainable, frozen = tuned("lora", rank=3)
    batch = batch_of(2)

    def moved(optimizer=(), **options):
        tuning = configure(METHODS, {"name": "lora", "rank": 3, **options})
        config = OptimizerConfig(name="adamw", learning_rate_multipliers=optimizer)
        step = make_train_step(tiny_config, tuning, config)
        state, _ = step(init_state(jax.tree.map(jnp.copy, trainable), config), frozen, batch, jnp.float32(0.01))
        change = jax.tree.map(lambda after, before: np.asarray(after - before), state.trainable, trainable)
        return flatten(change)

    plain, plus = moved(), moved(b_learning_rate_ratio=4.0)
    own = moved(((r".*/query/lora_b", 0.0),), b_learning_rate_ratio=4.0)
    for name, change in plain.items():
        factor = 4.0 if name.endswith("lora_b") else 1.0
        np.testing.assert_allclose(plus[name], factor * change, atol=2e-6)
        np.testing.assert_allclose(own[name], 0 if "query/lora_b" in name else plus[name], atol=1e-8)
    with pytest.raises(ConfigError, match=r"'\.\*head' matches no trainable parameter"):
        moved(((r".*head", 2.0),))
