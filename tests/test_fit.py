"""The fit command: its flags, and one law fitted to a CSV."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


def run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "finetune_scaling.fit", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_fits_one_law(tmp_path: Path) -> None:
    lines = [f"{d},{2 / d**0.3 + 0.5}" for d in (10, 30, 100, 300, 1000)]
    (tmp_path / "points.csv").write_text("\n".join(["D,loss", *lines]))
    arguments = (f"--points={tmp_path}/points.csv", f"--out={tmp_path}/out", "--law=single", "--residual=log")
    done = run(*arguments, "--huber-delta=0.01")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out/fit.json").read_text())["fits"][0]
    assert (record["huber_delta"], record["residual"]) == (0.01, "log")
    assert "objective" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--out=x",), "points"),
        (("--points=none.csv", "--out=x", "--huber_delta=0"), "must be above zero"),
    ],
)
def test_usage_errors_are_one_line_and_code_2(arguments: tuple[str, ...], message: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
