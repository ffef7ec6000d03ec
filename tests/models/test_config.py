"""Parameter counts: the paper's sizes exactly, the small ladder, and the closed form against built shapes."""

import dataclasses
import itertools

import jax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_scaling.errors import ConfigError
from finetune_scaling.models.config import DENSE_LAYERS, ModelConfig, ParameterCount, count_parameters
from finetune_scaling.models.ladder import LADDER, PAPER_VOCABULARY, model_config
from finetune_scaling.models.language_model import LanguageModel
from finetune_scaling.trees import parameter_count

PAPER = {  # at a vocabulary of 128,000
    "1b": 1_218_480_128,
    "2b": 2_188_956_160,
    "4b": 3_601_935_360,
    "8b": 8_107_724_800,
    "16b": 15_440_491_520,
}
SMALL = {  # without embeddings
    "30k": 30_816,
    "100k": 101_568,
    "300k": 297_344,
    "800k": 811_680,
    "2m": 2_377_088,
    "6m": 6_490_560,
    "20m": 20_648_640,
    "60m": 59_777_536,
}


def built(config: ModelConfig) -> ParameterCount:
    """Counts of the shapes that the model's own initialisation has."""
    shapes = jax.eval_shape(LanguageModel(config).init, jax.random.key(0))
    tables = {name: leaf for name, leaf in shapes.items() if name in ("embedding", "head")}
    return ParameterCount(parameter_count(shapes), parameter_count(shapes) - parameter_count(tables))


@pytest.mark.parametrize(("name", "total"), PAPER.items())
def test_paper_sizes_have_exactly_the_derived_parameters(name, total):
    config = model_config({"name": name}, PAPER_VOCABULARY)
    assert built(config).total == total
    assert built(config) == count_parameters(config)
    assert config.head_dim == 256
    assert config.kv_heads == 1


@pytest.mark.parametrize(("name", "non_embedding"), SMALL.items())
def test_small_sizes_have_the_parameters_that_the_ladder_says(name, non_embedding):
    config = model_config({"name": name}, vocab_size=1000)
    assert built(config) == ParameterCount(non_embedding + 1000 * config.model_dim, non_embedding)


def test_the_small_ladder_is_geometric():
    assert [*SMALL, *PAPER] == list(LADDER)
    ratios = [larger / smaller for smaller, larger in itertools.pairwise(SMALL.values())]
    assert all(2.6 < ratio < 3.4 for ratio in ratios)


@st.composite
def configs(draw) -> ModelConfig:
    kv_heads, groups = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    block = draw(st.sampled_from(["parallel", "sequential"]))
    place = draw(st.sampled_from(["before", "after", "both"]))
    activation = draw(st.sampled_from(["swiglu", "geglu", "gelu", "relu"]))
    gated = activation in ("swiglu", "geglu")
    return ModelConfig(
        vocab_size=draw(st.integers(1, 300)),
        layers=draw(st.integers(1, 5)),
        model_dim=draw(st.integers(1, 40)),
        heads=kv_heads * groups,
        kv_heads=kv_heads,
        head_dim=2 * draw(st.integers(1, 8)),
        ffn_dim=draw(st.integers(1, 60)),
        block=block,
        shared_norm=block == "sequential" or place == "after" or draw(st.booleans()),
        norm_place=place,
        norm_offset=draw(st.sampled_from([0.0, 1.0])),
        qk_norm=draw(st.sampled_from(["none", "head", "all"])),
        biased=tuple(n for n in DENSE_LAYERS if (n != "gate" or gated) and draw(st.booleans())),
        norm=draw(st.sampled_from(["rmsnorm", "layernorm"])),
        activation=activation,
        positions=draw(st.sampled_from(["rope", "none"])),
        tied_head=draw(st.booleans()),
        remat=draw(st.sampled_from(["none", "full", "dots", "offload"])),
        attention=draw(st.sampled_from(["auto", "plain", "blockwise", "flash", "cudnn"])),
    )


@settings(max_examples=25, deadline=None)
@given(configs())
def test_parameter_counts_match_the_built_model(config):
    assert count_parameters(config) == built(config)


