"""Every documented field of config.json is read as transformers reads it, or refused with its name."""

import copy
import runpy
from pathlib import Path

import pytest
from transformers import AutoConfig

from finetune_scaling import configuration
from finetune_scaling.errors import ConfigError, UserError
from finetune_scaling.interop.families.registry import parse_config

TESTS = Path(__file__).parents[1]
PUBLISHED = runpy.run_path(str(TESTS / "interop" / "test_config_json.py"))["PUBLISHED"]
DOCUMENTED = runpy.run_path(str(TESTS / "documented_rows.py"))["documented_rows"]("config.json")
YARN = {"rope_type": "yarn", "factor": 4.0}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA, QWEN, GEMMA, NEOX = "Llama 3.2 1B", "Qwen 2.5 0.5B", "Gemma 2 2B", "Pythia 70M"
MISTRAL = "Mistral 7B v0.1"
ABSENT = "(absent)"

# A published model, a field and its values of each row.
READ = {
    "absent and null fields with a default of the class, such as `tie_word_embeddings` and `head_dim`": [
        (LLAMA, "tie_word_embeddings", [ABSENT]), (GEMMA, "tie_word_embeddings", [ABSENT, False]),
        (LLAMA, "head_dim", [ABSENT, None]), (GEMMA, "head_dim", [ABSENT]), (LLAMA, "num_key_value_heads", [None]),
    ],
    "`rope_scaling`, `rope_parameters`, `rope_theta`: default, linear, llama3, yarn": [
        (MISTRAL, "rope_parameters", [{"rope_theta": 5.0, "rope_type": "default"}]),
        (QWEN, "rope_scaling", [{}, YARN, {**YARN, "mscale": 0.7, "mscale_all_dim": 0.5},
                                {"type": "linear", "factor": 2.0},
                                {**LLAMA3, "original_max_position_embeddings": 16}, {**YARN, "rope_theta": 77.0}]),
        (NEOX, "rope_scaling", [{"type": "linear", "factor": 2.0}]), (NEOX, "rotary_emb_base", [77, ABSENT]),
    ],
    "`layer_types`, `sliding_window`, `use_sliding_window`, `max_window_layers`": [
        (QWEN, "use_sliding_window", [True, ABSENT]), (MISTRAL, "sliding_window", [7, None, ABSENT]),
        (GEMMA, "layer_types", [ABSENT, ["full_attention"] * 25 + ["sliding_attention"]]),
        (MISTRAL, "layer_types", [["full_attention"] * 32, ["sliding_attention"] * 31 + ["full_attention"]]),
    ],
    "`hidden_act`, `hidden_activation`": [
        (NEOX, "hidden_act", ["relu", ABSENT]), (GEMMA, "hidden_activation", [ABSENT]), (GEMMA, "hidden_act", ["gelu"]),
    ],
    "`dtype` before `torch_dtype`; float32, bfloat16, float16": [
        (LLAMA, "dtype", ["float32", "float16"]), (LLAMA, "torch_dtype", ["float16", None]),
    ],
    "`attention_dropout` and other dropout": [(LLAMA, "attention_dropout", [0.1]), (NEOX, "hidden_dropout", [0.1])],
    "`auto_map` in `config.json`": [(LLAMA, "auto_map", [{"AutoModelForCausalLM": "modeling.Model"}])],
    "nested `text_config` of Gemma 3": [("Gemma 3 4B, its text model", "sliding_window", [512])],
}  # fmt: skip
REFUSED = {
    "absent shape fields, such as `hidden_size`": [
        (LLAMA, name, ABSENT, f"{name} is missing") for name in ("hidden_size", "vocab_size", "num_hidden_layers")
    ],
    "other types and fields of RoPE (dynamic, longrope); both objects": [
        (QWEN, "rope_scaling", {"rope_type": "dynamic", "factor": 2.0}, "rope_scaling.rope_type = 'dynamic'"),
        (QWEN, "rope_scaling", {"type": "longrope", "long_factor": [1.0]}, "rope_scaling.type = 'longrope'"),
        (QWEN, "rope_scaling", {**YARN, "beta": 3}, "rope_scaling.beta = 3"),
        (NEOX, "rope_theta", 123.0, "rope_theta = 123.0 .* rotary_emb_base instead"),
        (LLAMA, "rope_parameters", {"rope_theta": 5.0}, "rope_parameters = "),  # in addition to rope_scaling
        (LLAMA, "partial_rotary_factor", 0.5, "partial_rotary_factor = 0.5"),
    ],
    "`original_max_position_embeddings` outside of `rope_scaling` and `rope_parameters`": [
        (LLAMA, "original_max_position_embeddings", 16, "original_max_position_embeddings = 16 .* Fix: move it into"),
    ],
    "other activations": [(LLAMA, "hidden_act", "gelu_new", "hidden_act = 'gelu_new'")],
    "`is_causal`, unless it is true": [
        (LLAMA, "is_causal", value, "is_causal = .* is not supported") for value in (False, None)
    ],
    "`transformers_weights`": [
        (LLAMA, "transformers_weights", "other.safetensors", "transformers_weights = 'other.safetensors' is not"),
    ],
    "`quantization_config`": [(LLAMA, "quantization_config", {"quant_method": "awq"}, "quantization_config = ")],
    "`architectures` with another head (`...ForSequenceClassification`)": [
        (LLAMA, "architectures", [name], f"architectures = .*{name}.* predicts no tokens")
        for name in ("LlamaForSequenceClassification", "LlamaForTokenClassification", "LlamaForQuestionAnswering")
    ],
    "a `model_type` of no family": [(LLAMA, "model_type", "llama9", "nearest family is llama")],
}  # fmt: skip


