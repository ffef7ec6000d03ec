"""A command in several processes gives the results of one process, and all of them end if one fails."""

import json
import re
import runpy
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from finetune_scaling.configuration import plain
from finetune_scaling.errors import EXIT_PREEMPTED, ConfigError
from finetune_scaling.experiments.run import run as train
from finetune_scaling.runs.checkpoint_errors import DamagedCheckpointError
from finetune_scaling.runs.run_directory import RunDirectory
from finetune_scaling.sharding.processes import _outcome, distributed_program
from finetune_scaling.studies.execute import execute
from finetune_scaling.studies.grid import read_study
from finetune_scaling.studies.tables import write_points

TESTS = Path(__file__).parents[1]
DECODED = 7  # an odd number, for two and four processes


def command(tiny_runs, method: str, workdir: Path, *flags: str) -> list[str]:
    decode = f"--config.evaluation.generate_examples={DECODED}"
    return ["-m", "finetune_scaling.train", *tiny_runs.flags(method, workdir), decode, *flags]


def rows(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "evaluation" / "test.jsonl").read_text().splitlines()]


def test_an_error_of_the_primary_process_keeps_its_type():
    def damaged() -> None:
        raise DamagedCheckpointError("7: damaged")

    assert _outcome(damaged) == {"error": "CheckpointError", "message": "7: damaged"}
    assert _outcome(lambda: 3) == {"value": 3}


def numbers(value) -> list[float]:
    """Return all numbers in nested dicts."""
    if isinstance(value, dict):
        return [number for entry in value.values() for number in numbers(entry)]
    return [value] if isinstance(value, int | float) else []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "processes", "devices", "fsdp", "tensor"),
    [("full", 2, 2, 2, 2), ("lora", 4, 1, 2, 1)],
)
def test_scores_do_not_depend_on_processes_and_mesh(
    tiny_runs, together, tmp_path, method, processes, devices, fsdp, tensor
):
    """Training, dev loss, test losses and decoded texts are equal; no example or line is lost or repeated."""
    train(tiny_runs.config(method, evaluation={"generate_examples": DECODED}), tmp_path / "single")
    mesh = (f"--config.sharding.fsdp={fsdp}", f"--config.sharding.tensor={tensor}")
    several = [command(tiny_runs, method, tmp_path / "several", *mesh)] * processes
    ends = together.wait(together.start(several, devices))
    assert [end.code for end in ends] == [0] * processes, ends
    one, many = (RunDirectory(tmp_path / name) for name in ("single", "several"))
    for name in ("loss", "dev_loss", "tests"):
        np.testing.assert_allclose(numbers(many.result[name]), numbers(one.result[name]), rtol=1e-4, err_msg=name)
    assert [line["step"] for line in many.metrics()] == [line["step"] for line in one.metrics()]
    for left, right in zip(rows(one.path), rows(many.path), strict=True):
        np.testing.assert_allclose(left.pop("loss_sum"), right.pop("loss_sum"), rtol=1e-4)
        assert left == right
    texts = {end.output.splitlines()[-1].split('"seconds"')[0] for end in ends}
    assert len(texts) == 1


@pytest.mark.slow
def test_a_study_of_two_processes_has_the_points_of_one(tiny_runs, together, tmp_path):
    """Both train every run; the primary process makes tokenizer, table and report."""
    grid = {**tiny_runs.config("study")["tasks"]["translation"]["methods"]["lora"], "finetune_examples": (10, 40)}
    file = tmp_path / "config.py"
    file.write_text(
        "import runpy\n\n\ndef get_config():\n"
        f"    config = runpy.run_path({str(TESTS / 'tiny.py')!r})['get_config']('study')\n"
        "    config.families.grammar.sizes = ('30k',)\n"
        f"    config.tasks.translation.methods = {{'lora': {grid!r}}}\n"
        "    return config\n"
    )
    config = plain(runpy.run_path(str(file))["get_config"]())
    study = read_study(config)
    assert execute(study, config, tmp_path / "one").done == 2
    write_points(study, tmp_path / "one")
    flags = [str(TESTS / "study_without_report.py"), f"--config={file}", f"--workdir={tmp_path / 'two'}"]
    ends = together.wait(together.start([flags] * 2), 300)
    assert [end.code for end in ends] == [0, 0], ends
    assert (tmp_path / "two" / "report" / "report.html").exists()
    tables = [pd.read_csv(tmp_path / name / "points.csv") for name in ("one", "two")]
    assert len(tables[0]) == 2
    pd.testing.assert_frame_equal(*tables, rtol=1e-4)


FAILS_ON_ONE = """
import os, runpy, sys
from finetune_scaling.errors import DataError
from finetune_scaling.studies import execute
train = execute.train
def fail_on_one(config, directory):
    if os.environ["JAX_PROCESS_ID"] == "1":
        raise DataError("words.txt: not on this host")
    return train(config, directory)
execute.train = fail_on_one
sys.argv[0] = "study"
runpy.run_module("finetune_scaling.study", run_name="__main__", alter_sys=True)
"""


