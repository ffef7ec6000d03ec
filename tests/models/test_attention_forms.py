"""Every form of attention computes what the plain one does, forward and backward, alone and in the model."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finetune_scaling.errors import ConfigError
from finetune_scaling.models import attention, flash, language_model
from finetune_scaling.models.language_model import LanguageModel
from finetune_scaling.models.token_layout import PADDING, TokenLayout, attention_mask
from finetune_scaling.sharding.axes import DEFAULT_RULES
from finetune_scaling.tuning.method import prepend

HEADS, HEAD_DIM = 4, 8
INTERPRETED = {"interpret": True}  # splash attention gives its own


def layouts(prompt: int = 0) -> TokenLayout:
    """Two rows of 140 tokens behind a soft prompt: packed texts, one with an input read both ways, and padding; and a
    prefix LM that fills its row, whose input the prompt attends to. More than a block of every form.
    """
    lengths, inputs = [[50, 70], [140]], [[20, 0], [30]]
    rows: list[list[tuple[int, int, bool]]] = [
        [(i, s + 1, i < inputs[r][s]) for s, n in enumerate(lengths[r]) for i in range(n)] for r in range(2)
    ]
    rows[0] += [(0, PADDING, False)] * 20
    plain = TokenLayout(*(jnp.asarray(np.array(rows)[:, :, i], dtype) for i, dtype in enumerate((int, int, bool))))
    if not prompt:
        return plain
    return prepend(jnp.zeros((prompt, 1)), jnp.zeros((2, 140, 1)), plain, attends_to_input=True)[1]


def plain(query, keys, values, layout):
    return attention.attend(query, keys, values, attention_mask(layout, layout))


def in_flash(query, keys, values, layout):
    return flash.flash_attention(query, keys, values, layout, DEFAULT_RULES)


def cudnn_arguments(query, keys, values, layout):
    return attention.attend_cudnn(query, keys, values, attention_mask(layout, layout))


FORMS = {"blockwise": attention.attend_blockwise, "flash": in_flash, "cudnn": cudnn_arguments}


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    """Kernels for TPUs run on CPUs, by interpretation, and in blocks of 128 tokens, of which the rows have two."""
    call = flash.pl.pallas_call
    monkeypatch.setattr(flash.pl, "pallas_call", lambda *inputs, **options: call(*inputs, **{**options, **INTERPRETED}))
    monkeypatch.setattr(flash, "_BLOCK", 64)


@pytest.fixture
def without_cudnn(monkeypatch):
    """JAX's own form of what cuDNN is asked for, with the same arguments, of even lengths as in its backward pass."""
    ask = jax.nn.dot_product_attention

    def of_even_lengths(query, keys, *arguments, implementation, **options):
        assert query.shape[1] % 2 == keys.shape[1] % 2 == 0
        return ask(query, keys, *arguments, **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", of_even_lengths)


def inputs(kv_heads: int, layout: TokenLayout, seed: int = 0):
    """Query, keys, values, and a gradient of the output that is zero at padding, as a loss's is."""
    rng = np.random.default_rng(seed)
    arrays = [rng.normal(size=(*layout.segments.shape, n, HEAD_DIM)) for n in (HEADS, kv_heads, kv_heads, HEADS)]
    arrays[3] = arrays[3] * (np.asarray(layout.segments) != PADDING)[:, :, None, None]
    return [jnp.asarray(array, jnp.float32) for array in arrays]


def value_and_gradients(form, arrays, layout):
    def run(query, keys, values, gradient):
        mixed, pull = jax.vjp(lambda *xs: form(*xs, layout), query, keys, values)
        return mixed * (layout.segments != PADDING)[:, :, None, None], *pull(gradient)

    return jax.jit(run)(*arrays)


@pytest.mark.parametrize("prompt", [0, 7])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_plain_attention(form, kv_heads, prompt, without_cudnn):
    layout = layouts(prompt)
    arrays = inputs(kv_heads, layout)
    expected = value_and_gradients(plain, arrays, layout)
    for ours, theirs in zip(value_and_gradients(FORMS[form], arrays, layout), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.parametrize(("kv_heads", "window", "softcap"), [(1, None, None), (2, 20, 2.0), (4, 1, None)])
def test_causal_rows_are_computed_by_splash_attention(kv_heads, window, softcap):
    """Packed texts and padding, without inputs that are read both ways."""
    layout, scoring = layouts()._replace(prefix=None), attention.Scoring(softcap=softcap)
    arrays = inputs(kv_heads, layout)
    masked = lambda *xs: attention.attend(*xs[:3], attention_mask(layout, layout, window), scoring)  # noqa: E731
    in_splash = lambda *xs: flash.flash_attention(*xs, DEFAULT_RULES, window=window, softcap=softcap)  # noqa: E731
    assert "splash" in str(jax.make_jaxpr(in_splash)(*arrays[:3], layout))
    expected = value_and_gradients(masked, arrays, layout)
    for ours, theirs in zip(value_and_gradients(in_splash, arrays, layout), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.parametrize("prompt", [0, 7])
def test_rows_with_inputs_or_a_prompt_are_not_computed_by_splash_attention(prompt):
    causal = layouts()._replace(prefix=None)
    rows = prepend(jnp.zeros((prompt, 1)), jnp.zeros((2, 140, 1)), causal)[1] if prompt else layouts()
    assert "splash" not in str(jax.make_jaxpr(in_flash)(*inputs(2, rows)[:3], rows))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("field", TokenLayout._fields)
def test_a_form_heeds_every_field_of_the_layout(form, field, without_cudnn):
    """Another layout changes it, as it changes plain attention: the test above would see a form that ignores it."""
    layout = layouts()
    other = layout._replace(**{field: jnp.flip(getattr(layout, field), axis=1)})
    arrays = inputs(2, layout)
    before, after = (value_and_gradients(FORMS[form], arrays, each)[0] for each in (layout, other))
    assert jnp.abs(before - after).max() > 0.1


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="cuDNN needs a GPU")
@pytest.mark.parametrize("prompt", [0, 7])
def test_cudnn_is_plain_attention(prompt):
    layout = layouts(prompt)
    arrays = [array.astype(jnp.bfloat16) for array in inputs(2, layout)]
    expected = value_and_gradients(plain, arrays, layout)
    for ours, theirs in zip(value_and_gradients(cudnn_arguments, arrays, layout), expected, strict=True):
        np.testing.assert_allclose(ours.astype(jnp.float32), theirs.astype(jnp.float32), atol=0.05)


MIXED = {"window": 20, "window_pattern": (True, False), "local_rope_theta": 50.0, "attention_softcap": 2.0}


@pytest.mark.parametrize(
    ("form", "remat", "fields"),
    [
        *itertools.product(["blockwise", "flash"], ["none", "full"], [{}]),
        ("flash", "none", {"query_scalar": 3.0, **MIXED}),
        ("causal flash", "full", {"query_scalar": 3.0, "window": 20}),
        ("causal flash", "none", MIXED),
        ("blockwise", "none", {"window": 20, "query_scalar": 3.0}),
        ("blockwise", "full", MIXED),
    ],
)
def test_the_model_has_the_same_gradients_with_every_form(form, remat, fields, tiny_config, tiny_base, monkeypatch):
    """Windows are shorter than texts, and not of all layers."""
    monkeypatch.setattr(language_model, "check_attention", lambda config, platform: None)
    tiny_config = dataclasses.replace(tiny_config, **fields)
    layout = layouts() if form in FORMS else layouts()._replace(prefix=None)
    real = (layout.segments != PADDING)[:, :, None]
    tokens = np.random.default_rng(0).integers(tiny_config.vocab_size, size=layout.segments.shape)

    def gradient(config):
        total = lambda params: (  # noqa: E731
            jnp.square(LanguageModel(config).forward(params, params["embedding"][tokens], layout)[0]) * real
        ).sum()
        return jax.jit(jax.grad(total))(tiny_base)

    expected = gradient(tiny_config)
    ours = gradient(dataclasses.replace(tiny_config, attention=form.split()[-1], remat=remat))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4 * jnp.abs(b).max()), ours, expected)


def test_more_blocks_than_flash_attention_can_hold_are_refused():
    rows = jax.ShapeDtypeStruct((9, 512 * 64, 2, 8), jnp.float32)
    layout = TokenLayout(*(jax.ShapeDtypeStruct(rows.shape[:2], int),) * 3)
    with pytest.raises(ConfigError, match="9 rows of 32768 tokens per device"):
        jax.eval_shape(lambda *a: flash.flash_attention(*a, DEFAULT_RULES), rows, rows, rows, layout)


def test_blockwise_attention_keeps_no_square_of_scores():
    layout = layouts()
    run = functools.partial(value_and_gradients, attention.attend_blockwise)
    shapes = str(jax.make_jaxpr(lambda *arrays: run(arrays, layout))(*inputs(2, layout)))
    assert "f32[2,2,2,70,140]" in shapes
    assert "f32[2,2,2,140,140]" not in shapes
