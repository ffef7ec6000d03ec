"""The train command as users run it: interrupted in every way, and with every kind of mistake on its command line."""

import json
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from finetune_scaling.errors import EXIT_INTERRUPTED, EXIT_PREEMPTED
from finetune_scaling.runs.run import run
from finetune_scaling.training.run_directory import RunDirectory

STEPS = 120
LONGER = {
    "limits": {"max_steps": STEPS},
    "checkpoint": {"every_steps": 7},
    "evaluation": {"every_steps": 40, "generate_examples": 4},
}


def train(*flags: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "finetune_scaling.train", *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until(directory: Path, step: int, process: subprocess.Popen) -> None:
    """Returns as soon as the run has written the loss of `step`."""
    deadline = time.monotonic() + 120
    while not any(line["step"] >= step for line in RunDirectory(directory).metrics()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def without_times(directory: Path) -> tuple[Any, ...]:
    record = RunDirectory(directory).result
    metrics = RunDirectory(directory).metrics()
    rows = (directory / "evaluation" / "test.jsonl").read_text()
    return {**record, "seconds": 0}, [{**line, "time": 0} for line in metrics], rows


@pytest.mark.slow
def test_interrupted_in_every_way_a_run_ends_as_if_undisturbed(tiny_runs, tmp_path):
    config = tiny_runs.config("lora", **LONGER)
    run(config, tmp_path / "undisturbed")
    directory = tmp_path / "disturbed"
    flags = [
        *tiny_runs.flags("lora", directory),
        f"--config.limits.max_steps={STEPS}",
        "--config.checkpoint.every_steps=7",
        "--config.evaluation.every_steps=40",
        "--config.evaluation.generate_examples=4",
    ]
    rng = random.Random(0)
    ways = [
        (signal.SIGKILL, -signal.SIGKILL, ""),
        (signal.SIGTERM, EXIT_PREEMPTED, r"preempted: saved step "),
        (signal.SIGINT, EXIT_INTERRUPTED, "interrupted: run the same command again"),
        (signal.SIGKILL, -signal.SIGKILL, ""),
    ]
    for number, (way, code, message) in enumerate(ways):
        process = train(*flags)
        wait_until(directory, number * 20 + rng.randrange(2, 18), process)
        time.sleep(rng.uniform(0, 0.05))
        process.send_signal(way)
        printed, errors = process.communicate()
        assert (process.returncode, printed) == (code, ""), errors
        assert message in errors
        assert "Traceback" not in errors
    process = train(*flags)
    printed, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "going on from step" in errors
    assert json.loads(printed)["loss"] == RunDirectory(directory).result["loss"]
    assert without_times(directory) == without_times(tmp_path / "undisturbed")


def changed(tiny_runs, workdir: Path, what: str, change: str) -> list[str]:
    """Flags for a config file that differs from tests/tiny.py by a line of Python."""
    first, *others = tiny_runs.flags(what, workdir)
    path, _, argument = first.removeprefix("--config=").partition(":")
    file = workdir.with_suffix(".py")
    file.write_text(
        "import runpy\n\n\ndef get_config():\n"
        f"    config = runpy.run_path({path!r})['get_config']({argument!r})\n    {change}\n    return config\n"
    )
    return [f"--config={file}", *others]


# Of which config, what changes on the command line or in its file, and what the error must say.
MISTAKES = [
    ("lora", "--config.schedule.learning_rat=1", ["learning_rat", "learning_rate"]),
    ("lora", "--config.batch.size=many", ["config.batch.size", "many"]),
    ("lora", "config.limits = {'max_steps': '9'}", ["config.limits.max_steps = '9'", "expected int"]),
    ("pretrain", "--config.model.name=30kk", ["model.name = '30kk' is unknown", "'30k'"]),
    ("lora", "--config.method.name=lorra", ["method.name = 'lorra' is unknown", "'lora'"]),
    ("lora", "config.task = {'name': 'wmt14_en_d'}", ["'wmt14_en_d'", "'wmt14_en_de'"]),
    ("pretrain", "config.corpus.dev[0]['source']['kind'] = 'gramar'", ["'gramar'", "'grammar'"]),
    ("lora", "--workdir=", ["--workdir is missing"]),
]


def test_mistakes_on_the_command_line_are_one_line_each_and_exit_with_2(tiny_runs, tmp_path):
    def outcome(number: int) -> tuple[str, str, int]:
        what, change, _ = MISTAKES[number]
        workdir = tmp_path / str(number)
        on_the_line = change.startswith("--")
        flags = tiny_runs.flags(what, workdir) if on_the_line else changed(tiny_runs, workdir, what, change)
        process = train(*flags, *([change] if on_the_line else []))
        return (*process.communicate(), process.returncode)

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(outcome, range(len(MISTAKES))))
    for (_, change, expected), (printed, errors, code) in zip(MISTAKES, results, strict=True):
        assert (code, printed, errors.count("\n")) == (2, "", 1), (change, errors)
        assert errors.startswith("error: "), change
        assert all(part in errors for part in expected), (change, errors)
    assert not list(tmp_path.glob("*/metrics.jsonl"))
