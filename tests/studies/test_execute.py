"""Executing a study in one process: sharing of bases, skipped runs, failures, and errors that end the study."""

import csv
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from finetune_scaling.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    MetricError,
    Preempted,
    TrainingError,
    WorkdirError,
)
from finetune_scaling.laws.points.bases import find_bases
from finetune_scaling.laws.points.table import read_points
from finetune_scaling.runs.run_directory import RunDirectory, lock_directory, run_state
from finetune_scaling.studies import execute as execute_module
from finetune_scaling.studies import listing, tables
from finetune_scaling.studies.execute import execute, pending_runs, record_config
from finetune_scaling.studies.grid import read_study, runs
from finetune_scaling.training.compilations import compiled_programs


def small(tiny_runs, examples=(10, 20), methods=("full", "lora"), **changes: Any) -> dict[str, Any]:
    """Return the tiny study at one size and without its other factors."""
    config = tiny_runs.config("study", families={"grammar": {"sizes": ["30k"]}}, **changes)
    grids = config["tasks"]["translation"]["methods"]
    grid_fields = {"finetune_examples": list(examples), "held_out_examples": [], "factors": ["model"]}
    config["tasks"]["translation"]["methods"] = {name: {**grids[name], **grid_fields} for name in methods}
    return config


@pytest.fixture(scope="module")
def done(tiny_runs, tmp_path_factory) -> Path:
    """A finished small study; read-only."""
    workdir = tmp_path_factory.mktemp("done")
    config = small(tiny_runs)
    summary = execute(read_study(config), config, workdir)
    assert (summary.done, summary.failed, summary.in_use) == (4, 0, 0)
    assert summary.text().startswith("4 runs trained, ") or "steps/s" in summary.text()
    return workdir


@pytest.fixture
def started(done, tmp_path) -> Path:
    """The directory of a new study with the tokenizer and the base of `done`."""
    for part in ("tokenizers", "bases"):
        shutil.copytree(done / part, tmp_path / part)
    return tmp_path


def test_finished_runs_are_not_repeated(tiny_runs, done, monkeypatch):
    monkeypatch.setattr(execute_module, "train", lambda *_: pytest.fail("something was trained again"))
    config = small(tiny_runs)
    assert execute(read_study(config), config, done) == execute_module.ExecutionSummary()


