"""launch/multiprocess_cpu.sh with real commands: environment, output and joint termination of the processes."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ["bash", str(ROOT / "launch" / "multiprocess_cpu.sh")]
VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID", "JAX_PLATFORMS")
SAVE = """
import signal, sys, time
def save(number, _):
    print("saving", number, flush=True); time.sleep(0.5); print("saved", flush=True); sys.exit(75)
signal.signal(signal.SIGTERM, save)
signal.signal(signal.SIGINT, save)
print("ready", flush=True)
time.sleep(60)
"""
IGNORES_SIGNALS = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
)


def python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


def start(number: int, *command: str) -> subprocess.Popen:
    pipe = subprocess.PIPE
    environment = {**os.environ, "FINETUNE_SCALING_DISTRIBUTED": "auto"}  # the script must override it
    return subprocess.Popen([*SCRIPT, str(number), *command], stdout=pipe, stderr=pipe, text=True, env=environment)


def run(number: int, *command: str) -> tuple[int, list[str], list[str]]:
    """Return exit code, and lines of stdout and stderr sorted by process."""
    process = start(number, *command)
    printed, errors = process.communicate(timeout=50)
    return process.returncode, sorted(printed.splitlines()), sorted(errors.splitlines())


def only_process(index: int, then: str, others: str) -> list[str]:
    return python(f"import os, sys, time\nif os.environ['JAX_PROCESS_ID'] == '{index}':\n    {then}\n{others}")


def alive(marker: str) -> list[str]:
    """Return the command lines of running processes that contain the marker."""
    lines = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if any(marker in word for word in words):
            lines.append(" ".join(words))
    return lines


def test_each_process_has_its_environment_and_a_prefix():
    show = (
        f"import os, sys; print(*(os.environ[name] for name in {VARIABLES}));"
        "assert 'FINETUNE_SCALING_DISTRIBUTED' not in os.environ; print('x y', file=sys.stderr)"
    )
    code, printed, errors = run(3, *python(show))
    assert code == 0
    [address] = {line.split()[1] for line in printed}
    assert re.fullmatch(r"127\.0\.0\.1:\d+", address)
    assert printed == [f"[{index}] {address} 3 {index} cpu" for index in range(3)]
    assert errors == [f"[{index}] x y" for index in range(3)]


def test_jax_finds_all_processes():
    program = (
        "import os, jax\n"
        "address, number, index = (os.environ[name] for name in"
        " ('JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID'))\n"
        "jax.distributed.initialize(address, int(number), int(index))\n"
        "print(jax.process_index(), jax.process_count(), jax.device_count())\n"
    )
    code, printed, errors = run(2, *python(program))
    assert (code, printed) == (0, ["[0] 0 2 2", "[1] 1 2 2"]), errors


def test_if_a_process_fails_the_others_are_ended_and_its_code_is_returned():
    began = time.monotonic()
    code, _, errors = run(3, *only_process(1, "sys.exit(7)", "time.sleep(60)"))
    assert (code, errors) == (7, ["error: process 1 of 3 exited with 7; the others are ended"])
    assert time.monotonic() - began < 4


def test_other_processes_may_exit_after_a_preemption():
    code, printed, errors = run(2, *only_process(0, "sys.exit(75)", "time.sleep(1); print('saved'); sys.exit(75)"))
    assert (code, printed, errors) == (75, ["[1] saved"], [])


def test_a_process_that_is_killed_counts_as_failed():
    code, _, errors = run(2, *only_process(0, "os.kill(os.getpid(), 9)", "time.sleep(60)"))
    assert (code, errors) == (137, ["error: process 0 of 2 exited with 137; the others are ended"])


def test_processes_that_ignore_sigterm_are_killed():
    began = time.monotonic()
    ready = "time.sleep(1); sys.exit(7)"
    code, printed, errors = run(2, *only_process(0, ready, IGNORES_SIGNALS + "  # ignores signals"))
    assert (code, printed) == (7, ["[1] ready"])
    assert errors == ["error: process 0 of 2 exited with 7; the others are ended"]
    assert 5 < time.monotonic() - began < 12
    assert not alive("ignores signals")


def test_output_of_a_failing_process_is_not_lost():
    many = "print('\\n'.join(map(str, range(5000)))); sys.exit('the reason')"
    code, printed, errors = run(2, *only_process(0, many, "time.sleep(60)"))
    assert (code, len(printed)) == (1, 5000)
    assert "[0] the reason" in errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_passed_to_all_processes(number):
    process = start(2, *python(SAVE))
    seen = [process.stdout.readline(), process.stdout.readline()]
    assert sorted(seen) == ["[0] ready\n", "[1] ready\n"]
    process.send_signal(number)
    printed, errors = process.communicate(timeout=20)
    saved = [f"[{index}] {line}" for index in (0, 1) for line in ("saved", f"saving {number.value}")]
    assert (process.returncode, sorted(printed.splitlines()), errors) == (75, sorted(saved), "")


def test_a_second_signal_kills():
    process = start(2, *python(IGNORES_SIGNALS))
    for _ in range(2):
        process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    assert process.returncode == 137


def test_a_dry_run_prints_commands_that_can_be_run(tmp_path):
    process = subprocess.run(
        [*SCRIPT, "--dry-run", "2", "touch", str(tmp_path / "a file")], capture_output=True, text=True, check=True
    )
    assert not list(tmp_path.iterdir())
    lines = process.stdout.splitlines()
    assert len(lines) == 2
    subprocess.run(["bash", "-c", f"{process.stdout}\nwait"], check=True)
    assert [file.name for file in tmp_path.iterdir()] == ["a file"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "'' is not a number of processes"),
        (["0", "true"], "'0' is not a number of processes"),
        (["two", "true"], "'two' is not a number of processes"),
        (["2"], "the command is missing"),
        (["2", "no-such-command"], "no-such-command: no such command"),
    ],
)
def test_usage_errors_are_one_line_and_exit_with_2(arguments, expected):
    done = subprocess.run([*SCRIPT, *arguments], capture_output=True, text=True, env={"PATH": os.environ["PATH"]})
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"error: {expected}")
