"""Inspection: correct content without reading arrays, also of directories in progress, and errors for others."""

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import orbax.checkpoint as ocp
import pytest

from finetune_scaling import configuration
from finetune_scaling.data.corpus import CorpusPart
from finetune_scaling.data.preparation import directory as preparation_directory
from finetune_scaling.data.preparation.settings import Preparation
from finetune_scaling.data.preparation.shards import write_shard
from finetune_scaling.data.tokenizers.loading import load_tokenizer
from finetune_scaling.errors import EXIT_USAGE, CheckpointError, WorkdirError
from finetune_scaling.experiments.run import run as train
from finetune_scaling.inspection import run as inspection_of_runs
from finetune_scaling.inspection.directory import inspect
from finetune_scaling.inspection.formatting import format_inspection
from finetune_scaling.runs.checkpoints import read_checkpoint, read_metadata
from finetune_scaling.runs.run_directory import RunDirectory
from finetune_scaling.studies.execute import record_config
from finetune_scaling.studies.grid import read_study, runs

METHODS = ("full", "lora", "prompt")


@pytest.fixture(scope="module")
def trained(tiny_runs, tmp_path_factory) -> dict[str, Path]:
    """A finished run of each method, in directories that tests must not change."""
    folders = {method: tmp_path_factory.mktemp(method) for method in METHODS}
    for method, folder in folders.items():
        train(tiny_runs.config(method, evaluation={"generate_examples": 2}), folder)
    return folders


def command(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "finetune_scaling.inspect", *arguments], capture_output=True, text=True
    )


@pytest.mark.parametrize("method", METHODS)
def test_content_of_a_checkpoint_matches_its_arrays(trained, tiny_runs, method):
    step = inspect(trained[method])["checkpoints"]["steps"][-1]
    where = trained[method] / "checkpoints" / str(step)
    arrays, metadata = read_checkpoint(where)
    found = inspect(where)
    for part, rows in found["arrays"].items():
        shown = {row["name"]: (row["shape"], row["dtype"]) for row in rows}
        stored = {name.replace(".", "/"): leaf for name, leaf in arrays.items()}
        assert shown == {
            name.removeprefix(f"{part}/"): (list(leaf.shape), str(leaf.dtype))
            for name, leaf in stored.items()
            if name.startswith(f"{part}/")
        }
        size = sum(leaf.nbytes for name, leaf in stored.items() if name.startswith(f"{part}/"))
        assert found["array_bytes"][part] == size
    base = sum(
        leaf.size
        for name, leaf in read_checkpoint(tiny_runs.base / "checkpoints" / "20")[0].items()
        if "trainable" in name
    )
    trained_parameters = sum(leaf.size for name, leaf in arrays.items() if name.startswith("trainable."))
    counts = found["parameters"]
    assert (counts["base"], counts["trainable"]) == (base, trained_parameters)
    assert counts["frozen"] == (0 if method == "full" else base)
    assert counts["added"] == (0 if method == "full" else trained_parameters)
    assert found["file_bytes"] == sum(path.stat().st_size for path in where.rglob("*") if path.is_file())
    assert (found["step"], found["pet_size"]) == (step, {"full": None, "lora": 2, "prompt": 3}[method])
    base_metadata = read_metadata(tiny_runs.base / "checkpoints" / "20")
    assert found["digests"] == {
        "arrays": metadata["arrays_digest"],
        "base": base_metadata["arrays_digest"],
        "tokenizer": load_tokenizer(tiny_runs.tokenizer).digest,
    }


@pytest.mark.parametrize("method", METHODS)
def test_content_of_a_run_matches_its_record(trained, method):
    found, record = inspect(trained[method]), RunDirectory(trained[method]).result
    assert (found["kind"], found["state"], found["method"]["name"]) == ("run", "done", method)
    assert found["result"] == record
    assert found["dev_losses"] == record["dev_losses"]
    assert (found["best_step"], found["dev_loss"]) == (record["best_step"], record["dev_loss"])
    kept = sorted(int(path.name) for path in (trained[method] / "checkpoints").iterdir())
    assert (found["checkpoints"]["steps"], found["checkpoint"]["step"]) == (kept, kept[-1])
    assert found["evaluations"] == ["test.jsonl"]
    text = format_inspection(found)
    assert text.splitlines()[0] == f"run{'':<23}{trained[method]}"
    signature = record["tests"]["test"]["metrics"]["bleu"]["signature"]
    assert f"{record['loss']:.4f} nats per token" in text
    assert signature in text


def test_no_array_is_read(trained, monkeypatch):
    complete = inspect(trained["lora"])
    monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "restore", lambda *_, **__: pytest.fail("arrays were read"))
    with pytest.raises(pytest.fail.Exception):
        read_checkpoint(Path(complete["checkpoint"]["path"]))
    assert inspect(trained["lora"]) == complete


def test_a_run_in_progress(trained, tmp_path):
    run = Path(shutil.copytree(trained["lora"], tmp_path / "run"))
    complete = inspect(run)
    (run / "result.json").unlink()
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:9])
    (run / "checkpoints" / "15.orbax-checkpoint-tmp").mkdir()
    found = inspect(run)
    assert (found["state"], found["result"]) == ("started", None)
    assert found["checkpoint"] == complete["checkpoint"]
    assert found["checkpoints"]["steps"] == complete["checkpoints"]["steps"]
    assert found["last_report"] == json.loads(lines[-2])
    assert "started, last metrics of step" in format_inspection(found)
    shutil.rmtree(run / "checkpoints")
    (run / "metrics.jsonl").unlink()
    found = inspect(run)
    assert (found["checkpoint"], found["checkpoints"]["steps"], found["best_step"]) == (None, [], None)


