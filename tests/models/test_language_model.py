"""The whole decoder against a plain NumPy one; what it may not see; compute dtype and rematerialisation."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finetune_scaling.models.config import ModelConfig
from finetune_scaling.models.language_model import LanguageModel
from finetune_scaling.models.token_layout import TokenLayout

BATCH, LENGTH = 3, 10
_gelu = np.vectorize(lambda value: value * 0.5 * (1 + math.erf(value / math.sqrt(2))))


def rows(prefix: int = 0) -> TokenLayout:
    """One text a row, of which the first `prefix` tokens are the input of a prefix LM."""
    positions = jnp.broadcast_to(jnp.arange(LENGTH), (BATCH, LENGTH))
    return TokenLayout(positions, jnp.ones_like(positions), positions < prefix)


@functools.partial(jax.jit, static_argnums=0)
def logits(config: ModelConfig, params, tokens, layout: TokenLayout):
    model = LanguageModel(config)
    return model.unembed(params, model.forward(params, model.embed(params, tokens), layout)[0])


def random_tokens(config: ModelConfig, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).integers(config.vocab_size, size=(BATCH, LENGTH)))


class Reference:
    """The same decoder for one text, layer by layer and head by head, in float64."""

    def __init__(self, config: ModelConfig, params):
        self.config = config
        self.params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        config, params = self.config, self.params
        x = params["embedding"][tokens]
        for index in range(config.layers):
            layer = jax.tree.map(lambda leaf, index=index: leaf[index], params["layers"])
            normed = self.norm(layer["norm"], x)
            mixed = self.attention(layer["attention"], normed)
            if config.block == "parallel":
                x = x + mixed + self.feed_forward(layer["feed_forward"], normed)
            else:
                x = x + mixed
                x = x + self.feed_forward(layer["feed_forward"], self.norm(layer["feed_forward_norm"], x))
        hidden = self.norm(params["final_norm"], x)
        if config.scale_logits:
            hidden = hidden / np.sqrt(config.model_dim)
        return hidden @ (params["embedding"].T if config.tied_head else params["head"])

    def norm(self, params, x: np.ndarray) -> np.ndarray:
        if self.config.norm == "layernorm":
            x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + self.config.norm_epsilon) * params["scale"]
        return x + params.get("bias", 0)

    def attention(self, params, x: np.ndarray) -> np.ndarray:
        config = self.config
        groups = config.heads // config.kv_heads
        causal = np.tri(len(x), dtype=bool)
        heads = []
        for head in range(config.heads):
            query = self.turned(self.head(params["query"], x, head))
            keys = self.turned(self.head(params["key"], x, head // groups))
            scores = np.where(causal, query @ keys.T / np.sqrt(config.head_dim), -np.inf)
            weights = np.exp(scores)
            values = self.head(params["value"], x, head // groups)
            heads.append(weights / weights.sum(1, keepdims=True) @ values)
        return np.concatenate(heads, axis=1) @ params["attention_out"]["kernel"]

    def head(self, params, x: np.ndarray, index: int) -> np.ndarray:
        size = self.config.head_dim
        return x @ params["kernel"][:, index * size : (index + 1) * size]

    def turned(self, x: np.ndarray) -> np.ndarray:
        """RoPE as multiplication of complex numbers; the pair of dimension i is i + head_dim / 2."""
        if self.config.positions == "none":
            return x
        half = self.config.head_dim // 2
        angles = np.outer(np.arange(len(x)), self.config.rope_theta ** (-np.arange(half) / half))
        turned = (x[:, :half] + 1j * x[:, half:]) * np.exp(1j * angles)
        return np.concatenate([turned.real, turned.imag], axis=1)

    def feed_forward(self, params, x: np.ndarray) -> np.ndarray:
        up = x @ params["up"]["kernel"]
        if self.config.activation == "swiglu":
            gate = x @ params["gate"]["kernel"]
            hidden = gate / (1 + np.exp(-gate)) * up
        else:
            hidden = {"gelu": _gelu, "relu": lambda value: np.maximum(value, 0)}[self.config.activation](up)
        return hidden @ params["down"]["kernel"]


OTHER_FORM = {
    "block": "sequential",
    "norm": "layernorm",
    "activation": "gelu",
    "positions": "none",
    "tied_head": False,
    "scale_logits": False,
}


@pytest.mark.parametrize(
    "fields",
    [{"kv_heads": 1}, {"activation": "relu", "norm_epsilon": 0.1, "rope_theta": 50.0}, OTHER_FORM],
    ids=["multi-query", "grouped-query", "sequential"],
)
def test_logits_are_those_of_a_plain_decoder(tiny_config, random_params, fields):
    config = dataclasses.replace(tiny_config, **fields)
    params, tokens = random_params(config), random_tokens(config)
    ours = logits(config, params, tokens, rows())
    expected = [Reference(config, params).logits(np.asarray(row)) for row in tokens]
    np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_a_token_is_seen_by_later_ones_and_within_the_input_part_by_all(tiny_config, tiny_base):
    tokens = random_tokens(tiny_config)
    for prefix, changed, first_affected in [(0, 6, 6), (4, 6, 6), (4, 3, 0), (4, 0, 0)]:
        other = tokens.at[:, changed].set((tokens[:, changed] + 1) % tiny_config.vocab_size)
        before, after = (logits(tiny_config, tiny_base, batch, rows(prefix)) for batch in (tokens, other))
        differs = np.asarray((before != after).any(axis=-1))
        np.testing.assert_array_equal(differs, np.arange(LENGTH)[None].repeat(BATCH, 0) >= first_affected)


def test_bfloat16_computes_close_to_float32_and_keeps_float32_parameters(tiny_config, tiny_base):
    half = dataclasses.replace(tiny_config, compute_dtype="bfloat16")
    tokens = random_tokens(tiny_config)
    params = jax.eval_shape(LanguageModel(half).init, jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    model = LanguageModel(half)
    embeddings = model.embed(tiny_base, tokens)
    hidden = jax.eval_shape(lambda *inputs: model.forward(*inputs)[0], tiny_base, embeddings, rows())
    assert embeddings.dtype == hidden.dtype == jnp.bfloat16
    exact, rounded = (logits(config, tiny_base, tokens, rows()) for config in (tiny_config, half))
    assert rounded.dtype == jnp.float32
    assert not jnp.array_equal(exact, rounded)
    assert jnp.abs(exact - rounded).max() < 0.03 * jnp.abs(exact).max()


def test_rematerialisation_changes_no_number(tiny_config, tiny_base):
    tokens = random_tokens(tiny_config)

    def gradient(remat: str):
        model = LanguageModel(dataclasses.replace(tiny_config, remat=remat))
        total = lambda embeddings: jnp.square(model.forward(tiny_base, embeddings, rows())[0]).sum()  # noqa: E731
        return jax.jit(jax.grad(total))(tiny_base["embedding"][tokens])

    expected = gradient("none")
    for remat in ("full", "dots", "offload"):
        np.testing.assert_allclose(gradient(remat), expected, atol=1e-4 * jnp.abs(expected).max())
