"""Runs in an object store, tested against an emulator: nothing is lost and nothing hangs."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finetune_scaling.data.tokenizers.loading import load_tokenizer
from finetune_scaling.errors import EXIT_FAILED, EXIT_USAGE, InUseError, WorkdirError
from finetune_scaling.evaluation.jobs import EvaluationOptions, plan_evaluations, run_evaluations
from finetune_scaling.experiments.run import run
from finetune_scaling.files import location, read_json, write_atomically
from finetune_scaling.inspection.directory import inspect
from finetune_scaling.planning.workload import planned_model
from finetune_scaling.reading import load_study
from finetune_scaling.runs import checkpoints as checkpoints_module
from finetune_scaling.runs import lease as lease_module
from finetune_scaling.runs.checkpoints import Checkpoints, checkpoint_steps
from finetune_scaling.runs.digest import digest
from finetune_scaling.runs.evaluators import TaskEvaluator
from finetune_scaling.runs.metrics import MEASURED, Metrics
from finetune_scaling.runs.run_config import read_run_config
from finetune_scaling.runs.run_directory import RunDirectory, lock_directory
from finetune_scaling.studies.execute import record_config
from finetune_scaling.studies.grid import read_study, runs
from finetune_scaling.training.step import State

pytest.importorskip("gcsfs", reason="needs the extra [gcs]")
pytest.importorskip("gcp_storage_emulator", reason="needs the extra [test]")

POINTS = Path(__file__).parents[2] / "docs" / "debian_points.csv"
SERVER = Path(__file__).parents[1] / "object_store.py"
STEPS = 60
LONGER = {"limits": {"max_steps": STEPS}, "checkpoint": {"every_steps": 7}, "evaluation": {"every_steps": 20}}


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


def settings(port: int) -> dict[str, str]:
    """Return the environment that points all libraries to an emulator on this machine."""
    address = f"http://127.0.0.1:{port}"
    return {
        "STORAGE_EMULATOR_HOST": address,
        "TENSORSTORE_GCS_HTTP_URL": address,
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # which sends a request to Google for every bucket
    }


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The URL of a bucket."""
    port = free_port()
    server = subprocess.Popen([sys.executable, SERVER, str(port)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings(port).items():
            patch.setenv(name, value)
        while True:
            assert server.poll() is None
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield "gs://bucket"
    server.kill()
    server.wait()


def start(*arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def outcome(directory: Any) -> Any:
    """Return all outputs of a run except times."""
    record = RunDirectory(directory).result
    metrics = RunDirectory(directory).metrics()
    rows = (directory / "evaluation" / "test.jsonl").read_text()
    metadata = checkpoints_module.read_metadata(directory / "checkpoints" / str(next(checkpoint_steps(directory))))
    return (
        {**record, "seconds": 0},
        [{name: value for name, value in line.items() if name not in MEASURED} for line in metrics],
        rows,
        metadata["arrays_digest"],
    )


@pytest.mark.slow
def test_a_killed_run_equals_an_uninterrupted_local_one(bucket, tiny_runs, tmp_path):
    run(tiny_runs.config("lora", **LONGER), tmp_path)
    url = f"{bucket}/killed/run"
    changes = [f"--config.{group}.{name}={value}" for group, block in LONGER.items() for name, value in block.items()]
    flags = [*(flag for flag in tiny_runs.flags("lora", Path("x")) if "workdir" not in flag), f"--workdir={url}"]
    process = start("finetune_scaling.train", *flags, *changes)
    while next(checkpoint_steps(url), 0) < 14 and process.poll() is None:
        time.sleep(0.02)
    assert process.poll() is None
    found = inspect(url)
    assert (found["kind"], found["state"], found["damage"]) == ("run", "started", None)
    assert found["checkpoint"]["step"] >= 14
    process.kill()
    process.communicate()
    process = start("finetune_scaling.train", *flags, *changes)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "resuming from step" in errors
    assert outcome(location(url)) == outcome(tmp_path)
    assert not (location(url) / ".lock").exists()
    assert content_without_times(url) == content_without_times(tmp_path)
    options = EvaluationOptions(out=location(f"{url}/evaluation/again.json"))
    evaluator = TaskEvaluator(examples=None, generate=0, untuned=False)
    assert not run_evaluations(plan_evaluations([url], lambda *_: {"test": evaluator}, options), options)
    assert read_json(options.out)["loss"] == RunDirectory(tmp_path).result["loss"]
    # The base model may be in the bucket, too.
    assert run(tiny_runs.config("lora", base={"run": copied(tiny_runs.base, bucket)}), tmp_path / "b")["best_step"]


def content_without_times(run: Any) -> Any:
    """Return the inspection of a run and its newest checkpoint without times, paths and file sizes."""
    found = inspect(run)
    checkpoint = inspect(location(run) / "checkpoints" / str(found["checkpoint"]["step"]))
    assert checkpoint == found["checkpoint"]
    checkpoint |= {"path": None, "file_bytes": None}
    result = found["result"] | {"seconds": None}
    return found | {"path": None, "checkpoint": checkpoint, "result": result, "last_report": None}


def copied(directory: Path, bucket: str, name: str = "copied") -> str:
    """Copy a local directory to the bucket; return its URL."""
    url = location(bucket) / name
    for path in directory.rglob("*"):
        if path.is_file() and path.name != ".lock":
            write_atomically(url / path.relative_to(directory).as_posix(), path.read_bytes())
        if path.parent.name == "checkpoints":
            write_atomically(url / path.relative_to(directory).as_posix() / "commit_success.txt", "")
    return os.fspath(url)


def test_a_remote_study_is_read_like_a_local_one(bucket, tiny_runs, tmp_path):
    config = tiny_runs.config("study")
    record_config(read_study(config), config, tmp_path)
    first = runs(read_study(config))[0].directory
    for path in (tmp_path / first, tmp_path / "bases" / "grammar" / "30k"):
        shutil.copytree(tiny_runs.base, path)
    shutil.copy(POINTS, tmp_path / "points.csv")
    here, there = load_study(tmp_path), load_study(copied(tmp_path, bucket, "study"))
    assert there.runs.drop(columns="path").equals(here.runs.drop(columns="path"))
    assert there.bases.drop(columns="path").equals(here.bases.drop(columns="path"))
    assert there.points.equals(here.points)
    assert there.table.settings.equals(here.table.settings)
    key = here.runs["loss"].idxmin()
    assert there.run(key).curves.equals(here.run(key).curves)
    base = there.base("grammar/30k")
    assert base.steps == here.base("grammar/30k").steps
    jax.tree.map(np.testing.assert_array_equal, base.params(), here.base("grammar/30k").params())


def test_planning_with_a_remote_base_and_tokenizer(bucket, tiny_runs):
    tokenizer = f"{bucket}/tokenizer"
    for path in tiny_runs.tokenizer.iterdir():
        write_atomically(f"{tokenizer}/{path.name}", path.read_bytes())
    assert inspect(tokenizer) == inspect(tiny_runs.tokenizer) | {"path": tokenizer}
    assert load_tokenizer(tokenizer).digest == load_tokenizer(tiny_runs.tokenizer).digest
    here, there = (read_run_config(tiny_runs.config("pretrain", **to)) for to in ({}, {"tokenizer": tokenizer}))
    assert planned_model(there) == planned_model(here)
    base = {"run": copied(tiny_runs.base, bucket)}
    here, there = (read_run_config(tiny_runs.config("lora", **to)) for to in ({}, {"base": base}))
    assert planned_model(there) == planned_model(here)


def state(step: int) -> State:
    return State({"kernel": jnp.arange(4000.0) % 7919 + step, "scale": jnp.ones(3) * step}, {"count": jnp.int32(step)})


def test_damaged_checkpoints_are_set_aside_and_incomplete_ones_ignored(bucket, caplog):
    url = f"{bucket}/damaged"
    checkpoints = Checkpoints(url, keep_steps=(1, 2))
    for step in (1, 2, 3):
        checkpoints.save(step, state(step), {})
    checkpoints.close()
    half = location(url) / "checkpoints" / "4"
    write_atomically(half / "state" / "manifest.ocdbt", b"half")
    for folder in ("state/d", "state/ocdbt.process_0/d"):
        for path in (location(url) / "checkpoints" / "3" / folder).iterdir():
            path.write_bytes(bytes(path.stat().length))
    assert list(checkpoint_steps(url)) == [3, 2, 1]
    reopened = Checkpoints(url, keep_steps=(1, 2))
    restored = reopened.restore_newest(state(0))
    assert restored.step == 2
    assert digest(restored.state) == digest(state(2))
    assert f"{url}/checkpoints/3: damaged" in caplog.text
    assert (location(url) / "checkpoints" / "damaged.3").exists()
    assert list(checkpoint_steps(url)) == reopened.steps()[::-1] == [2, 1]
    reopened.save(4, state(4), {})
    reopened.close()
    assert digest(Checkpoints(url).restore_newest(state(0)).state) == digest(state(4))


def test_read_errors_of_the_store_are_not_damage(bucket, monkeypatch):
    """Listing still works, and the reader's own error does not name the cause."""
    url = f"{bucket}/unreachable"
    checkpoints = Checkpoints(url)
    checkpoints.save(1, state(1), {})
    checkpoints.wait()

    def corrupted(*_: Any) -> None:
        raise ValueError("unexpected end of file")

    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionResetError("connection reset")

    monkeypatch.setattr(checkpoints_module, "_read_metadata", corrupted)
    monkeypatch.setattr(type(location(url)), "open", unreachable)
    with pytest.raises(WorkdirError, match=r"checkpoints/1: cannot be reached.*connection reset.*no file was changed"):
        checkpoints.restore_newest(state(0))
    monkeypatch.undo()
    assert checkpoints.restore_newest(state(0)).step == 1
    checkpoints.close()


def test_metrics_are_complete_after_each_flush_and_are_continued(bucket, monkeypatch):
    directory = RunDirectory(f"{bucket}/metrics")
    directory.rewind_metrics(0)
    for first in (1, 3):
        metrics = Metrics(directory.path)
        metrics.write(first, loss=0.1 + 0.2)
        metrics.flush()
        assert directory.metrics()[-1] == {"step": first, "loss": 0.1 + 0.2}
        metrics.write(first + 1, loss=1.0)
        assert len(directory.metrics()) == first
        metrics.close()
    assert [line["step"] for line in directory.metrics()] == [1, 2, 3, 4]
    directory.rewind_metrics(2)
    assert [line["step"] for line in directory.metrics()] == [1, 2]
    monkeypatch.setitem(sys.modules, "tensorboardX", ModuleType("tensorboardX"))  # which may not be installed
    with pytest.raises(WorkdirError, match="the log of TensorBoard is written to local directories only"):
        Metrics(directory.path, ["tensorboard"])


# Leases.


@pytest.fixture
def hasty(monkeypatch) -> None:
    """Shorten lease times to seconds."""
    for name, seconds in {"RENEWAL": 0.2, "EXPIRY": 2.0, "SETTLE": 0.1}.items():
        monkeypatch.setattr(lease_module, f"{name}_SECONDS", seconds)
    monkeypatch.setattr(lease_module, "_POLL_SECONDS", 0.1)


@pytest.mark.usefixtures("hasty")
def test_one_process_at_a_time_across_machines(bucket, monkeypatch):
    url = f"{bucket}/held"
    with lock_directory(url):
        with pytest.raises(InUseError, match=f"another process is working here .process {os.getpid()} on "):
            lock_directory(url).__enter__()
        with monkeypatch.context() as patch:
            patch.setattr(lease_module, "_machine", lambda: "another machine")
            with pytest.raises(InUseError):
                lock_directory(url).__enter__()
    with lock_directory(url):
        pass
    assert not (location(url) / ".lock").exists()


@pytest.mark.usefixtures("hasty")
def test_of_many_that_find_a_free_directory_one_has_it(bucket):
    url, count = f"{bucket}/contested", 8
    together, outcomes = threading.Barrier(count), []

    def attempt() -> None:
        together.wait()
        try:
            with lock_directory(url):
                outcomes.append("held")
                together.wait()  # until all others were refused
        except InUseError:
            outcomes.append("refused")
            together.wait()

    threads = [threading.Thread(target=attempt) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(outcomes) == ["held"] + ["refused"] * (count - 1)


def test_a_machine_without_an_identifier_equals_no_other(monkeypatch):
    def fails(_: str) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(lease_module.os, "readlink", fails)  # as without PID namespaces
    assert lease_module._machine() != lease_module._machine()


HOLDER = """
import sys, time
from finetune_scaling.runs import lease
lease.RENEWAL_SECONDS, lease.SETTLE_SECONDS = 0.2, 0.1
from finetune_scaling.runs.run_directory import lock_directory
with lock_directory(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(url: str) -> subprocess.Popen:
    command = [sys.executable, "-c", HOLDER, url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.usefixtures("hasty")
def test_a_dead_holders_lease_is_taken_at_once_locally_and_after_expiry_elsewhere(bucket, monkeypatch):
    url = f"{bucket}/dead"
    process = holder(url)
    with ExitStack() as stack:
        waited = threading.Timer(0.5, process.kill)
        waited.start()
        stack.enter_context(lock_directory(url, wait=True))
        process.communicate()
    process = holder(url)
    process.kill()
    process.communicate()
    lease = (location(url) / ".lock").read_text()
    began = time.monotonic()
    with lock_directory(url):
        assert time.monotonic() - began < lease_module.EXPIRY_SECONDS
    write_atomically(f"{url}/.lock", lease)
    monkeypatch.setattr(lease_module, "_machine", lambda: "another machine")
    began = time.monotonic()
    with lock_directory(url):
        assert time.monotonic() - began >= lease_module.EXPIRY_SECONDS


def test_a_holder_whose_lease_was_taken_over_exits_at_once(bucket):
    url = f"{bucket}/taken"
    process = holder(url)
    write_atomically(f"{url}/.lock", json.dumps({"holder": "another", "pid": 7, "host": "elsewhere"}))
    _, errors = process.communicate(timeout=20)
    assert process.returncode == EXIT_FAILED
    assert "error: gs://bucket/taken: process 7 on elsewhere took over this directory" in errors


# User errors.


def test_a_missing_bucket_raises_before_training(bucket, tiny_runs):
    flags = [flag for flag in tiny_runs.flags("lora", Path("x")) if "workdir" not in flag]
    process = start("finetune_scaling.train", *flags, "--workdir=gs://missing/run")
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out) == (EXIT_USAGE, "")
    assert errors.startswith("error: gs://missing/run/.lock: cannot be reached, read or written (FileNotFoundError")
    assert "check that the bucket exists" in errors
    assert errors.count("\n") == 1


class ReadOnlyStore(BaseHTTPRequestHandler):
    """An emulator that is empty and rejects writes."""

    def do_GET(self) -> None:
        self.send_error(404)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_error(403)

    def log_message(self, *_: Any) -> None:
        pass


HOLD = """
import sys
from finetune_scaling import errors, files
files.REMOTE_TIMEOUT_SECONDS = float(sys.argv[1])
from finetune_scaling.runs.run_directory import lock_directory
with errors.exit_on_user_error(), lock_directory("gs://bucket/run"):
    print("held")
"""


def hold(port: int, seconds: float) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", HOLD, str(seconds)]
    environment = {**os.environ, **settings(port)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def test_a_read_only_bucket_raises():
    server = HTTPServer(("127.0.0.1", 0), ReadOnlyStore)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    done = hold(server.server_port, 40)
    server.shutdown()
    server.server_close()
    assert (done.returncode, done.stdout) == (EXIT_USAGE, "")
    assert "run/.lock: cannot be reached, read or written" in done.stderr
    assert "your credentials may read and write it" in done.stderr


def test_a_store_that_does_not_answer_raises_after_a_timeout():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        done = hold(silent.getsockname()[1], 1)
    assert (done.returncode, done.stdout) == (EXIT_USAGE, "")
    assert "gs://bucket/run/.lock: no answer within 1 s; check the network and your credentials" in done.stderr


def test_inspecting_a_missing_bucket_or_folder_raises(bucket):
    with pytest.raises(WorkdirError, match=r"gs://bucket/nothing: no such directory"):
        inspect(f"{bucket}/nothing")
    with pytest.raises(WorkdirError, match=r"gs://missing/run: (no such directory|cannot be reached)"):
        inspect("gs://missing/run")


def test_other_url_schemes_raise(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WorkdirError, match="ftp://host/run: ftp://"):
        RunDirectory("ftp://host/run")
    assert list(tmp_path.iterdir()) == []
