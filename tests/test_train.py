"""The train command: interruptions, and errors on its command line."""

import json
import random
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from finetune_scaling.errors import EXIT_INTERRUPTED, EXIT_PREEMPTED, ConfigError
from finetune_scaling.experiments.run import run
from finetune_scaling.runs.metrics import MEASURED
from finetune_scaling.runs.run_directory import RunDirectory

run_in_one_process = runpy.run_path(str(Path(__file__).with_name("command_process.py")))["run_in_one_process"]
STEPS = 400  # enough that a run does not finish before it is interrupted
LONGER = {
    "limits": {"max_steps": STEPS},
    "checkpoint": {"every_steps": 17},
    "evaluation": {"every_steps": 150, "generate_examples": 4},
}


def train(*flags: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "finetune_scaling.train", *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until(directory: Path, step: int, process: subprocess.Popen) -> None:
    """Wait until the run has written the loss of `step`."""
    deadline = time.monotonic() + 120
    while not any(line["step"] >= step for line in RunDirectory(directory).metrics()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def without_times(directory: Path) -> tuple[Any, ...]:
    record = RunDirectory(directory).result
    metrics = RunDirectory(directory).metrics()
    rows = (directory / "evaluation" / "test.jsonl").read_text()
    return (
        {**record, "seconds": 0},
        [{name: value for name, value in line.items() if name not in MEASURED} for line in metrics],
        rows,
    )


@pytest.mark.slow
def test_an_interrupted_run_equals_an_uninterrupted_one(tiny_runs, tmp_path):
    config = tiny_runs.config("lora", **LONGER)
    run(config, tmp_path / "uninterrupted")
    directory = tmp_path / "disturbed"
    flags = [
        *tiny_runs.flags("lora", directory),
        f"--config.limits.max_steps={STEPS}",
        "--config.checkpoint.every_steps=17",
        "--config.evaluation.every_steps=150",
        "--config.evaluation.generate_examples=4",
    ]
    rng = random.Random(0)
    ways = [
        (signal.SIGKILL, -signal.SIGKILL, ""),
        (signal.SIGTERM, EXIT_PREEMPTED, "preempted: saved step "),
        (signal.SIGINT, EXIT_INTERRUPTED, "interrupted: "),
    ]
    for number, (way, code, message) in enumerate(ways):
        process = train(*flags)
        wait_until(directory, number * 50 + rng.randrange(2, 48), process)
        time.sleep(rng.uniform(0, 0.05))
        process.send_signal(way)
        printed, errors = process.communicate()
        assert (process.returncode, printed) == (code, ""), errors
        assert message in errors
        assert "Traceback" not in errors
    process = train(*flags)
    printed, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "resuming from step" in errors
    shown = json.loads(printed)
    assert shown["loss"] == RunDirectory(directory).result["loss"]
    assert shown["programs_compiled"] > 0
    assert without_times(directory) == without_times(tmp_path / "uninterrupted")


def test_help_exits_with_0():
    process = train("--help")
    printed, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")
    assert "--workdir" in printed


LOSING = """
import os, signal
from finetune_scaling import command

class Dying:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            pass

def main():
    Dying()
    print("lost")

command.run(main)
"""


def test_ctrl_c_in_a_callback_with_ignored_errors_is_not_lost():
    ended = subprocess.run([sys.executable, "-c", LOSING], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (EXIT_INTERRUPTED, "", 1), ended.stderr
    assert ended.stderr.startswith("interrupted: ")


def changed(tiny_runs, workdir: Path, what: str, change: str) -> list[str]:
    """Flags for a config file that differs from tests/tiny.py by one line."""
    first, *others = tiny_runs.flags(what, workdir)
    path, _, argument = first.removeprefix("--config=").partition(":")
    file = workdir.with_suffix(".py")
    file.write_text(
        "import runpy\n\n\ndef get_config():\n"
        f"    config = runpy.run_path({path!r})['get_config']({argument!r})\n    {change}\n    return config\n"
    )
    return [f"--config={file}", *others]


# Config, change on the command line or in the file, and expected error.
MISTAKES = [
    ("lora", "--config.schedule.learning_rat=1", ["learning_rat", "learning_rate"]),
    ("lora", "--config.batch.size=many", ["config.batch.size", "many"]),
    ("lora", "config.limits = {'max_steps': '9'}", ["config.limits.max_steps = '9'", "expected int"]),
    ("pretrain", "--config.model.name=30kk", ["model.name = '30kk' is unknown", "'30k'"]),
    ("lora", "--config.method.name=lorra", ["--config.method.name=lorra: expected", " lora"]),
    ("lora", "config.task = {'name': 'wmt14_en_d'}", ["'wmt14_en_d'", "'wmt14_en_de'"]),
    ("pretrain", "config.corpus.dev[0]['source']['kind'] = 'gramar'", ["'gramar'", "'grammar'"]),
    ("lora", "config.name = undefined", ["error: --config: ", ".py:6: NameError: name 'undefined' is not defined"]),
    ("lora", "--workdir=", ["--workdir is missing"]),
]


# Text of a failing config file and expected error; FILE is its path.
FAULTS = [
    ("import os\n\nx = undefined\n", "FILE:3: NameError: name 'undefined' is not defined"),
    ("def get_config():\n    return {'a': 1 / 0}\n", "FILE:2: ZeroDivisionError: division by zero"),
    ("def half(names):\n    return names['a']\n\ndef get_config():\n    return half({})\n", "FILE:2: KeyError: 'a'"),
    ("def get_config():\n    return int('x')\n", "FILE:2: ValueError: invalid literal for int() with base 10: 'x'"),
    ("def get_config():\n    open('/nowhere/x')\n", "FILE:2: FileNotFoundError: [Errno 2] No such file or directory"),
    ("import finetune_scalin\n", "FILE:1: ModuleNotFoundError: No module named 'finetune_scalin'"),
    ("x = 1\ndef get_config(:\n", "FILE:2: SyntaxError: invalid syntax"),
    ("def get_config():\n    b'\\xff'.decode()\n", "FILE:2: UnicodeDecodeError: 'utf-8' codec can't decode byte 0xff"),
    ("def get_config(size):\n    return {}\n", "get_config() missing 1 required positional argument: 'size'; write"),
    ("def get_config():\n    pass\n", "get_config() of that file returns None; let it return the config"),
]


@pytest.mark.parametrize(("text", "expected"), FAULTS)
def test_a_failing_config_file_is_named_with_its_line(text, expected, read_command_line, tmp_path):
    file = tmp_path / "config.py"
    file.write_text(text)
    with pytest.raises(ConfigError) as raised:
        read_command_line(f"--config={file}")
    assert str(raised.value).startswith("--config: " + expected.replace("FILE", str(file)))
    assert "\n" not in str(raised.value)


def test_a_config_error_of_a_config_file_is_unchanged(read_command_line, tmp_path):
    file = tmp_path / "config.py"
    file.write_text("from finetune_scaling.errors import ConfigError\n\nraise ConfigError('sizes: name one')\n")
    with pytest.raises(ConfigError, match=r"^sizes: name one$"):
        read_command_line(f"--config={file}")


def test_command_line_errors_are_one_line_and_exit_with_2(tiny_runs, tmp_path):
    calls = []
    for number, (what, change, _) in enumerate(MISTAKES):
        workdir = tmp_path / str(number)
        on_the_line = change.startswith("--")
        calls.append(
            [*tiny_runs.flags(what, workdir), change] if on_the_line else changed(tiny_runs, workdir, what, change)
        )
    results = run_in_one_process("finetune_scaling.train", calls)
    for (_, change, expected), (code, printed, errors) in zip(MISTAKES, results, strict=True):
        assert (code, printed, errors.count("\n")) == (2, "", 1), (change, errors)
        assert errors.startswith("error: "), change
        assert all(part in errors for part in expected), (change, errors)
    assert not list(tmp_path.glob("*/metrics.jsonl"))
