"""config.json of published models, and of models of unsupported families."""

import math

import pytest
from transformers import AutoConfig

from finetune_scaling.errors import ConfigError
from finetune_scaling.interop.families.registry import FAMILIES, unsupported_model_type
from finetune_scaling.models.config import ModelConfig, count_parameters
from finetune_scaling.models.rope import LinearScaling, Llama3Scaling, YarnScaling

_LLAMA = {"model_type": "llama", "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192,
          "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-5,
          "max_position_embeddings": 131072, "tie_word_embeddings": True, "hidden_act": "silu", "head_dim": 64,
          "rope_theta": 500000.0, "torch_dtype": "bfloat16", "attention_bias": False, "mlp_bias": False}  # fmt: skip
_QWEN = {"vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
         "num_attention_heads": 14, "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "max_position_embeddings": 32768,
         "tie_word_embeddings": True, "rope_theta": 1000000.0, "use_sliding_window": False, "sliding_window": 32768,
         "max_window_layers": 24, "torch_dtype": "bfloat16", "hidden_act": "silu"}  # fmt: skip
_GEMMA = {"head_dim": 256, "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 2304, "intermediate_size": 9216,
          "max_position_embeddings": 8192, "num_attention_heads": 8, "num_hidden_layers": 26, "num_key_value_heads": 4,
          "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-6, "sliding_window": 4096, "vocab_size": 256000}  # fmt: skip

# Fields of a published config.json, the number of parameters on the model card, and expected fields of our config.
PUBLISHED = {
    "Llama 3.2 1B": (
        {**_LLAMA, "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                                    "original_max_position_embeddings": 8192, "rope_type": "llama3"}},
        1_235_814_400,
        {"rope_scaling": Llama3Scaling(32.0, 8192), "compute_dtype": "bfloat16", "window": None},
    ),
    "Pythia 70M": (
        {"model_type": "gpt_neox", "hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8,
         "num_hidden_layers": 6, "rotary_emb_base": 10000, "rotary_pct": 0.25, "vocab_size": 50304,
         "max_position_embeddings": 2048, "layer_norm_eps": 1e-5, "use_parallel_residual": True,
         "tie_word_embeddings": False, "torch_dtype": "float16", "hidden_act": "gelu", "bos_token_id": 0},
        70_426_624,
        {"rotary_dim": 16, "shared_norm": False, "compute_dtype": "float32", "rope_theta": 10_000.0},
    ),
    "Qwen 2.5 0.5B": ({**_QWEN, "model_type": "qwen2"}, 494_032_768, {"window": None, "head_dim": 64}),
    "Qwen 2.5 with YaRN": (
        {**_QWEN, "model_type": "qwen2",
         "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}},
        494_032_768,
        {"rope_scaling": YarnScaling(4.0, 32768, 1.138629436111989)},
    ),
    "Qwen 3 0.6B": (
        {**_QWEN, "model_type": "qwen3", "head_dim": 128, "hidden_size": 1024, "intermediate_size": 3072,
         "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "attention_bias": False},
        596_049_920,
        {"qk_norm": "head", "biased": ()},
    ),
    "OLMo 2 1B": (
        {"model_type": "olmo2", "vocab_size": 100352, "hidden_size": 2048, "intermediate_size": 8192,
         "num_hidden_layers": 16, "num_attention_heads": 16, "num_key_value_heads": 16, "rms_norm_eps": 1e-6,
         "max_position_embeddings": 4096, "rope_theta": 500000, "tie_word_embeddings": False, "attention_bias": False},
        1_484_916_736,
        {"norm_place": "after", "qk_norm": "all"},
    ),
    "Mistral 7B v0.1": (
        {"model_type": "mistral", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336,
         "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-5,
         "max_position_embeddings": 32768, "rope_theta": 10000.0, "sliding_window": 4096, "hidden_act": "silu"},
        7_241_732_096,
        {"window": 4096, "window_pattern": (True,)},
    ),
    "Gemma 2 2B": (
        {**_GEMMA, "model_type": "gemma2", "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
         "hidden_act": "gelu_pytorch_tanh", "rope_theta": 10000.0, "cache_implementation": "hybrid"},
        2_614_341_888,
        {"window_pattern": (True, False), "attention_softcap": 50.0, "logit_softcap": 30.0, "query_scalar": None},
    ),
    "Gemma 3 1B": (
        {**_GEMMA, "model_type": "gemma3_text", "hidden_size": 1152, "intermediate_size": 6912, "vocab_size": 262144,
         "num_attention_heads": 4, "num_key_value_heads": 1, "sliding_window": 512, "sliding_window_pattern": 6,
         "rope_theta": 1000000, "rope_local_base_freq": 10000, "rope_scaling": None, "max_position_embeddings": 32768,
         "attn_logit_softcapping": None, "final_logit_softcapping": None},
        999_885_952,
        {"window_pattern": (True,) * 5 + (False,), "local_rope_theta": 10_000.0, "rope_theta": 1_000_000.0,
         "attention_softcap": None, "qk_norm": "head"},
    ),
    "Gemma 3 4B, its text model": (
        {"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34,
         "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024},
        3_880_263_168,
        {"rope_scaling": LinearScaling(8.0), "heads": 8, "vocab_size": 262_208, "max_length": 131_072},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_config_has_the_parameters_of_the_model_card(name):
    fields, parameters, expected = PUBLISHED[name]
    config = FAMILIES[fields["model_type"]].read_config(fields, "config.json")
    assert count_parameters(config).total == parameters
    assert {field: getattr(config, field) for field in expected} == expected


@pytest.mark.parametrize("name", PUBLISHED)
def test_written_config_equals_the_published_one(name):
    fields, _, _ = PUBLISHED[name]
    family = FAMILIES[fields["model_type"]]
    config = family.read_config(fields, "config.json")
    written = family.write_config(config)
    assert family.read_config(written, "config.json") == config
    assert relevant_fields(written) == relevant_fields(fields)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("Llama 3.2 1B", ("num_key_value_heads", "tie_word_embeddings")),
        ("Mistral 7B v0.1", ("num_key_value_heads",)),
        ("OLMo 2 1B", ("num_key_value_heads",)),
        ("Gemma 2 2B", ("num_key_value_heads", "query_pre_attn_scalar", "attn_logit_softcapping")),
        ("Gemma 3 1B", ("query_pre_attn_scalar", "rope_theta", "rope_local_base_freq", "final_logit_softcapping")),
    ],
)
def test_absent_field_has_the_default_of_transformers(name, fields):
    published = {field: value for field, value in PUBLISHED[name][0].items() if field not in fields}
    family = FAMILIES[published["model_type"]]
    written = family.write_config(family.read_config(published, "config.json"))
    assert relevant_fields(written) == relevant_fields(published)


# Fields without effect, fixed within the family, or made explicit by our writer.
_IRRELEVANT = {
    "architectures", "dtype", "head_dim", "cache_implementation", "hidden_act", "attention_bias", "mlp_bias",
    "max_window_layers", "_sliding_window_pattern", "sliding_window_pattern", "bos_token_id", "sliding_window",
}  # fmt: skip
_YARN_DEFAULTS = {"type", "attention_factor", "beta_fast", "beta_slow", "truncate"}


def relevant_fields(fields) -> dict:
    """Return the fields of a config.json as transformers reads them."""
    read = AutoConfig.for_model(**fields).to_dict()
    rope = {name: value for name, value in read["rope_parameters"].items() if name not in _YARN_DEFAULTS}
    return {name: value for name, value in read.items() if name not in _IRRELEVANT} | {"rope_parameters": rope}


def test_no_family_expresses_a_parallel_block_with_shared_norm(tiny_config):
    for family in FAMILIES.values():
        try:
            back = family.read_config(family.write_config(tiny_config), "config.json")
        except ConfigError:
            continue
        assert back != tiny_config


@pytest.mark.parametrize(
    ("model_type", "fields", "message"),
    [
        ("llama5", {}, "nearest family is llama: it has the same fields"),
        (
            "llama_cross",
            {"cross_layers": 3},
            "model_type = 'llama_cross' .* nearest family is llama: it has no cross_layers",
        ),
        (
            "mixtral",
            {"num_local_experts": 8},
            "num_local_experts = 8 is not supported",
        ),
        (
            "qwen33",
            {"a": 1, "b": 1, "c": 1, "d": 1, "e": 1},
            "nearest family is qwen3: it has no a, b, c, d and 1 more",
        ),
        ("", {}, "config.json: model_type is missing"),
    ],
)
def test_unsupported_model_type_names_the_nearest_family(model_type, fields, message):
    base = _LLAMA if model_type != "qwen33" else {**_QWEN, "head_dim": 64, "attention_bias": False}
    error = unsupported_model_type({**base, **fields, "model_type": model_type}, "config.json")
    assert isinstance(error, ConfigError)
    with pytest.raises(ConfigError, match=message):
        raise error


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("Mistral 7B v0.1", {"layer_types": ["sliding_attention", "full_attention"]}, "layer_types lists 2 layers"),
        ("Qwen 2.5 0.5B", {"layer_types": ["sliding_attention"] * 24}, "layer_types = "),
        (
            "Qwen 2.5 0.5B",
            {"use_sliding_window": True, "layer_types": ["sliding_attention"]},
            "layer_types lists 1 layers",
        ),
        ("Qwen 2.5 0.5B", {"num_attention_heads": None}, "num_attention_heads is missing"),
        ("Gemma 2 2B", {"layer_types": ["chunked_attention"] * 26}, "layer_types = 'chunked_attention'"),
        ("Gemma 2 2B", {"sliding_window": None}, "sliding_window is missing"),
        ("Gemma 3 1B", {"use_bidirectional_attention": True}, "use_bidirectional_attention = True"),
        (
            "Gemma 3 1B",
            {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2}}, "rope_scaling": None},
            "rope_parameters.sliding_attention.rope_type = 'linear' is not supported",
        ),
        ("Pythia 70M", {"hidden_act": "gelu_new"}, "hidden_act = 'gelu_new' .*gelu, relu"),
        ("Pythia 70M", {"rotary_pct": 0.02}, "rope_fraction = 0.02 rotates 1 of a head's 64 dimensions"),
        ("Pythia 70M", {"num_attention_heads": 7}, "hidden_size = 512 is not a multiple of num_attention_heads = 7"),
        ("OLMo 2 1B", {"clip_qkv": 8.0}, "clip_qkv = 8.0"),
        ("OLMo 2 1B", {"layer_types": 3}, "layer_types = 3 is not a list"),
        ("Gemma 2 2B", {"layer_types": 3}, "layer_types = 3 is not a list"),
        ("Gemma 3 1B", {"sliding_window_pattern": 0, "layer_types": None}, "sliding_window_pattern = 0 .* at least 1"),
        ("Gemma 3 1B", {"sliding_window_pattern": math.nan}, "sliding_window_pattern = nan is not an integer"),
        (
            "Qwen 2.5 0.5B",
            {"use_sliding_window": True, "layer_types": None, "max_window_layers": math.nan},
            "max_window_layers = nan is not an integer",
        ),
        ("Qwen 2.5 0.5B", {"rope_scaling": {"rope_type": ["yarn"]}}, r"rope_scaling.rope_type = \['yarn'\]"),
        (
            "Qwen 2.5 0.5B",
            {"rope_scaling": {"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": math.inf}},
            "rope_scaling.original_max_position_embeddings = inf is not an integer",
        ),
        (
            "Qwen 2.5 0.5B",
            {"rope_scaling": {"rope_type": "yarn", "factor": 4}, "rope_theta": 1},
            "rope_theta = 1.0 must be above 1",
        ),
        ("Qwen 3 0.6B", {"quantization_config": {"bits": 4}}, "quantization_config = "),
        ("Qwen 3 0.6B", {"partial_rotary_factor": 0}, "partial_rotary_factor = 0 is not supported"),
    ],
)
def test_unsupported_field_is_named(name, fields, message):
    published = PUBLISHED[name][0]
    with pytest.raises(ConfigError, match=message):
        FAMILIES[published["model_type"]].read_config({**published, **fields}, "config.json")


def test_any_window_pattern_round_trips():
    for pattern in ((True,), (True, False), (False, False, True), (True, True, False, False)):
        family = FAMILIES["gemma2"]
        start = family.read_config(PUBLISHED["Gemma 2 2B"][0], "config.json")
        config: ModelConfig = type(start)(**{**vars(start), "layers": 7, "window_pattern": pattern})
        assert family.read_config(family.write_config(config), "config.json") == config
