"""shellcheck finds nothing in the shell scripts of launch/."""

import shutil
import subprocess
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck not found: apt-get install shellcheck")
@pytest.mark.parametrize("script", [*sorted(LAUNCH.glob("*.sh")), LAUNCH / "slurm.sbatch"], ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script):
    done = subprocess.run(["shellcheck", "--external-sources", str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_shellcheck_finds_an_unquoted_word(tmp_path):
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck not found: apt-get install shellcheck")
    (tmp_path / "wrong.sh").write_text("#!/bin/bash\nrm $1\n")
    assert subprocess.run(["shellcheck", str(tmp_path / "wrong.sh")], capture_output=True).returncode == 1
