"""Specifications of evaluators: presets, fields in a config, and errors."""

import dataclasses

import pytest

from finetune_scaling.decoding.settings import DecodingConfig
from finetune_scaling.errors import ConfigError
from finetune_scaling.runs.evaluators import (
    PRESETS,
    TaskEvaluator,
    TextEvaluator,
    preset,
    read_decoding,
    read_evaluators,
    select_evaluators,
    with_decoding,
    with_overrides,
)
from finetune_scaling.runs.run_config import EvaluationConfig


def test_presets_need_no_fields_and_other_names_need_all():
    found = read_evaluators(
        {
            "few_shot_1": {},
            "few_shot_5": {"max_shot_tokens": 24},
            "pretraining": {"every_steps": 100},
            "zero_shot": {},
            "news": {"task": {"name": "wmt14_en_de"}, "splits": ["newstest2020"], "generate": None},
        }
    )
    assert found == {
        "few_shot_1": TaskEvaluator(shots=1),
        "few_shot_5": TaskEvaluator(shots=5, max_shot_tokens=24),
        "pretraining": TextEvaluator(every_steps=100),
        "zero_shot": TaskEvaluator(directions="zero_shot"),
        "news": TaskEvaluator(task={"name": "wmt14_en_de"}, splits=("newstest2020",), generate=None),
    }
    assert EvaluationConfig(evaluators={"few_shot_3": {}}).named_evaluators == {"few_shot_3": TaskEvaluator(shots=3)}
    assert EvaluationConfig().named_evaluators == {}
    given = read_evaluators({"zero_shot": {"task": {"name": "debian_en_zh"}}})["zero_shot"]
    assert given == TaskEvaluator(task={"name": "debian_en_zh"})  # instead of the preset's directions


@pytest.mark.parametrize("name", [*PRESETS, "few_shot_12"])
def test_presets_are_complete(name):
    assert preset(name) == read_evaluators({name: {}})[name]


def test_names_on_a_command_line_prefer_the_config():
    configured = read_evaluators({"few_shot_1": {"seed": 3}, "mine": {"splits": ["dev"]}})
    found = select_evaluators(["mine", "few_shot_1", "few_shot_5"], configured, "--evaluators")
    assert found == {
        "mine": TaskEvaluator(splits=("dev",)),
        "few_shot_1": TaskEvaluator(shots=1, seed=3),
        "few_shot_5": TaskEvaluator(shots=5),
    }


def test_braces_in_a_demonstration_are_escaped_by_doubling():
    evaluator = read_evaluators({"mine": {"demonstration": "{{{input}}}{target}\n"}})["mine"]
    assert evaluator.demonstration.format(input="I", target="T") == "{I}T\n"


def test_flags_override_numbers():
    assert with_overrides(TaskEvaluator(shots=2), 7, 0, False) == TaskEvaluator(
        shots=2, examples=7, generate=0, untuned=False
    )
    assert with_overrides(TextEvaluator(), 7, 0, None) == TextEvaluator(rows=7)
    assert with_overrides(TaskEvaluator(), None, None, None) == TaskEvaluator()


def test_an_evaluators_decoding_takes_precedence_over_the_configs():
    sampled = {"decoding": {"method": "sample", "top_k": 5}}
    configured = read_evaluators({"test": {}, "sampled": {"shots": 1, **sampled}, "pretraining": {}})
    beam = read_decoding({"decoding": {"method": "beam", "beams": 2, "top_k": None}})  # None: not set
    assert beam == DecodingConfig(method="beam", beams=2)
    found = {name: with_decoding(one, beam) for name, one in configured.items()}
    assert found["test"] == dataclasses.replace(preset("test"), decoding=beam)
    assert found["sampled"].decoding == DecodingConfig(method="sample", top_k=5)
    assert found["pretraining"] == configured["pretraining"]
    assert read_decoding({}) is read_decoding({"decoding": {"method": None}}) is None
    assert with_decoding(preset("test"), None) == preset("test")


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (
            {"few_shot": {}},
            r"evaluators\.few_shot is empty.*; did you mean 'few_",
        ),
        ({"mine": {"shot": 3}}, r"evaluators\.mine\.shot is not a field .*; did you mean 'shots'"),
        ({"mine": {"kind": "tasks"}}, r"evaluators\.mine\.kind = 'tasks' is unknown; did you mean 'task'"),
        ({"mine": {"shots": -1}}, r"evaluators\.mine: shots = -1 must be at least 0"),
        ({"mine": {"every_steps": 0}}, r"evaluators\.mine: every_steps = 0 must be at least 1"),
        ({"pretraining": {"rows": 0}}, r"evaluators\.pretraining: rows = 0 must be at least 1"),
        ({"pretraining": {"shots": 1}}, r"evaluators\.pretraining\.shots is not a field"),
        ({"mine": {"demonstration": "{target}\n{input}\n"}}, r"must contain \{input\} and then \{target\}"),
        (
            {"mine": {"demonstration": "{input}{input}{target}\n"}},
            r"must contain \{input\} and then \{target\}",
        ),
        ({"mine": {"demonstration": "{input}{target} "}}, "must end with a newline"),
        (
            {"mine": {"demonstration": "{source}{target}\n"}},
            r"evaluators\.mine: demonstration: unknown placeholder \{source\}",
        ),
        ({"mine": {"demonstration": "{input}{target}{\n"}}, r"mine: demonstration = '\{input\}\{target\}\{"),
        ({"mine": {"decoding": {"method": "beem"}}}, r"evaluators\.mine\.decoding\.method = 'beem' .*'beam'"),
        ({"mine": {"shots": 1, "seed": -1}}, r"evaluators\.mine: seed = -1 must be at least 0"),
        ({"mine": {"task": {"name": "a"}, "directions": "zero_shot"}}, "directions = 'zero_shot' selects a task"),
        ({"a.b": {"shots": 1}}, r"evaluators\.a\.b: .* is not a valid name"),
        ({"mine": 3}, r"evaluators\.mine must be a group of fields, not 3"),
    ],
)
def test_errors_name_the_field(blocks, message):
    with pytest.raises(ConfigError, match=message):
        EvaluationConfig(evaluators=blocks)


def test_an_unknown_name_raises_with_the_nearest_name():
    with pytest.raises(
        ConfigError, match=r"--evaluators: no evaluator is called 'zero_shots'; did you mean 'zero_shot'"
    ):
        select_evaluators(["zero_shots"], {}, "--evaluators")
    with pytest.raises(ConfigError, match="did you mean 'my_own'"):
        select_evaluators(["my_oven"], {"my_own": TaskEvaluator()}, "--evaluators")
