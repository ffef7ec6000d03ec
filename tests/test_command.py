"""The start of commands: their flags, and output that nobody reads."""

import os
import subprocess
import sys

import pytest
from absl import flags

from finetune_scaling.command_flags import expand_globs, integer_flag, path_flag, paths_flag
from finetune_scaling.errors import EXIT_OUTPUT_CLOSED, EXIT_USAGE, ConfigError

PRINTING = """
import sys
from finetune_scaling import command

def main():
    for number in range(int(sys.stdin.read())):
        print("line", number)
    {then}

command.run(main)
"""


@pytest.mark.parametrize("lines", [1, 100_000], ids=["at the end", "while printing"])
@pytest.mark.parametrize("then", ["pass", "sys.exit(1)"])
def test_output_that_nobody_reads_ends_a_command_quietly(lines, then):
    reading, writing = os.pipe()
    os.close(reading)
    program = [sys.executable, "-c", PRINTING.format(then=then)]
    done = subprocess.run(program, input=str(lines), stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (EXIT_OUTPUT_CLOSED, "")


FAILING = """
from finetune_scaling import command
from finetune_scaling.errors import ConfigError

def main():
    print("out")
    {then}

command.run(main)
"""


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("redirection", "then", "code", "out", "err"),
    [
        (">&-", "pass", 0, "", ""),
        (">&-", "raise ConfigError('x')", EXIT_USAGE, "", "error: x\n"),
        ("2>&-", "pass", 0, "out\n", ""),
        ("2>&-", "raise ConfigError('x')", EXIT_USAGE, "out\n", ""),
    ],
)
def test_closed_output_is_discarded(redirection, then, code, out, err, unbuffered):
    done = _redirected(FAILING.format(then=then), redirection, unbuffered)
    assert (done.returncode, done.stdout, done.stderr) == (code, out, err)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_on_a_full_disk_is_an_error_of_one_line(unbuffered):
    done = _redirected(FAILING.format(then="pass"), ">/dev/full", unbuffered)
    assert done.returncode == EXIT_USAGE
    assert done.stderr.startswith("error: stdout cannot be written: No space left")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("then", "redirection", "code"),
    [
        ("import logging; logging.warning('x')", "2>/dev/full", 0),
        ("raise ConfigError('x')", "2>/dev/full", EXIT_USAGE),
        ("pass", ">/dev/full 2>&1", EXIT_USAGE),
    ],
)
def test_messages_on_a_full_disk_keep_the_exit_code(then, redirection, code, full_device):
    done = _redirected(FAILING.format(then=then), redirection, "")
    assert (done.returncode, done.stdout.strip()) == (code, "" if redirection.startswith(">") else "out")


def _redirected(program, redirection, unbuffered):
    return subprocess.run(
        ["sh", "-c", f'"$0" -c "$1" {redirection}', sys.executable, program],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )  # fmt: skip


OTHER_PIPE = """
import os
from finetune_scaling import command

def main():
    reading, writing = os.pipe()
    os.close(reading)
    os.write(writing, b"x")

command.run(main)
"""


def test_another_closed_pipe_is_an_error_with_traceback():
    done = subprocess.run([sys.executable, "-c", OTHER_PIPE], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "BrokenPipeError" in done.stderr


DEVICES = """
import jax
from finetune_scaling import command
command.run(lambda: print(jax.devices()[0].platform))
"""


def test_commands_without_a_model_do_not_search_for_accelerators():
    pytest.importorskip("libtpu")
    environment = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    done = subprocess.run([sys.executable, "-c", DEVICES], capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "cpu\n", "")


def test_flags_of_paths_expand_home_directories(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    values = flags.FlagValues()
    monkeypatch.setattr(flags, "FLAGS", values)
    for define, name in ((path_flag, "out"), (paths_flag, "runs")):
        define(name, "")
    values(["test", "--out=~/x", "--runs=~/a, b,", "--runs=gs://c"])
    assert values.out == "/home/me/x"
    assert values.runs == ["/home/me/a", "b", "gs://c"]


@pytest.mark.parametrize(("written", "value"), [("10", 10), ("1e6", 1_000_000), ("1e12", 10**12), ("1_000", 1000)])
def test_flags_of_integers_take_the_forms_of_configs(written, value, monkeypatch):
    values = flags.FlagValues()
    monkeypatch.setattr(flags, "FLAGS", values)
    integer_flag("number", None, "", lower_bound=1)
    values(["test", f"--number={written}"])
    assert values.number == value


@pytest.mark.parametrize(
    ("written", "error"),
    [("many", "--number=many: expected an integer such as 10 or 1e6"), ("0.5", "1e6"), ("0", "positive")],
)
def test_a_wrong_integer_shows_the_right_form(written, error, monkeypatch):
    values = flags.FlagValues()
    monkeypatch.setattr(flags, "FLAGS", values)
    integer_flag("number", None, "", lower_bound=1)
    with pytest.raises(flags.IllegalFlagValueError, match=error):
        values(["test", f"--number={written}"])


def test_an_existing_path_is_no_pattern(tmp_path, monkeypatch):
    monkeypatch.setattr(flags, "FLAGS", flags.FlagValues())
    flag = paths_flag("runs", "")
    for name in ("run[a]", "run1", "run2"):
        (tmp_path / name).mkdir()
    given = [f"{tmp_path}/{name}" for name in ("run[a]", "run[1-2]")]
    assert expand_globs(flag, given) == [f"{tmp_path}/{name}" for name in ("run[a]", "run1", "run2")]
    with pytest.raises(ConfigError, match="matches no directory"):
        expand_globs(flag, [f"{tmp_path}/run[b]"])


def test_an_unknown_user_in_a_flag_is_an_error(monkeypatch):
    values = flags.FlagValues()
    monkeypatch.setattr(flags, "FLAGS", values)
    path_flag("out", "")
    with pytest.raises(ConfigError, match="no user 'nobody-here'"):
        values(["test", "--out=~nobody-here/x"])


def test_an_override_without_its_config_is_an_error(read_command_line):
    with pytest.raises(ConfigError, match="give --config=FILE"):
        read_command_line("--config.a=1")
