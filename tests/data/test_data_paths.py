"""Recorded configs name their data independently of the working directory."""

from typing import Any

import pytest

from finetune_scaling.data.data_paths import with_absolute_data, without_data_paths
from finetune_scaling.data.sources import FilesSource
from finetune_scaling.data.task import jsonl_task, load_task
from finetune_scaling.data.tasks import TASKS

PART = {"source_field": "a", "target_field": "b", "source_language": "en", "target_language": "de"}
RELATIVE = {"kind": "files", "path": "x/train.jsonl"}
FOUND = {**RELATIVE, "data_dir": "/elsewhere"}


@pytest.fixture(autouse=True)
def work(monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setattr("os.getcwd", lambda: "/elsewhere")


@pytest.mark.parametrize(
    ("given", "recorded"),
    [
        (RELATIVE, FOUND),
        ({**RELATIVE, "data_dir": "data"}, {**RELATIVE, "data_dir": "/elsewhere/data"}),
        ({**RELATIVE, "data_dir": "gs://bucket/data"}, None),
        ({**RELATIVE, "path": "/abs.jsonl", "data_dir": None}, None),
        ({**RELATIVE, "path": "~/x.jsonl"}, {**RELATIVE, "path": "/home/me/x.jsonl"}),
        ({**RELATIVE, "path": "https://host/x.jsonl"}, None),
        ({"kind": "tfds", "name": "x", "split": "train", "data_dir": "~/d"},
         {"kind": "tfds", "name": "x", "split": "train", "data_dir": "/home/me/d"}),
        ({"kind": "tfds", "name": "x", "split": "train"}, None),
    ],
)  # fmt: skip
def test_a_source_anywhere_in_a_config_is_recorded_independently_of_the_directory(given, recorded):
    def configs(source: dict[str, Any]) -> list[dict[str, Any]]:
        task = {"name": "mine", "kind": "translation", "train": [{"source": source, **PART}]}
        return [
            {"corpus": {"train": [{"source": source}], "dev": []}},
            {"task": task},
            {"tasks": {"a": {"task": task, "finetune": {"evaluation": {"evaluators": {"e": {"task": task}}}}}}},
            {"evaluation": {"evaluators": {"e": {"kind": "text", "texts": [{"source": source}]}}}},
        ]

    wanted = configs(recorded or given)
    assert with_absolute_data(configs(given)) == with_absolute_data(wanted) == wanted
    assert without_data_paths(wanted) == without_data_paths(configs(given))


@pytest.mark.parametrize("name", TASKS)
def test_files_of_a_named_task_are_recorded_and_are_the_same_task(name):
    recorded = with_absolute_data({"task": {"name": name, "test": None}})["task"]
    found, preset = load_task(recorded), load_task(name)
    parts = zip(sum(found.splits().values(), ()), sum(preset.splits().values(), ()), strict=True)
    for part, given in parts:
        if isinstance(given.source, FilesSource):
            assert str(part.source) == f"/elsewhere/{given.source}"
        else:
            assert part == given
    if recorded != {"name": name, "test": None}:
        moved = load_task({**recorded, "sources": {"data_dir": "/new"}}).splits().values()
        assert {part.source.data_dir for parts in moved for part in parts} == {"/new"}


def test_a_directory_of_all_sources_is_recorded_alone():
    task = jsonl_task("mine", "translation", ("en", "de"), ("en", "de"), "a.jsonl", "b.jsonl")
    recorded = with_absolute_data({"task": {**task, "sources": {"data_dir": "data"}}})["task"]
    assert recorded == {**task, "sources": {"data_dir": "/elsewhere/data"}}
