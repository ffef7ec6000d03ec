"""The choice of attention by platform, length and model, and the choices that are refused."""

import contextlib
import dataclasses
import types

import jax
import numpy as np
import pytest

from finetune_scaling.errors import ConfigError
from finetune_scaling.models.attention_choice import LONGEST_PLAIN, check_attention, resolve_attention
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.models.language_model import LanguageModel
from finetune_scaling.models.token_layout import TokenLayout

HALF, SOFT_CAP = {"compute_dtype": "bfloat16"}, {"attention_softcap": 50.0}
ON_CPU = pytest.mark.skipif(jax.default_backend() != "cpu", reason="the GPU that is here may be another one")


@ON_CPU
@pytest.mark.parametrize(
    ("platform", "fields", "length", "expected"),
    [
        ("tpu", {}, 16, "flash"),
        ("tpu", {"window": 8, **SOFT_CAP}, 100_000, "flash"),
        ("gpu", HALF, 16, "cudnn"),
        ("gpu", {**HALF, "window": 8}, 100_000, "cudnn"),
        ("gpu", {}, 16, "blockwise"),  # float32
        ("gpu", {**HALF, **SOFT_CAP}, 16, "blockwise"),
        ("gpu", {**HALF, "head_dim": 264}, 16, "blockwise"),
        ("cpu", {}, LONGEST_PLAIN, "plain"),
        ("cpu", {}, LONGEST_PLAIN + 1, "blockwise"),
    ],
)
def test_the_choice_by_platform_length_and_model(platform, fields, length, expected, tiny_config):
    config = dataclasses.replace(tiny_config, attention="auto", **fields)
    resolved = resolve_attention(config, platform, length)
    assert resolved == dataclasses.replace(config, attention=expected)
    check_attention(resolved, platform)


@pytest.mark.parametrize("attention", ["plain", "blockwise", "flash", "cudnn"])
def test_an_explicit_choice_stays(attention, tiny_config):
    config = dataclasses.replace(tiny_config, attention=attention)
    assert resolve_attention(config, "tpu", 16) is config


def test_every_config_lets_attention_choose_unless_it_says_otherwise():
    assert {field.name: field.default for field in dataclasses.fields(ModelConfig)}["attention"] == "auto"


def scores_in_trace(config: ModelConfig, params, length: int) -> bool:
    """Return whether the traced model computes all scores of a row, [1, kv_heads, groups, length, length], at once."""
    layout = TokenLayout(*(np.zeros((1, length), dtype) for dtype in (np.int32, np.int32, bool)))
    forward = lambda x: LanguageModel(config).forward(params, x, layout)[0]  # noqa: E731
    traced = jax.make_jaxpr(forward)(np.zeros((1, length, config.model_dim), np.float32))
    groups = config.heads // config.kv_heads
    return f"f32[1,{config.kv_heads},{groups},{length},{length}]" in str(traced)


@ON_CPU
def test_each_program_of_a_model_takes_the_attention_of_its_own_length(tiny_config, tiny_base):
    assert scores_in_trace(tiny_config, tiny_base, LONGEST_PLAIN)
    assert not scores_in_trace(tiny_config, tiny_base, LONGEST_PLAIN + 8)


@pytest.mark.parametrize(
    ("attention", "message"),
    [
        ("flash", r"model\.attention = 'flash' needs a TPU, not cpu"),
        ("cudnn", r"model\.attention = 'cudnn' needs a GPU, not cpu"),
    ],
)
@ON_CPU
def test_an_implementation_for_another_platform_is_refused(attention, message, tiny_config, tiny_base):
    with pytest.raises(ConfigError, match=message):
        scores_in_trace(dataclasses.replace(tiny_config, attention=attention), tiny_base, 8)


@pytest.mark.parametrize(
    ("fields", "message"), [(SOFT_CAP, r"model\.attention_softcap = 50"), ({"compute_dtype": "float32"}, "'bfloat16'")]
)
def test_what_cudnn_does_not_compute_is_refused(fields, message, tiny_config):
    config = dataclasses.replace(tiny_config, attention="cudnn", **{**HALF, **fields})
    with pytest.raises(ConfigError, match=rf"model\.attention = 'cudnn' .*{message}"):
        check_attention(config, "gpu")


@pytest.mark.parametrize(
    ("head_dim", "capability", "message"),
    [
        (136, "8.0", "at most 128 .*head_dim is 136.*'auto'"),
        (264, "9.0", "at most 256 .*head_dim is 264.*'auto'"),
        (20, "9.0", "at most 256 .*head_dim is 20.*'auto'"),
        (128, "8.0", None),
        (128, "gfx90a", "NVIDIA GPU, not gfx90a"),
    ],
)
def test_heads_and_gpus_that_cudnn_does_not_support_are_refused(
    head_dim, capability, message, tiny_config, monkeypatch
):
    device = types.SimpleNamespace(compute_capability=capability)
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    config = dataclasses.replace(tiny_config, attention="cudnn", head_dim=head_dim, **HALF)
    with pytest.raises(ConfigError, match=message) if message else contextlib.nullcontext():
        check_attention(config, "gpu")
