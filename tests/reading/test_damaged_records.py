"""Reading a run whose files were damaged or edited ends with an error that names the directory, never a traceback."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune_scaling.errors import UserError
from finetune_scaling.files import disk_errors, read_json
from finetune_scaling.inspection.directory import inspect
from finetune_scaling.inspection.formatting import format_inspection
from finetune_scaling.reading import Run, load_run

CONFIG = {
    "name": "own", "method": {"name": "lora"}, "base": {"run": "base"}, "tokenizer": "t", "task": {"name": "debian"},
    "limits": {"max_steps": 4}, "sequence": {"length": 8}, "finetune_examples": 4,
}  # fmt: skip
BLEU = {"score": 3.5, "signature": "s"}
RESULT = {
    "loss": 1.5,
    "best_step": 4,
    "finetune_examples": 4,
    "tests": {"test": {"loss": 1.5, "metrics": {"bleu": BLEU}}},
}
METRICS = [{"step": 2, "loss": 2.0, "time": 1.7e9}, {"step": 4, "loss": 1.5, "dev_loss": 1.4, "time": 1.7e9}]
ROW = {"index": 0, "source": "a", "reference": "b", "hypothesis": "c", "loss_sum": 2.0, "tokens": 2}

READ: dict[str, Callable[[Run], Any]] = {
    "repr": repr,
    "method": lambda run: run.method,
    "curves": lambda run: run.curves,
    "scores": lambda run: run.scores,
    "samples": lambda run: run.samples(),
}


@pytest.fixture
def directory(tmp_path) -> Path:
    """A run directory without checkpoints."""
    for name, content in {"config": CONFIG, "result": RESULT}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in METRICS))
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "test.jsonl").write_text(f"{json.dumps(ROW)}\n")
    return tmp_path


def test_intact_records_are_read(directory):
    run = load_run(directory)
    for read in READ.values():
        read(run)
    assert run.curves["dev_loss"].tolist()[-1] == 1.4
    assert run.scores["score"].tolist() == [1.5, 3.5]
    assert inspect(directory)["result"] == RESULT


@pytest.mark.parametrize(
    ("file", "content", "reads"),
    [
        ("config.json", [], ("method",)),
        ("config.json", {**CONFIG, "method": "lora"}, ("method",)),
        ("result.json", 3, ("repr", "scores")),
        ("result.json", {}, ("repr",)),
        ("result.json", {**RESULT, "loss": "low"}, ("repr",)),
        ("result.json", {**RESULT, "tests": {"test": {"metrics": {"bleu": 3.5}}}}, ("scores",)),
        ("result.json", {**RESULT, "tests": {"test": {"metrics": {"bleu": {}}}}}, ("scores",)),
        ("result.json", {**RESULT, "tests": ["test"]}, ("scores",)),
        ("evaluation/dev.json", {"evaluator": "dev"}, ("scores",)),
        ("evaluation/dev.json", {"evaluator": "dev", "checkpoint": {"step": "4"}}, ("scores",)),
        ("evaluation/dev.json", {"evaluator": "dev", "checkpoint": {"step": 4}, "untuned": [1]}, ("scores",)),
        ("metrics.jsonl", {**METRICS[0], "time": 1e300}, ("curves",)),
        ("evaluation/test.jsonl", {**ROW, "loss_sum": 2.0, "index": [1]}, ("samples",)),
    ],
)
def test_a_damaged_record_names_its_directory(directory, file, content, reads):
    (directory / file).write_text(json.dumps(content))
    for name in reads:
        with pytest.raises(UserError, match=str(directory)):
            READ[name](load_run(directory))


@pytest.mark.parametrize("tests", [["test"], {"test": 3}, {"test": {"metrics": {"bleu": {"score": 1.5}}}}])
def test_text_about_a_damaged_result_names_its_directory(directory, tests):
    (directory / "result.json").write_text(json.dumps({**RESULT, "tests": tests}))
    with pytest.raises(UserError, match=str(directory)):
        format_inspection(inspect(directory))


@pytest.mark.parametrize(
    ("name", "place"),
    [("scores", "finetune_scaling.evaluation.records.score_values"), ("samples", "pandas.DataFrame.reindex"),
     ("curves", "pandas.DataFrame.groupby"), ("scores", "finetune_scaling.evaluation.records.best_checkpoint_records")],
)  # fmt: skip
def test_an_error_of_our_own_is_no_damaged_record(directory, name, place, monkeypatch):
    def fail(*_: Any, **__: Any) -> None:
        raise KeyError("ours")

    monkeypatch.setattr(place, fail)
    with pytest.raises(KeyError, match="ours"):
        READ[name](load_run(directory))


@pytest.mark.parametrize(
    "line",
    [
        "7",
        "[]",
        "null",
        '{"loss": 1}',
        '{"step": "2"}',
        '{"step": 2, "loss"',
        '{"step": 5, "dev_loss": "1"}',
        "\0" * 20,
    ],
)
def test_lines_of_metrics_without_a_step_are_not_read(directory, line):
    path = directory / "metrics.jsonl"
    path.write_text(f"{path.read_text()}{line}\n")
    assert load_run(directory).curves.index.tolist() == [2, 4]


@pytest.mark.parametrize("content", [{"limits": 3}, {**CONFIG, "limits": {"max_steps": "many"}}, 7])
def test_inspection_of_a_damaged_config_names_it(directory, content):
    (directory / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"limits|config\.json"):
        inspect(directory)


@pytest.mark.parametrize("place", ["directory", "link to itself", "long name"])
def test_a_path_that_is_no_file_is_named(tmp_path, place):
    path = tmp_path / ("x" * 300 if place == "long name" else "result.json")
    if place == "directory":
        path.mkdir()
    elif place == "link to itself":
        path.symlink_to(path)
    with pytest.raises(UserError, match=path.name[:20]), disk_errors(path, reading=True):
        read_json(path)