@pytest.mark.slow
def test_a_study_run_that_fails_on_one_process_ends_all_processes(tiny_runs, together, tmp_path):
    """Otherwise the processes would continue with different runs."""
    ends = together.wait(together.start([["-c", FAILS_ON_ONE, *tiny_runs.flags("study", tmp_path)]] * 2))
    assert all(end.code not in (0, None) for end in ends), ends
    assert "error: words.txt: not on this host" in ends[1].errors
    assert "process 1 failed: words.txt: not on this host" in ends[0].errors
    assert not list(tmp_path.rglob("failure.json"))


def wait_for_step(directory: Path, step: int) -> None:
    deadline = time.monotonic() + 120
    while not any(line["step"] >= step for line in RunDirectory(directory).metrics()):
        assert time.monotonic() < deadline
        time.sleep(0.02)


LOSES_PROCESSES_SOON = """
import runpy, sys
from finetune_scaling.sharding import processes
processes._HEARTBEAT_SECONDS = 15
sys.argv[0] = "train"
runpy.run_module("finetune_scaling.train", run_name="__main__", alter_sys=True)
"""


@pytest.mark.slow
def test_a_preempted_process_stops_all_at_one_step_and_a_killed_one_ends_all(tiny_runs, together, tmp_path):
    """In both cases the same command resumes the run, with the scores of an uninterrupted run."""
    longer = ("--config.limits.max_steps=60", "--config.checkpoint.every_steps=9")
    interrupted = [command(tiny_runs, "lora", tmp_path / "interrupted", *longer)] * 2
    processes = together.start(interrupted)
    wait_for_step(tmp_path / "interrupted", 6)
    processes[1].send_signal(signal.SIGTERM)
    ends = together.wait(processes)
    assert [end.code for end in ends] == [EXIT_PREEMPTED] * 2, ends
    assert all("preempted: saved step" in end.errors for end in ends)

    processes = together.start([["-c", LOSES_PROCESSES_SOON, *flags[2:]] for flags in interrupted])
    wait_for_step(tmp_path / "interrupted", 34)
    processes[1].kill()
    began = time.monotonic()
    ends = together.wait(processes)
    assert time.monotonic() - began < 60
    assert ends[0].code != 0
    assert "tasks are unhealthy (stopped sending heartbeats):\n1\n" in ends[0].errors  # JAX names the killed process

    ends = together.wait(together.start(interrupted))
    assert [end.code for end in ends] == [0, 0], ends
    assert "resuming from step" in ends[0].errors
    uninterrupted = together.wait(together.start([command(tiny_runs, "lora", tmp_path / "uninterrupted", *longer)] * 2))
    assert [end.code for end in uninterrupted] == [0, 0], uninterrupted
    records = [RunDirectory(tmp_path / name).result | {"seconds": 0} for name in ("interrupted", "uninterrupted")]
    assert records[0] == records[1]


def test_different_configs_are_an_error_on_every_process(tiny_runs, together, tmp_path):
    commands = [command(tiny_runs, "full", tmp_path, f"--config.batch.size={size}") for size in (8, 16)]
    ends = together.wait(together.start(commands))
    assert [end.code for end in ends] == [1, 1]
    assert all("process 1 on" in end.errors and "differs from process 0" in end.errors for end in ends), ends
    assert all("in config.batch.size" in end.errors for end in ends)
    assert not (tmp_path / "config.json").exists()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"JAX_NUM_PROCESSES": ""}, "JAX_NUM_PROCESSES is not set"),
        ({"JAX_PROCESS_ID": "2"}, "JAX_PROCESS_ID = 2 must be a number from 0 to 0"),
        ({"JAX_NUM_PROCESSES": "x"}, "JAX_NUM_PROCESSES = 'x' must be a positive integer"),
        ({"FINETUNE_SCALING_DISTRIBUTED": "yes"}, "FINETUNE_SCALING_DISTRIBUTED = 'yes' is unknown"),
        ({"FINETUNE_SCALING_START_TIMEOUT": "0"}, "FINETUNE_SCALING_START_TIMEOUT = '0'"),
    ],
)
def test_a_wrong_environment_is_an_error_before_processes_wait(monkeypatch, environment, expected):
    complete = {"JAX_COORDINATOR_ADDRESS": "127.0.0.1:9", "JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"}
    for name, value in {**complete, **environment}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=re.escape(expected)), distributed_program({}):
        pass


def test_a_wrong_environment_is_one_line(tiny_runs, together, tmp_path):
    (end,) = together.wait(together.start([command(tiny_runs, "full", tmp_path)], environment={"JAX_PROCESS_ID": "2"}))
    assert (end.code, end.errors.count("\n")) == (2, 1), end.errors
    assert "JAX_PROCESS_ID = 2 must be a number from 0 to 0" in end.errors


def test_an_error_on_all_processes_is_reported_by_each(tiny_runs, together, tmp_path):
    """The mesh does not divide the devices; no process waits for another."""
    ends = together.wait(together.start([command(tiny_runs, "full", tmp_path, "--config.sharding.fsdp=3")] * 2))
    assert all(end.code != 0 and "sharding.fsdp = 3" in end.errors for end in ends), ends
    assert not (tmp_path / "metrics.jsonl").exists()
