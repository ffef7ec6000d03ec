"""Names that become files or directories are refused if they could leave their directory or collide."""

import pytest

from finetune_scaling.data.task import jsonl_task, load_task
from finetune_scaling.errors import ConfigError
from finetune_scaling.names import check_file_names, joint_name
from finetune_scaling.runs.evaluators import read_evaluators
from finetune_scaling.studies.grid import read_study

ESCAPING = ("/tmp/x", "../x", "..", ".", "a/b", "a\\b", "a\0b", "a\nb")
UNUSABLE = (*ESCAPING, "", " ", "a b", "a ", ".hidden", "-x", "x.", "ä" * 51, "x" * 101)


@pytest.mark.parametrize("name", ["test", "newstest2020", "fr-de", "v1.0", "dev+test", "тест", "_a", "0.6B", "x" * 100])
def test_every_allowed_name_is_one_component_that_a_file_system_accepts(name, tmp_path):
    check_file_names([name], "test")
    (tmp_path / name).mkdir()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_several_names_have_one_that_no_other_name_equals(tmp_path):
    long = "x" * 100
    groups = [["a"], ["a", "b"], ["b", "a"], ["a+b"], [long], [long, "a"], ["a", long], ["ä" * 40, "ö" * 40, "ü" * 40]]
    names = {joint_name(group) for group in groups}
    assert len(names) == len(groups)
    for name in names:
        (tmp_path / f"{name}.{long}.jsonl").touch()
    with pytest.raises(ConfigError):
        check_file_names([joint_name(["a", "b"])], "test")


@pytest.mark.parametrize("name", UNUSABLE)
def test_an_unusable_name_is_an_error(name):
    with pytest.raises(ConfigError, match=r"^test: .* becomes the name of a file"):
        check_file_names([name], "test")


@pytest.mark.parametrize("names", [("Test", "test"), ("ß", "SS"), ("\u00e4", "a\u0308")])
def test_names_that_are_one_file_on_some_systems_are_an_error(names):
    with pytest.raises(ConfigError, match=r"one file on some systems|becomes the name"):
        check_file_names(names, "test")


@pytest.mark.parametrize("name", ESCAPING)
def test_test_sets_evaluators_tasks_and_families_are_checked(name, tiny_runs):
    task = jsonl_task("mine", "translation", ("en", "de"), ("en", "de"), "train.jsonl", "dev.jsonl", {name: "x.jsonl"})
    with pytest.raises(ConfigError, match=r"task mine: test: .* becomes the name of a file"):
        load_task(task)
    with pytest.raises(ConfigError, match=r"evaluation.evaluators: .* becomes the name of a file"):
        read_evaluators({name: {"shots": 1}})
    config = tiny_runs.config("study")
    with pytest.raises(ConfigError, match=r"tasks: .* becomes the name of a file"):
        read_study({**config, "tasks": {name: config["tasks"]["translation"]}})
    with pytest.raises(ConfigError, match=r"families: .* becomes the name of a file"):
        read_study({**config, "families": {**config["families"], name: config["families"]["grammar"]}})