def with_field(name, field, value):
    fields = {key: copy.deepcopy(old) for key, old in PUBLISHED[name][0].items() if key != field}
    return fields if value == ABSENT else {**fields, field: copy.deepcopy(value)}


def read(fields):
    """Return our config, without the standard deviation of new embeddings."""
    return {**configuration.plain(parse_config(fields, "config.json")[1]), "embedding_std": None}


def check(fields):
    """Compare what is read from a config.json with what is read from the fields that transformers then has."""
    known = AutoConfig.for_model(**copy.deepcopy(fields)).to_dict()
    assert configuration.differing_fields(read(fields), read(known)) == []


@pytest.mark.parametrize(("row", "case"), [(row, case) for row, cases in READ.items() for case in cases])
def test_field_is_read_as_transformers_reads_it(row, case):
    name, field, values = case
    for value in values:
        fields = with_field(name, field, value)
        if row.startswith("nested"):
            assert read({"model_type": "gemma3", "text_config": fields}) == read(fields)
        check(fields)


@pytest.mark.parametrize("name", [LLAMA, QWEN, "Qwen 3 0.6B", GEMMA, "Gemma 3 1B", NEOX, MISTRAL, "OLMo 2 1B"])
def test_every_field_may_be_absent_or_null(name):
    """Where transformers or we refuse the config, there is nothing to compare."""
    compared = 0
    for field in PUBLISHED[name][0].keys() - {"model_type"}:
        for value in (ABSENT, None):
            fields = with_field(name, field, value)
            try:
                read(fields)
            except UserError:
                continue
            try:
                AutoConfig.for_model(**copy.deepcopy(fields))
            except Exception:  # transformers has no class of its own for them
                continue
            check(fields)
            compared += 1
    assert compared > 3


@pytest.mark.parametrize(("row", "case"), [(row, case) for row, cases in REFUSED.items() for case in cases])
def test_other_values_are_refused(row, case):
    name, field, value, message = case
    with pytest.raises(ConfigError, match=message):
        read(with_field(name, field, value))


def test_every_documented_row_has_a_case():
    assert {**dict.fromkeys(READ, "read"), **dict.fromkeys(REFUSED, "refused")} == DOCUMENTED
