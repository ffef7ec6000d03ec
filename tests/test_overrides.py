"""Fields of configs on the command line: every declared field takes every form of its type, in files, too."""

import dataclasses
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from ml_collections import ConfigDict

from finetune_scaling import configuration
from finetune_scaling.configuration import plain, type_hints
from finetune_scaling.data.task import load_task
from finetune_scaling.errors import ConfigError
from finetune_scaling.overrides import Override, apply_overrides, take_overrides
from finetune_scaling.runs.config_template import finetuning_template, run_config_template
from finetune_scaling.runs.run_config import RunConfig, read_run_config
from finetune_scaling.studies.grid import StudyConfig, read_study
from finetune_scaling.tuning.registry import METHODS

ROOT = Path(__file__).parents[1]
FINETUNE = f"--config={ROOT}/configs/finetune/debian_en_de.py:800k,lora"
STUDY = f"--config={ROOT}/configs/study/quickstart.py"

SAMPLES = {  # texts of each type, and the values that Python writes so
    int: {"7": 7, "1e1": 10, "2.0": 2},
    float: {"3": 3.0, "1e-3": 1e-3, "0.5": 0.5},
    bool: {"True": True, "false": False, "1": True},
    str: {"a text": "a text", "": ""},
    type(None): {"none": None, "None": None},
}
LISTS = {
    int: {"4,8": (4, 8), "(4, 8)": (4, 8), "[4,]": (4,), "1e2": (100,), "()": (), "": ()},
    str: {
        "a,b": ("a", "b"),
        "('a','b')": ("a", "b"),
        "['a']": ("a",),
        "1b": ("1b",),
        "'a, b','None'": ("a, b", "None"),
    },
    bool: {"True,False": (True, False)},
    tuple[str, float]: {"[('a', 0.5)]": (("a", 0.5),)},
}


