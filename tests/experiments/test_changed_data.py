"""Data that changed since a run started is noticed, and held-out examples in the training data are counted."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from finetune_scaling.data import overlap
from finetune_scaling.data.grammar.config import GrammarConfig
from finetune_scaling.data.sources import GrammarSource, open_source
from finetune_scaling.data.task import jsonl_task
from finetune_scaling.errors import CheckpointError, MissingDataError, WorkdirError
from finetune_scaling.evaluation.jobs import EvaluationOptions, plan_evaluations, run_evaluations
from finetune_scaling.experiments.run import run
from finetune_scaling.runs import run_data, split_records
from finetune_scaling.runs.checkpoints import checkpoint_steps, read_metadata
from finetune_scaling.runs.evaluators import TaskEvaluator
from finetune_scaling.runs.run_config import read_run_config
from finetune_scaling.runs.split_records import check_same_data

SIZES = {"train": 60, "dev": 20, "test": 20}


def records(split: str) -> list[dict[str, Any]]:
    source = GrammarSource("translation", split, SIZES[split], ("A", "B"), grammar=GrammarConfig(lexicon_size=40))
    return [{name: record[name] for name in ("source", "target")} for record in open_source(source)]


def write(folder: Path, split: str, rows: list[dict[str, Any]]) -> None:
    """Write a split; a process reads each file once, so its caches are cleared."""
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for cached in (run_data._split, run_data._split_digest, run_data._overlap, run_data._dev_batches):
        cached.cache_clear()


@pytest.fixture(scope="module")
def config(tiny_runs, tmp_path_factory) -> dict[str, Any]:
    """A run config over files with all splits."""
    folder = tmp_path_factory.mktemp("data")
    for split in SIZES:
        write(folder, split, records(split))
    paths = {split: str(folder / f"{split}.jsonl") for split in SIZES}
    task = jsonl_task("files", "translation", ("A", "B"), ("source", "target"), paths["train"], paths["dev"])
    task["test"] = {"test": [task["train"][0] | {"source": {"kind": "files", "path": paths["test"]}}]}
    limits = {
        "max_source_tokens": 12,
        "max_target_tokens": 12,
        "template": {"input": "{source} =", "target": " {target}"},
    }
    return tiny_runs.config("lora") | {"task": {**task, **limits}}


def folder_of(config: dict[str, Any]) -> Path:
    return Path(config["task"]["train"][0]["source"]["path"]).parent


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory) -> Path:
    """A finished run, which tests only add evaluations to."""
    directory = tmp_path_factory.mktemp("runs") / "run"
    run(config, directory)
    return directory


def test_a_run_resumes_with_moved_data_and_refuses_changed_data(config, unfinished):
    folder = folder_of(config)
    step = next(checkpoint_steps(unfinished))
    digests = read_metadata(unfinished / "checkpoints" / str(step))["split_digests"]
    assert set(digests) == {"train", "dev", "test"}
    assert len(set(digests.values())) == 3
    for split in SIZES:
        rows = records(split)
        write(folder, split, [*rows[:-1], rows[-1] | {"target": rows[0]["target"]}])
        with pytest.raises(CheckpointError, match=rf"the data of {split} changed since the run started .*Fix: restore"):
            run(config, unfinished)
        write(folder, split, [{"id": str(number), **row} for number, row in enumerate(rows)])  # the same examples
    assert not (unfinished / "result.json").exists()
    record = run(config, unfinished)
    assert {name: split["digest"] for name, split in record["splits"].items()} == digests
    assert record["splits"]["train"] == {"digest": digests["train"], "examples": 40, "dropped": 0}


def evaluate(directory: Path, *splits: str) -> None:
    evaluators = {name: TaskEvaluator(splits=(name,), generate=0, untuned=False) for name in splits}
    (job,) = plan_evaluations([str(directory)], lambda *_: evaluators, EvaluationOptions())
    run_evaluations([job], EvaluationOptions())


@pytest.mark.parametrize("data_dir", [None, "text"])
def test_a_run_with_relative_paths_is_evaluated_anywhere_and_records_where_its_data_is_now(
    config, finished, tmp_path, monkeypatch, data_dir
):
    folder, new = tmp_path / "work" / "text", tmp_path / "new"
    shutil.copytree(folder_of(config), folder)
    text = json.dumps(config["task"]).replace(f"{folder_of(config)}/", "text/" if data_dir is None else "")
    given = {**config, "task": {**json.loads(text), "sources": {"data_dir": data_dir}}}
    directory = Path(shutil.copytree(finished, tmp_path / "run"))
    monkeypatch.chdir(folder.parent)
    result = run(given, directory)
    monkeypatch.chdir(tmp_path)
    evaluate(directory, "dev")

    shutil.move(folder, new)
    for cached in (run_data._task, run_data._split, run_data._split_digest):
        cached.cache_clear()
    with pytest.raises(MissingDataError, match=rf"run: evaluator test: {folder}/test.jsonl .*data_dir=DIR"):
        evaluate(directory, "test")
    moved = {**config, "task": json.loads(text.replace('"text/', '"')) | {"sources": {"data_dir": "new"}}}
    assert run(moved, directory) == result
    evaluate(directory, "test")
    recorded = (directory / "config.json").read_text()
    write(Path(shutil.copytree(new, tmp_path / "other")), "test", records("test")[1:])
    with pytest.raises(WorkdirError, match=r"another config \(they differ in task\.dev, task\.test\.test, task\.train"):
        run({**moved, "task": moved["task"] | {"sources": {"data_dir": "other"}}}, directory)
    assert (directory / "config.json").read_text() == recorded


@pytest.mark.parametrize("split", SIZES)
def test_a_finished_run_keeps_its_results_and_warns_of_changed_or_missing_data(config, finished, split, caplog):
    path, rows, recorded = folder_of(config) / f"{split}.jsonl", records(split), (finished / "result.json").read_text()
    with caplog.at_level(logging.WARNING):
        run(config, finished)
        assert not caplog.records
        write(path.parent, split, rows[1:])
        result = run(config, finished)
        path.unlink()
        run_data._split.cache_clear()
        run_data._split_digest.cache_clear()
        assert run(config, finished) == result == json.loads(recorded)
    write(path.parent, split, rows)
    changed, missing = (one.getMessage() for one in caplog.records)
    assert f"the data of split {split} ({path}) changed" in changed
    assert f"the data of split {split} ({path}) cannot be compared" in missing
    assert (finished / "result.json").read_text() == recorded


def test_an_evaluation_on_changed_data_says_so(config, finished, caplog):
    folder, rows = folder_of(config), records("test")
    write(folder, "test", rows[1:])
    with caplog.at_level(logging.WARNING):
        evaluate(finished, "dev", "test")
    write(folder, "test", rows)
    assert f"evaluator test: the data of split test ({folder / 'test.jsonl'}) changed" in caplog.text
    assert "split dev" not in caplog.text


def test_the_digest_depends_on_texts_and_their_order_alone(config):
    folder, run_config = folder_of(config), read_run_config(config)
    rows = records("test")
    found = []
    for changed in (
        rows,
        rows[::-1],
        rows[1:],
        [*rows[:-1], {"source": rows[-1]["target"], "target": rows[-1]["source"]}],
    ):
        write(folder, "test", changed)
        found.append(run_data.task_digests(run_config)["test"])
    assert len(set(found)) == 4
    write(folder, "test", rows)
    (folder / "test.tsv").write_text(
        "source\ttarget\n" + "".join(f"{row['source']}\t{row['target']}\n" for row in rows)
    )
    test = [{**config["task"]["test"]["test"][0], "source": {"kind": "files", "path": str(folder / "test.tsv")}}]
    moved = read_run_config(config | {"task": config["task"] | {"test": {"test": test}}})
    assert run_data.task_digests(moved)["test"] == run_data.task_digests(run_config)["test"] == found[0]


def test_held_out_examples_in_the_training_data_are_counted_and_logged(config, caplog):
    folder = folder_of(config)
    test, run_config = records("test"), read_run_config(config)
    training = run_data.finetuning_examples(run_config)
    known = [{name: training[index][name] for name in ("source", "target")} for index in range(3)]
    near = [{"source": row["source"].upper() + " !", "target": row["target"]} for row in known[1:]]
    other_target = {"source": training[3]["source"], "target": "another text"}
    write(folder, "test", [known[0], *near, other_target, {"source": " ", "target": "x"}, *test])
    config = config | {"task": config["task"] | {"sources": {"on_empty": "drop"}}}
    with caplog.at_level(logging.WARNING):
        splits = run_data.prepare_run_data(read_run_config(config)).splits
    write(folder, "test", test)
    assert (splits["test"]["in_training"], splits["test"]["dropped"]) == (1, 1)
    assert splits["test"]["near_training"] >= 2
    assert splits["test"]["source_in_training"] >= 1
    assert splits["test"]["examples"] == 24
    assert "split test: " in caplog.text
    assert "of its 24 examples are also in the training data (1 exactly, " in caplog.text


def test_pretraining_counts_dev_texts_in_the_training_text(tiny_runs, tmp_path):
    texts = [" ".join(row["source"] for row in records(split)[:5]) for split in ("train", "dev")]
    for name, lines in (("train", texts), ("dev", [texts[0], "bo"])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in lines))
    config = tiny_runs.config("pretrain")
    parts = {
        name: [{"source": {"kind": "files", "path": str(tmp_path / f"{name}.jsonl")}}] for name in ("train", "dev")
    }
    splits = run_data.prepare_run_data(read_run_config(config | {"corpus": parts})).splits
    assert (splits["dev"]["examples"], splits["dev"]["in_training"]) == (2, 1)
    assert splits["train"]["digest"] != splits["dev"]["digest"]


def test_checkpoints_without_digests_resume(tmp_path):
    check_same_data(tmp_path, {"step": 3}, {"train": "sha256:1"})


def test_near_duplicates_that_are_not_counted_are_logged(monkeypatch, caplog):
    monkeypatch.setattr(overlap, "NEAR_LIMIT", 10)
    found = split_records.text_overlap(["a longer text"], ["a longer text!"])
    assert found["dev"] == (0, None, None)
    assert "split dev: its near duplicates in the training data were not counted" in caplog.text