def test_fields_of_a_ladder_size_can_be_overridden():
    config = model_config({"name": "30k", "layers": 5, "tied_head": False}, vocab_size=300)
    assert config == dataclasses.replace(model_config({"name": "30k"}, 300), layers=5, tied_head=False)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"name": "30K"}, r"model\.name = '30K' is unknown; did you mean '30k'"),
        ({"name": "30k", "layer": 3}, r"model\.layer is not a field of model; did you mean 'layers'"),
        ({"name": "30k", "layers": "three"}, r"model\.layers = 'three' has the wrong type"),
        ({"name": "30k", "kv_heads": 3}, r"model\.heads = 2 must be a multiple of model\.kv_heads = 3"),
        ({"name": "30k", "head_dim": 15}, r"model\.head_dim = 15 must be even"),
        ({"name": "30k", "kv_heads": 0}, r"model\.kv_heads = 0 must be at least 1"),
        ({"name": "30k", "norm_epsilon": -1.0}, r"model\.norm_epsilon = -1\.0 must be a finite number above 0"),
        ({"name": "30k", "rope_theta": 0.0}, r"model\.rope_theta = 0\.0 must be a finite number above 0"),
        ({"name": "30k", "embedding_std": float("nan")}, r"model\.embedding_std = nan must be a finite number above 0"),
        ({"name": "30k", "ffn_dim": 0}, r"model\.ffn_dim = 0 must be at least 1"),
        ({"name": "30k", "block": "paralel"}, r"model\.block = 'paralel' is unknown; did you mean 'parallel'"),
        ({"layers": 2}, r"model\.model_dim is missing"),
        ({"name": "30k", "window": 0}, r"model\.window = 0 must be at least 1"),
        ({"name": "30k", "window_pattern": [True, False]}, r"model\.window_pattern needs a model\.window"),
        ({"name": "30k", "local_rope_theta": 10.0}, r"model\.local_rope_theta needs a model\.window"),
        (
            {"name": "30k", "window": 8, "window_pattern": [False]},
            r"model\.window_pattern = \[False\] must have 1 to 2",
        ),
        (
            {"name": "30k", "window": 8, "window_pattern": [True] * 3},
            r"model\.window_pattern = .* must have 1 to 2 entries",
        ),
        ({"name": "30k", "rope_fraction": 0.2}, r"model\.rope_fraction = 0\.2 rotates 3 of a head's 16 dimensions"),
        ({"name": "30k", "rope_fraction": 1.5}, r"model\.rope_fraction = 1\.5 rotates 24 of a head's 16"),
        ({"name": "30k", "logit_softcap": 0.0}, r"model\.logit_softcap = 0\.0 must be a finite number above 0"),
        ({"name": "30k", "norm_offset": float("inf")}, r"model\.norm_offset = inf must be a finite number"),
        (
            {"name": "30k", "biased": ["quary"]},
            r"model\.biased names 'quary'; this model's dense layers are query, key",
        ),
        ({"name": "30k", "biased": ["gate"], "activation": "gelu"}, r"model\.biased names 'gate'"),
        ({"name": "30k", "biased": ["up", "up"]}, r"model\.biased = \['up', 'up'\] names a layer twice"),
        (
            {"name": "30k", "block": "sequential", "shared_norm": False},
            r"model\.shared_norm = False needs parallel blocks",
        ),
        (
            {"name": "30k", "rope_scaling": {"factor": 2}},
            r"model\.rope_scaling\.kind = '' is unknown; choose one of linear",
        ),
        ({"name": "30k", "rope_scaling": {"kind": "yarm"}}, r"kind = 'yarm' is unknown; did you mean 'yarn'"),
        ({"name": "30k", "rope_scaling": {"kind": "llama3", "factor": 2}}, r"rope_scaling\.original_length is missing"),
        (
            {"name": "30k", "rope_scaling": {"kind": "linear", "factor": -2}},
            r"rope_scaling\.factor = -2\.0 must be a fin",
        ),
        (
            {"name": "30k", "positions": "none", "rope_scaling": {"kind": "linear", "factor": 2}},
            r"model\.rope_scaling needs rotary positions",
        ),
    ],
)
def test_invalid_fields_are_named(block, message):
    with pytest.raises(ConfigError, match=message):
        model_config(block, vocab_size=300)
