"""Run a command several times in one process, which imports it once. Starting a process takes seconds."""

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

PROGRAM = """
import contextlib, importlib, io, json, sys
from absl import flags
from absl.testing import flagsaver
from finetune_scaling import command

module = importlib.import_module(sys.argv[1])
if hasattr(module, "define_flags"):  # commands whose functions are imported elsewhere
    module.define_flags()
subcommands = getattr(module, "_COMMANDS", ())
calls = json.load(sys.stdin)
saved = flagsaver.save_flag_values(flags.FLAGS)
results = []
for arguments in calls:
    output, errors = io.StringIO(), io.StringIO()
    sys.argv = [module.__file__, *arguments]
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            command.run(module.main, subcommands=subcommands)
        except SystemExit as error:
            code = error.code or 0
    results.append((code, output.getvalue(), errors.getvalue()))
    flagsaver.restore_flag_values(saved)
    flags.FLAGS.unparse_flags()
json.dump(results, sys.stdout)
"""


class Result(NamedTuple):
    """Exit code, standard output and standard error of one call."""

    returncode: int
    stdout: str
    stderr: str


def run_in_one_process(module: str, calls: Sequence[Sequence[str]]) -> list[Result]:
    """Run `python -m module` with each list of flags, all in one process."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, module],
        input=json.dumps([list(call) for call in calls]),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [Result(*result) for result in json.loads(done.stdout)]