def samples(hint: Any) -> dict[str, Any]:
    """Return texts that spell values of a type, with these values; nothing for groups of fields."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in SAMPLES:
        return SAMPLES[hint]
    if origin is Annotated:
        return samples(arguments[0])
    if origin is Literal:
        return {str(option): option for option in arguments}
    if arguments == (int, int):
        return {"4,7": (4, 7), "[4, 7]": (4, 7)}
    if origin is tuple:
        return LISTS.get(arguments[0], {} if dataclasses.is_dataclass(arguments[0]) else LISTS[str])
    found: dict[str, Any] = {}
    if origin in (typing.Union, types.UnionType):
        for option in sorted(arguments, key=lambda kind: kind is not str):  # a text may spell another type, too
            found |= samples(option)
    return found


def leaves(kind: type, group: str = "") -> dict[str, Any]:
    """Return the types of all fields of a dataclass and of the dataclasses in it, by dotted name."""
    found = {}
    for name, hint in type_hints(kind).items():
        options = typing.get_args(hint) if typing.get_origin(hint) is types.UnionType else ()
        inner = [one for one in (hint, *options) if dataclasses.is_dataclass(one)]
        found |= leaves(inner[0], f"{group}{name}.") if inner else {f"{group}{name}": hint}
    return found


RUN_FIELDS = leaves(RunConfig) | {
    f"method.{name}": hint for name, hint in type_hints(METHODS["lora"].options).items() if name != "name"
}
VALUES = {name: samples(hint) for name, hint in RUN_FIELDS.items()}


def on_the_command_line(config: ConfigDict, declared: Any, *flags: str) -> dict[str, Any]:
    _, overrides = take_overrides(flags, ["config"])
    apply_overrides(config, overrides, declared)
    return plain(config)


def value_at(config: Any, path: str) -> Any:
    for name in path.split("."):
        config = config[int(name) if name.isdigit() else name]
    return config


def test_all_types_of_fields_are_tried():
    assert len(VALUES) > 80
    tried = {value for values in VALUES.values() for value in values.values()}
    assert tried >= {None, True, False, "never", 10, 1e-3, (4, 8), ("a", "b")}


@pytest.mark.parametrize("field", VALUES)
def test_every_field_takes_every_value_of_its_type_on_the_command_line(field):
    config = run_config_template("lora")
    for text, value in VALUES[field].items():
        found = value_at(on_the_command_line(config, RunConfig, f"--config.{field}={text}"), field)
        assert (found, type(found)) == (plain(value), type(plain(value)))


@pytest.mark.parametrize("field", VALUES)
def test_every_field_takes_every_value_of_its_type_in_files(field):
    in_file = run_config_template("lora")
    *groups, name = field.split(".")
    holder = in_file
    for group in groups:
        if holder[group] is None:
            holder[group] = {}
        holder = holder[group]
    for value in VALUES[field].values():
        holder[name] = value
        assert value_at(plain(in_file), field) == plain(value)


def test_early_stopping_never_and_no_patience_reach_the_run(read_command_line):
    config = read_run_config(
        read_command_line(
            FINETUNE,
            "--config.evaluation.decoding.method=beam",
            "--config.evaluation.decoding.early_stopping=never",
            "--config.limits.patience=None",
            "--config.limits.max_steps=1e1",
            "--config.batch.pack",
            "--config.sequence.mode=",
            "--noconfig.sequence.bidirectional_input",
        )
    )
    assert config.evaluation.decoding.early_stopping == "never"
    assert (config.limits.patience, config.limits.max_steps) == (None, 10)
    assert config.batch.pack
    assert (config.sequence.mode, config.sequence.bidirectional_input) == ("", False)


@pytest.mark.parametrize(
    ("written", "text"),
    [(r"{source}\n", "{source}\n"), (r"{source}\t\\n", "{source}\t\\n"), ("{source}\n", "{source}\n")],
)
def test_escapes_in_templates_are_interpreted(written, text, read_command_line):
    config = read_command_line(FINETUNE, f"--config.task.template.input={written}")
    assert load_task(config["task"]).template.input == text


def test_the_models_chat_template_is_set_by_its_name(read_command_line):
    changes = ("--config.task.template=chat", r"--config.task.template.system=a\nb")
    config = read_command_line(FINETUNE, changes[0])
    assert load_task(config["task"]).template.name == "chat"
    config = read_command_line(FINETUNE, "--config.task.template.name=chat", changes[1])
    assert load_task(config["task"]).template.system == "a\nb"


def test_flags_return_to_the_defaults_of_the_method_and_change_the_optimizer(read_command_line):
    defaults = ("--config.schedule.learning_rate=None", "--config.batch.size=None")
    run_config = read_run_config(read_command_line(FINETUNE, "--config.optimizer.name=adamw", *defaults))
    assert run_config.optimizer.name == "adamw"
    method = run_config.method_declaration.defaults
    assert (run_config.schedule_config.learning_rate, run_config.batch_size) == (
        method.learning_rate,
        method.batch_size,
    )


def test_escapes_are_interpreted_in_texts_only(read_command_line):
    assert read_command_line(FINETUNE, r"--config.name=a\nb")["name"] == r"a\nb"


@pytest.mark.parametrize(
    ("written", "stop"),
    [
        (r"\n", ["\n"]),
        ("\n", ["\n"]),
        (r"\r\n,\\", ["\r\n", "\\"]),
        (" | ", [" | "]),
        ("a, b", ["a", " b"]),
        (r"['a, b', '\n', ' | ']", ["a, b", "\n", " | "]),
        ("'[INST]'", ["[INST]"]),
        ("", []),
    ],
)
def test_stop_strings_keep_their_blanks(written, stop, read_command_line):
    config = read_command_line(FINETUNE, f"--config.evaluation.decoding.stop={written}")
    assert config["evaluation"]["decoding"]["stop"] == stop


def test_names_in_lists_may_have_blanks_around_them(read_command_line):
    assert read_command_line(FINETUNE, "--config.method.targets=query, value")["method"]["targets"] == [
        "query",
        "value",
    ]


@pytest.mark.parametrize(
    ("flags", "group", "fields"),
    [
        (["method.length=7", "method.name=prefix"], "method", {"name": "prefix", "length": 7}),
        (["method.rank=7", "method.name=lora"], "method", {"rank": 7, "alpha": None}),
        (["schedule.warmup_steps=7", "schedule.name=wsd"], "schedule", {"name": "wsd", "warmup_steps": 7}),
        (["task.max_source_tokens=7", "task.name=wmt19_en_zh"], "task", {"max_source_tokens": 7}),
        (["task.template.system=a", "task.template.name=chat"], "task.template", {"system": "a", "name": "chat"}),
        (
            ["evaluation.evaluators.a.rows=7", "evaluation.evaluators.a.kind=text"],
            "evaluation.evaluators.a",
            {"kind": "text", "rows": 7},
        ),
        (
            ["corpus.dev[0].source.split=7", "corpus.dev[0].source.name=a", "corpus.dev[0].source.kind=tfds"],
            "corpus.dev.0.source",
            {"kind": "tfds", "name": "a", "split": "7"},
        ),
    ],
)
def test_the_order_of_a_name_or_kind_and_its_fields_has_no_effect(flags, group, fields):
    configs = []
    for order in (flags, flags[::-1]):
        config = finetuning_template("wmt14_en_de", "lora")
        config.evaluation.evaluators = {"a": {"kind": "task", "shots": 1}}
        config.corpus = {"dev": [{"source": {"kind": "files", "path": "a.jsonl"}}]}
        configs.append(on_the_command_line(config, RunConfig, *(f"--config.{flag}" for flag in order)))
    assert configs[0] == configs[1]
    assert value_at(configs[0], group).items() >= fields.items()


def test_another_method_starts_at_its_defaults(read_command_line):
    config = read_command_line(FINETUNE, "--config.method.length=8", "--config.method.name=prefix")
    assert read_run_config(config).method == {"name": "prefix", "length": 8}
    assert read_command_line(FINETUNE, "--config.method.name=full")["method"] == {"name": "full"}


@pytest.mark.parametrize("flags", [["method={'name': []}", "method.rank=1"], ["method={'name': []}"]])
def test_a_list_in_place_of_a_name_is_unknown(flags, read_command_line):
    with pytest.raises(ConfigError, match=r"config.method has no such field|method.name = \[\] is unknown"):
        read_run_config(read_command_line(FINETUNE, *(f"--config.{flag}" for flag in flags)))


def test_keys_in_quotes_may_contain_anything_but_dots(read_command_line):
    key = "--config.task.template.languages"
    config = read_command_line(FINETUNE, f"{key}['a=b']=c=d", f'{key}["it\'s]"]', "e", f"{key}.a-b=f=g")
    assert config["task"]["template"]["languages"] == {"a=b": "c=d", "it's]": "e", "a-b": "f=g"}


def test_names_with_dashes_and_indices(read_command_line):
    evaluators = "--config.evaluation.evaluators"
    config = read_command_line(
        FINETUNE,
        f"{evaluators}={{'news-2020': {{'shots': 1}}}}",
        f"{evaluators}.news-2020.max-shot-tokens=1e2",
        f"{evaluators}['news-2020'].examples=None",
        f"{evaluators}.few_shot_5={{}}",
    )
    assert read_run_config(config).evaluation.named_evaluators.keys() == {"news-2020", "few_shot_5"}
    assert config["evaluation"]["evaluators"]["news-2020"] == {"shots": 1, "max_shot_tokens": 100, "examples": None}


def test_fields_of_studies_are_set_at_any_depth(read_command_line):
    study = read_study(
        read_command_line(
            STUDY,
            "--config.seeds=0,1,2",
            "--config.tasks.translation.methods.lora.pet_sizes=(4,8)",
            "--config.tasks.translation.methods.lora.config.schedule.warmup_steps=1e1",
            "--config.tasks.translation.task.test.test[0].source.size=1e2",
            "--config.tasks.translation.task.sources.grammar.genders=3",
            "--config.families.grammar.tokenizer.vocab_size=3e2",
            "--config.size=non_embedding",
        )
    )
    lora = study.tasks["translation"].methods["lora"]
    assert (study.seeds, study.size, lora.pet_sizes) == ((0, 1, 2), "non_embedding", (4, 8))
    assert lora.config["schedule"] == {"learning_rate": 0.01, "warmup_steps": 10}
    assert study.families["grammar"].tokenizer["vocab_size"] == 300
    task = load_task(study.tasks["translation"].task)
    assert task.test["test"][0].source.size == 100
    assert task.train[0].source.grammar.genders == 3


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        (["limits.patience=many"], "expected an integer such as 10 or 1e6, or None"),
        (["limits.patience=5.5"], "expected an integer"),
        (["limits.max_steps=1e999999999"], "expected an integer"),
        (["limits.patience"], "has no value"),
        (["evaluation.decoding.early_stopping=maybe"], "expected True or False, or never"),
        (["model.remat=ful"], "expected none, full, dots, offload"),
        (["schedule.learning_rate=fast"], "expected a number"),
        (["checkpoint.keep_tokens=a"], "expected a list such as 0,1,2"),
        (["checkpoint.keep_tokens=1,,2"], "expected a list such as 0,1,2"),
        (["checkpoint.keep_tokens=1", "checkpoint.keep_tokens=2"], "given twice"),
        (["base.run=a", "base=None"], "would replace --config.base.run"),
        (["base.runn=a"], "did you mean 'run'"),
        (["name.x=a"], "config.name is no group of fields"),
        (["..x=1"], "is not the name of a field"),
        (["x[=1"], "is not the name of a field"),
        ([r"task.template.input={source}\d"], r"\\d is not an escape"),
        (["evaluation.evaluators.news.shots=1"], "to add it, write --config.evaluation.evaluators.news="),
        (["base.run=~nobody-here/x"], "there is no user 'nobody-here'"),
        (["base.run=None"], r"this one needs a value. Fix: write a text; a file of this name is \./None"),
        (["tokenizer=none"], r"\./none"),
        (["name=None"], "this one needs a value"),
        (["method.targets=None"], "this one needs a value. Fix: write a list such as a,b"),
        (["optimizer.learning_rate_multipliers=None"], "this one needs a value"),
        (["limits=None"], "this one needs a value. Fix: write a group"),
        (["evaluation.decoding.stop=[INST]"], r"a list such as a,b or \"\['a, b', 'c'\]"),
        ([r"evaluation.decoding.stop='\d'"], "expected a list such as a,b"),
        (["method.targets=(1,2)"], "expected str"),
        (["method.name=lorra", "method.rank=2"], "expected full, prompt, lora"),
        (["task.template.languages['a.b']=c"], "names in a config have no dots"),
        (["task.template.languages={'a.b': 'c'}"], "names in a config have no dots"),
        (["task.template.languages.a.b=c"], "to add it, write --config.task.template.languages.a=VALUE, a text"),
        (["evaluation.evaluators={[]: 1}"], "expected a group"),
    ],
)
def test_wrong_overrides_show_the_right_form(flags, error, read_command_line):
    with pytest.raises(ConfigError, match=error):
        read_command_line(FINETUNE, *(f"--config.{flag}" for flag in flags))


@pytest.mark.parametrize(
    ("arguments", "others", "overrides"),
    [
        (["--config=f", "--config.a=1"], ["--config=f"], [("a", "1", True)]),
        (["--config.a", "-1", "x"], ["x"], [("a", "-1", True)]),
        (["--config.a", "--out=x"], ["--out=x"], [("a", None, True)]),
        (["-noconfig.a", "x"], ["x"], [("a", None, False)]),
        (["--no-config.a.b"], [], [("a.b", None, False)]),
        (["--config.a=b=c\nd"], [], [("a", "b=c\nd", True)]),
        (["--", "--config.a=1"], ["--", "--config.a=1"], []),
        (["--configs.a=1", "--conf", "--prices.v5e.spot=1"], ["--configs.a=1", "--conf", "--prices.v5e.spot=1"], []),
    ],
)
def test_overrides_are_separated_from_other_arguments(arguments, others, overrides):
    found = take_overrides(arguments, ["config"])
    assert found == (others, [Override("config", *override) for override in overrides])


def test_undeclared_fields_keep_the_type_of_their_value():
    config = ConfigDict({"own": {"count": 3, "text": "a", "empty": None}})
    flags = ("--config.own.count=1e1", "--config.own.text=12", "--config.own.empty=(1, 'a')")
    assert on_the_command_line(config, StudyConfig, *flags)["own"] == {"count": 10, "text": "12", "empty": [1, "a"]}


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("false", False),
        ("True", True),
        ("none", None),
        ("3", 3),
        ("1e-3", 1e-3),
        ("'false'", "false"),
        ("26 Jul", "26 Jul"),
    ],
)
def test_variables_of_a_chat_template_have_types(written, value, read_command_line):
    flags = ("--config.task.template.name=chat", f"--config.task.template.variables.x={written}")
    assert load_task(read_command_line(FINETUNE, *flags)["task"]).template.variables.get("x") == value


def test_references_between_fields_follow_an_override():
    config = ConfigDict({"limits": {"max_steps": 10}})
    config.twice = config.limits.get_ref("max_steps") * 2
    assert on_the_command_line(config, RunConfig, "--config.limits.max_steps=7")["twice"] == 14


def test_paths_in_configs_are_expanded_wherever_they_are_declared(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    source = {"kind": "files", "path": "~/a.jsonl", "data_dir": "~"}
    corpus = {"train": [{"source": source}], "dev": [{"source": {**source, "path": "~/b.jsonl"}}], "prepared": "~/p"}
    config = {
        "sequence": {"length": 8},
        "limits": {"max_steps": 1},
        "tokenizer": "~/t",
        "model": {"name": "30k"},
        "corpus": corpus,
    }
    run_config = read_run_config(config)
    assert (run_config.tokenizer, run_config.corpus.prepared) == ("/home/me/t", "/home/me/p")
    base = configuration.build(RunConfig, {**config, "corpus": None, "task": {}, "base": {"run": "~/b"}}, "config").base
    assert base.run == "/home/me/b"
    task = {"name": "mine", "kind": "translation", "template": {"input": "{source}", "target": "{target}"}}
    fields = {"source_field": "a", "target_field": "b", "source_language": "en", "target_language": "de"}
    part = load_task({**task, "train": [{"source": source, **fields}]}).train[0]
    assert (part.source.path, part.source.data_dir) == ("/home/me/a.jsonl", "/home/me")
