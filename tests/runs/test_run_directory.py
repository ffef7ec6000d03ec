"""Run directory: one config, one process at a time, and files that a kill cannot corrupt."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_scaling.errors import InUseError, WorkdirError
from finetune_scaling.runs.run_directory import RunDirectory, lock_directory

CONFIG = {"name": "a", "schedule": {"learning_rate": 0.1}, "base": {"run": "/x", "step": None}, "tokenizer": "/t"}

HOLDER = """
import sys, time
from finetune_scaling.runs.run_directory import lock_directory
with lock_directory(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def held_by_another_process(directory: Path) -> Iterator[subprocess.Popen]:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(directory)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_directory_accepts_one_config(tmp_path):
    directory = RunDirectory(tmp_path)
    directory.write_config(CONFIG)
    directory.rewind_metrics(0)  # as training does at its start
    directory.write_config(dict(reversed(CONFIG.items())))  # the order of fields does not matter
    assert directory.config == CONFIG
    other = {**CONFIG, "schedule": {"learning_rate": 0.2}, "seed": 1}
    with pytest.raises(WorkdirError, match=r"differ in schedule.learning_rate, seed\)"):
        directory.write_config(other)
    assert directory.config == CONFIG


def test_a_soft_prompt_of_an_older_run_stays_causal(tmp_path):
    """New records say whether it attends to the input, since older ones, which do not, were trained without."""
    config = {**CONFIG, "method": {"name": "prompt", "length": 3}}
    new, old = RunDirectory(tmp_path / "new"), RunDirectory(tmp_path / "old")
    new.write_config(config)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.json").write_text(json.dumps(config))
    assert [each.config["method"]["attends_to_input"] for each in (new, old)] == [True, False]


def test_a_wrong_config_can_be_replaced_before_training(tmp_path):
    directory = RunDirectory(tmp_path)
    directory.write_config({**CONFIG, "task": {"name": "wmt14_en_d"}})
    directory.write_config(CONFIG)
    assert directory.config == CONFIG


def test_paths_of_tokenizer_and_base_may_change(tmp_path):
    directory = RunDirectory(tmp_path)
    directory.write_config(CONFIG)
    directory.rewind_metrics(0)
    moved = {**CONFIG, "base": {"run": "/elsewhere", "step": None}, "tokenizer": "/there"}
    directory.write_config(moved)
    assert directory.config == moved
    with pytest.raises(WorkdirError, match=r"base.step"):
        directory.write_config({**CONFIG, "base": {"run": "/x", "step": 3}})


def test_paths_of_tokenizer_and_base_are_recorded_as_absolute_ones(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.chdir(tmp_path)
    directory = RunDirectory(tmp_path / "run")
    (tmp_path / "run").mkdir()
    directory.write_config({**CONFIG, "base": {"run": "models/llama"}, "tokenizer": "~/t"})
    assert directory.config == {**CONFIG, "base": {"run": f"{tmp_path}/models/llama"}, "tokenizer": "/home/me/t"}
    directory.write_config({**CONFIG, "base": {"run": "gs://bucket/base"}, "tokenizer": ""})
    assert directory.config == {**CONFIG, "base": {"run": "gs://bucket/base"}, "tokenizer": ""}


def test_directories_of_data_are_recorded_as_absolute_ones_and_may_change_until_the_run_is_finished(
    tmp_path, monkeypatch
):
    def config(data: str, prepared: str) -> dict:
        return {**CONFIG, "task": {"sources": {"data_dir": data}}, "corpus": {"prepared": prepared}}

    monkeypatch.chdir(tmp_path)
    directory = RunDirectory(tmp_path)
    directory.write_config(config("data", "gs://bucket/x"))
    assert directory.config == config(f"{tmp_path}/data", "gs://bucket/x")
    directory.rewind_metrics(0)
    directory.write_config(config("moved", "shards"))
    assert directory.config == config(f"{tmp_path}/moved", f"{tmp_path}/shards")
    directory.write_result({"loss": 1.0})
    directory.check_config(config("moved", "./shards"))
    with pytest.raises(WorkdirError, match=r"differ in corpus\.prepared, task\.sources\.data_dir\)"):
        directory.check_config(config("data", "/shards"))


def test_files_of_a_run_without_config_are_not_overwritten(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(WorkdirError, match="has files of a run but no config"):
        RunDirectory(tmp_path).write_config(CONFIG)


def test_other_or_unreadable_directories_raise(tmp_path):
    with pytest.raises(WorkdirError, match="not the directory of a run"):
        _ = RunDirectory(tmp_path).config
    (tmp_path / "config.json").write_text('{"name": ')
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(WorkdirError, match=r"config.json: not valid JSON \(.*\); restore an intact copy"):
        RunDirectory(tmp_path).write_config(CONFIG)


def test_a_result_exists_only_for_a_finished_run(tmp_path):
    directory = RunDirectory(tmp_path)
    assert directory.result is None
    directory.write_result({"loss": 1.5, "text": "ü"})
    assert directory.result == {"loss": 1.5, "text": "ü"}
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_rewinding_metrics_removes_later_steps_and_a_truncated_last_line(tmp_path):
    directory = RunDirectory(tmp_path)
    directory.rewind_metrics(0)
    assert directory.metrics() == []
    lines = [json.dumps({"step": step, "loss": step / 3}) for step in range(1, 6)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n" + '{"step": 6, "lo')
    assert [line["step"] for line in directory.metrics()] == [1, 2, 3, 4, 5]
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b"\xff\x00")  # possible after a crash of the machine
    assert [line["step"] for line in directory.metrics()] == [1, 2, 3, 4, 5]
    directory.rewind_metrics(3)
    assert (tmp_path / "metrics.jsonl").read_text() == "\n".join(lines[:3]) + "\n"


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_truncated_metrics_are_read_up_to_the_last_valid_line(tmp_path_factory, data):
    directory = RunDirectory(tmp_path_factory.mktemp("cut"))
    steps = data.draw(st.lists(st.integers(0, 200), max_size=6).map(sorted))
    text = "".join(json.dumps({"step": step, "dev_loss": 0.1}) + "\n" for step in steps)
    cut = data.draw(st.integers(0, len(text)))
    (directory.path / "metrics.jsonl").write_text(text[:cut])
    read = [line["step"] for line in directory.metrics()]
    assert read == steps[: len(read)]
    assert len(read) >= text[:cut].count("\n")


def test_one_process_at_a_time(tmp_path):
    with held_by_another_process(tmp_path) as process:
        with pytest.raises(InUseError, match=f"{tmp_path}: another process is working here"), lock_directory(tmp_path):
            pytest.fail("two processes hold one directory")
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        with lock_directory(tmp_path):  # the system releases the lock of a dead process
            pass


def test_a_waiting_process_acquires_the_released_lock(tmp_path):
    with held_by_another_process(tmp_path) as process:
        killer = subprocess.Popen([sys.executable, "-c", f"import os, time; time.sleep(.3); os.kill({process.pid}, 9)"])
        with lock_directory(tmp_path, wait=True):
            assert process.wait() == -signal.SIGKILL
        assert killer.wait() == 0


def test_a_file_system_without_locks_raises(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(WorkdirError, match="its file system has no locks"):
        lock_directory(tmp_path).__enter__()


def test_the_lock_is_released_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), lock_directory(tmp_path / "new" / "folder"):
        _ = 1 / 0
    with lock_directory(tmp_path / "new" / "folder"):
        pass