def test_a_study_records_paths_that_do_not_depend_on_the_directory(tiny_runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = small(tiny_runs)
    corpus = config["families"]["grammar"]["pretrain"]["corpus"]
    parts = [{"source": {"kind": "files", "path": "a.jsonl"}}]
    family = {**config["families"]["grammar"], "pretrain": {"corpus": {**corpus, "train": parts, "prepared": "shards"}}}
    config["families"] = {"grammar": {**family, "tokenizer": "tokenizer"}}
    execute_module.record_config(read_study(config), config, tmp_path / "study")
    recorded = json.loads((tmp_path / "study" / "config.json").read_text())["families"]["grammar"]
    assert recorded["tokenizer"] == f"{tmp_path}/tokenizer"
    assert recorded["pretrain"]["corpus"]["prepared"] == f"{tmp_path}/shards"
    (part,) = recorded["pretrain"]["corpus"]["train"]
    assert part["source"] == {"kind": "files", "path": "a.jsonl", "data_dir": str(tmp_path)}


def test_a_base_is_pretrained_once_and_its_records_agree(tiny_runs, done):
    assert [path.name for path in (done / "bases" / "grammar").iterdir() if path.name != "30k.turn"] == ["30k"]
    base = RunDirectory(done / "bases" / "grammar" / "30k").result
    assert base["tokens_seen"] == 5120
    records = [RunDirectory(done / run.directory).result for run in runs(read_study(small(tiny_runs)))]
    assert {record["pretrain_tokens"] for record in records} == {5120}
    assert len({record["base_digest"] for record in records}) == 1
    assert {record["tokenizer_sha256"] for record in records} == {base["tokenizer_sha256"]}
    assert [record["finetune_examples"] for record in records] == [10, 20, 10, 20]


def test_more_examples_and_seeds_compile_no_programs(tiny_runs, done, started):
    before = compiled_programs()
    config = small(tiny_runs, examples=(10, 15, 30, 60), seeds=[0, 1])
    assert execute(read_study(config), config, started).done == 16
    assert compiled_programs() == before
    # The same setting in another study is the same run.
    name = "runs/translation/lora/30k_t5120_p2_d10_s0"
    left, right = (RunDirectory(folder / name).result for folder in (done, started))
    assert {**left, "seconds": 0} == {**right, "seconds": 0}


def test_a_failed_run_is_recorded_and_the_others_continue(tiny_runs, started, caplog):
    config = small(tiny_runs, examples=(10, 61), methods=("full",))
    study = read_study(config)
    with caplog.at_level(logging.ERROR, logger="finetune_scaling"):
        summary = execute(study, config, started)
    assert (summary.done, summary.failed) == (1, 1)
    good, bad = (started / run.directory for run in runs(study))
    assert (run_state(good), run_state(bad)) == ("done", "failed")
    failure = json.loads((bad / "failure.json").read_text())
    assert failure["kind"] == "DataError"
    assert failure["error"].startswith("finetune_examples = 61, but the data has 60")
    assert "finetune_examples = 61" in caplog.text
    assert [row["state"] for row in listing.list_runs(study, started)] == ["done", "failed"]
    assert tables.write_points(study, started) == 1
    again = execute(study, config, started)
    assert (again.failed, again.skipped) == (0, 1)  # the same data would fail alike
    with pytest.raises(DataError, match=r"methods.full: finetune_examples = 61"):
        execute(study, config, started, retry_failed=True)


@pytest.mark.parametrize(
    ("error", "is_repeated"),
    [
        (ConfigError("no such field"), False),
        (DataError("no such file"), False),
        (TrainingError("the loss is not finite"), False),
        (CheckpointError("damaged"), True),
        (MetricError("the program ended"), True),
        (MemoryError("RESOURCE_EXHAUSTED"), True),
        (OSError("connection lost"), True),
    ],
)
def test_only_failures_that_may_pass_are_tried_again(error, is_repeated, tiny_runs, started, monkeypatch):
    config = small(tiny_runs, examples=(10,), methods=("full",))
    study = read_study(config)
    calls = []

    def train(*_: Any) -> None:
        calls.append(1)
        raise error

    monkeypatch.setattr(execute_module, "train", train)
    assert execute(study, config, started).failed == 1
    second = execute(study, config, started)
    assert (len(calls), second.failed, second.skipped) == ((2, 1, 0) if is_repeated else (1, 0, 1))
    assert list(pending_runs(study, started)) == (runs(study) if is_repeated else [])
    execute(study, config, started, retry_failed=True)
    assert len(calls) == (3 if is_repeated else 2)


def test_a_bug_is_recorded_with_its_traceback_until_fixed(tiny_runs, started, monkeypatch):
    config = small(tiny_runs, examples=(10,), methods=("full",))
    study = read_study(config)
    with monkeypatch.context() as patch:
        patch.setattr(execute_module, "finetuning_config", lambda *_: 1 / 0)
        assert execute(study, config, started).failed == 1
    directory = started / runs(study)[0].directory
    assert "ZeroDivisionError" in json.loads((directory / "failure.json").read_text())["traceback"]
    assert execute(study, config, started).done == 1
    assert not (directory / "failure.json").exists()


@pytest.mark.parametrize("error", [WorkdirError("the disk is full"), Preempted("saved")])
def test_errors_that_concern_all_runs_end_the_study(error, tiny_runs, started, monkeypatch):
    config = small(tiny_runs)

    def train(*_: Any) -> None:
        raise error

    monkeypatch.setattr(execute_module, "train", train)
    with pytest.raises(type(error)):
        execute(read_study(config), config, started)
    assert not list(started.rglob("failure.json"))


def test_runs_locked_by_another_process_are_skipped(tiny_runs, started):
    config = small(tiny_runs, examples=(10,))
    study = read_study(config)
    first, second = (started / run.directory for run in runs(study))
    with lock_directory(first):
        summary = execute(study, config, started)
    assert (summary.done, summary.in_use, summary.failed) == (1, 1, 0)
    assert (run_state(first), run_state(second)) == ("waiting", "done")


def test_a_run_whose_base_is_being_pretrained_is_deferred(tiny_runs, started, monkeypatch):
    config = small(tiny_runs, examples=(10,))
    config["families"]["grammar"]["sizes"] = ["30k", "100k"]
    study = read_study(config)
    base_lock = lock_directory(started / "bases" / "grammar" / "30k.turn")
    trained = []

    def train(config: dict[str, Any], directory: Path) -> dict[str, Any]:
        trained.append(str(Path(directory).relative_to(started)))
        # Both runs of 100k, each after its base, which leaves no record here: the other process ends.
        if len(trained) == 4:
            base_lock.__exit__(None, None, None)
        return {"steps": 1, "seconds": 1.0}

    monkeypatch.setattr(execute_module, "train", train)
    base_lock.__enter__()
    summary = execute(study, config, started)
    sizes = ["100k" if "100k" in name else "30k" for name in trained]
    assert (summary.done, summary.in_use, summary.failed) == (4, 0, 0)
    assert sizes == ["100k"] * 4 + ["30k"] * 2


def test_a_study_may_be_extended_but_existing_runs_may_not_change(tiny_runs, done):
    other_base = small(tiny_runs)
    other_base["families"]["grammar"]["pretrain"]["schedule"]["learning_rate"] = 0.5
    other_run = small(tiny_runs)
    other_run["tasks"]["translation"]["methods"]["lora"]["config"]["schedule"] = {"learning_rate": 0.5}
    for config, directory in ((other_base, "bases/grammar/30k"), (other_run, "runs/translation/lora/30k")):
        message = rf"{directory}\S*: holds a run of another config \(they differ in schedule.learning_rate\)"
        with pytest.raises(WorkdirError, match=message):
            record_config(read_study(config), config, done)
    for config in (small(tiny_runs, seeds=[0, 5], notes=["more"]), small(tiny_runs)):
        record_config(read_study(config), config, done)
        assert json.loads((done / "config.json").read_text()) == config


def test_a_failed_base_is_tried_once(tiny_runs, tmp_path, monkeypatch):
    tried = []

    def train(config: dict[str, Any], directory: Path) -> None:
        tried.append(directory)
        raise TrainingError("the loss is nan at step 3")

    monkeypatch.setattr(execute_module, "train", train)
    config = small(tiny_runs)
    assert execute(read_study(config), config, tmp_path).failed == 4
    assert len(tried) == 1
    assert len(list(tmp_path.rglob("failure.json"))) == 4


def test_bases_without_a_dev_loss_have_no_table_that_the_fit_would_refuse(tiny_runs, done, tmp_path):
    study, workdir = read_study(small(tiny_runs)), Path(shutil.copytree(done, tmp_path / "study"))
    assert tables.write_bases(study, workdir) == len(find_bases(workdir / "points.csv", "total")) > 0
    record = workdir / "bases" / "grammar" / "30k" / "result.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "dev_losses": {}}))
    assert tables.write_tables(study, workdir) == (4, {})
    assert find_bases(workdir / "points.csv", "total") is None


def test_points_have_the_digests_of_the_data_and_the_share_that_is_trained_on(tiny_runs, done):
    study = read_study(tiny_runs.config("study"))
    tables.write_points(study, done)
    rows = list(csv.DictReader((done / "points.csv").open()))
    results = [RunDirectory(done / run.directory).result for run in runs(study)]
    records = [result["splits"] for result in results if result]
    for name in ("train", "dev", "test"):
        assert {row[f"{name}_digest"] for row in rows} == {record[name]["digest"] for record in records}
    dev = [record["dev"] for record in records]
    shares = {(one["in_training"] + one["near_training"]) / one["examples"] for one in dev}
    assert {float(row["dev_in_training"]) for row in rows} == shares


def test_points_have_no_share_where_near_duplicates_were_not_counted():
    split = {"digest": "sha256:1", "examples": 4, "in_training": 1}
    columns = tables._data_columns(
        {"splits": {"dev": {**split, "near_training": 1}, "test": {**split, "near_training": None}}}
    )
    assert columns["dev_in_training"] == 0.5
    assert "test_in_training" not in columns


def test_a_diverged_run_of_a_study_does_not_block_its_report(tiny_runs, done, tmp_path):
    study, workdir = read_study(small(tiny_runs)), Path(shutil.copytree(done, tmp_path / "study"))
    record = workdir / runs(study)[0].directory / "result.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "loss": 30.0}))
    assert tables.write_points(study, workdir) == 4
    found = read_points(workdir)
    assert len(found.runs) == 3
    assert any("line 2: the loss is 30.0; no fit" in warning for warning in found.warnings)


def test_points_are_the_records_with_x_by_factor(tiny_runs, done, tmp_path):
    study = read_study(small(tiny_runs))
    assert tables.write_points(study, done) == 4
    text = (done / "points.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    assert list(rows[0])[:8] == [
        *("task", "method", "factor", "x", "finetune_examples", "loss", "seed", "held_out"),
    ]
    for run, row in zip(runs(study), rows, strict=True):
        record = RunDirectory(done / run.directory).result
        assert float(row["loss"]) == record["loss"]  # to the last bit
        assert (row["method"], row["factor"], row["held_out"]) == (run.setting.method, "model", "0")
        assert int(row["x"]) == int(row["parameters"]) == record["parameters"]
        assert row["pet_size"] == ("" if run.setting.pet_size is None else str(run.setting.pet_size))
        assert float(row["flops"]) == record["flops"]
        assert row["stopped_by"] == "max_steps"
    assert "seconds" not in rows[0]  # a table of the same study is the same to the byte
    tables.write_points(study, done)
    assert (done / "points.csv").read_text() == text


def test_listing_has_states_costs_and_expected_times(tiny_runs, done):
    config = small(tiny_runs, examples=(10, 20, 40), methods=("full",))
    rows = listing.list_runs(read_study(config), done)
    assert [row["state"] for row in rows] == ["done", "done", "waiting"]
    assert all(isinstance(value, str | int | float | bool | None) for row in rows for value in row.values())
    assert rows[0]["seconds"] > 0
    assert rows[2]["seconds"] is None
    assert rows[2]["expected_seconds"] > 0
    assert rows[0]["flops"] == rows[2]["flops"]  # all three end at max_steps


def test_baselines_are_scored_on_the_generated_examples(tiny_runs, done):
    config = small(tiny_runs)
    config["tasks"]["translation"]["finetune"]["evaluation"]["generate_examples"] = 5
    facts = tables.write_study_metadata(read_study(config), done)
    assert facts == json.loads((done / "study.json").read_text())
    assert facts["name"] == "tiny"
    assert {"bleu", "chrf"} <= facts["baselines"]["translation"].keys()
    assert facts["metrics"] == {"translation": "bleu"}


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_finished_study_keeps_the_baselines_of_the_data_that_its_results_are_of(
    tiny_runs, done, tmp_path, split, caplog
):
    workdir = Path(shutil.copytree(done, tmp_path / "study"))
    study, digests = read_study(small(tiny_runs)), json.loads((workdir / "data.json").read_text())
    recorded = {**tables.write_study_metadata(study, workdir), "baselines": {"translation": {"bleu": 12.5}}}
    assert not caplog.records
    (workdir / "study.json").write_text(json.dumps(recorded))
    digests["tasks.translation"][split] = "sha256:other"
    (workdir / "data.json").write_text(json.dumps(digests))
    assert tables.write_study_metadata(study, workdir) == recorded
    assert f"tasks.translation: the data of split {split} (grammar translation A-B, split '{split}')" in caplog.text
    (workdir / "study.json").unlink()
    assert tables.write_study_metadata(study, workdir)["baselines"] == {"translation": {}}