def test_a_damaged_checkpoint_is_shown(trained, tmp_path):
    run = Path(shutil.copytree(trained["lora"], tmp_path / "run"))
    step = inspect(run)["checkpoint"]["step"]
    (run / "checkpoints" / str(step) / "facts" / "metadata").write_text("{")
    (run / "checkpoints" / "damaged.3").mkdir()
    found = inspect(run)
    assert found["checkpoint"] is None
    assert f"checkpoints/{step}: damaged" in found["damage"]
    assert found["checkpoints"]["set_aside"] == ["damaged.3"]
    assert "damaged.3" in format_inspection(found)
    with pytest.raises(CheckpointError, match=f"checkpoints/{step}: damaged"):
        inspect(run / "checkpoints" / str(step))


def test_a_base_and_a_tokenizer(tiny_runs):
    base, tokenizer = inspect(tiny_runs.base), inspect(tiny_runs.tokenizer)
    assert (base["kind"], base["state"], base["base"]) == ("base", "done", None)
    assert base["checkpoints"]["steps"] == [10, 20]
    assert base["checkpoint"]["digests"]["tokenizer"] == tokenizer["digest"]
    assert (tokenizer["vocab_size"], tokenizer["sentinels"]) == (256, 16)
    assert tokenizer["record"]["config"]["max_sentences"] == 1000


def test_a_study_in_progress(trained, tiny_runs, tmp_path):
    config = tiny_runs.config("study")
    study = read_study(config)
    record_config(study, config, tmp_path)
    done, failed, started, *rest = runs(study)
    for run in (done, failed, started):
        (tmp_path / run.directory).mkdir(parents=True)
        (tmp_path / run.directory / "config.json").write_text("{}")
    shutil.copy(trained["full"] / "result.json", tmp_path / done.directory / "result.json")
    (tmp_path / failed.directory / "failure.json").write_text('{"error": "no such file", "kind": "DataError"}')
    found = inspect(tmp_path)
    assert found["states"] == {"done": 1, "started": 1, "failed": 1, "waiting": len(rest)}
    assert sum(sum(states.values()) for states in found["by_method"].values()) == len(runs(study))
    assert {base["state"] for base in found["bases"]} == {"waiting"}
    by_name = {run["directory"]: run for run in found["runs"]}
    assert by_name[done.directory]["loss"] == RunDirectory(trained["full"]).result["loss"]
    assert by_name[failed.directory]["error"] == "no such file"
    assert f"{failed.directory}: no such file" in format_inspection(found)


def test_a_corpus_in_progress_and_finished(tiny_runs, tmp_path):
    tiny = runpy.run_path(str(Path(__file__).parents[1] / "tiny.py"))
    parts = tuple(configuration.build(CorpusPart, part, "part") for part in tiny["corpus"]()["train"])
    preparation = Preparation(parts, (400,), load_tokenizer(tiny_runs.tokenizer), chunk_tokens=31, shards=2)
    preparation_directory._record_settings(preparation, tmp_path)
    write_shard(preparation, 0, tmp_path)
    found = inspect(tmp_path)
    assert (found["kind"], found["state"], found["shards_made"]) == ("corpus", "started", 1)
    assert "1 of 2 shards" in format_inspection(found)
    write_shard(preparation, 1, tmp_path)
    statistics = preparation_directory._write_statistics(preparation, tmp_path)
    found = inspect(tmp_path)
    assert (found["state"], found["shards_made"], found["statistics"]) == ("done", 2, statistics)
    assert found["bytes"] == sum(path.stat().st_size for path in (tmp_path / "shards").glob("*.array_record"))
    assert f"{statistics['text_tokens']:,} tokens" in format_inspection(found)


def test_the_command_prints_json(trained):
    done = command(str(trained["lora"]), "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == json.loads(json.dumps(inspect(trained["lora"])))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such directory"),
        (lambda path: path.write_text("x"), "is a file; give a directory"),
        (lambda path: path.mkdir(), "is not a checkpoint .*; it is empty"),
        (lambda path: (path / "runs").mkdir(parents=True), "is not a checkpoint .*; it holds runs"),
    ],
)
def test_other_directories_raise(make, message, tmp_path):
    make(tmp_path / "x")
    with pytest.raises(WorkdirError, match=f"x: {message}"):
        inspect(tmp_path / "x")


def test_usage_and_errors_of_the_command(tmp_path):
    for arguments, said in (((), "give one PATH"), ((str(tmp_path),), "it is empty")):
        done = command(*arguments)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (EXIT_USAGE, "", 1)
        assert said in done.stderr


def test_a_checkpoint_deleted_while_it_is_read_is_not_damaged(trained, tmp_path, monkeypatch):
    run, there = Path(shutil.copytree(trained["lora"], tmp_path / "run")), iter([3, 4, 5])
    monkeypatch.setattr(inspection_of_runs, "checkpoint_steps", lambda _: iter([next(there, 5)]))

    def read(where):
        if where.name != "5":
            raise CheckpointError(f"{where}: damaged")
        return {"step": 5, "best_step": None, "dev_loss": None}

    monkeypatch.setattr(inspection_of_runs, "inspect_checkpoint", read)
    found = inspect(run)
    assert (found["damage"], found["checkpoint"]["step"]) == (None, 5)
