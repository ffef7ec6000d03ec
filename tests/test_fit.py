"""The fit command: its flags, and one law fitted to a CSV."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

run_in_one_process = runpy.run_path(str(Path(__file__).with_name("command_process.py")))["run_in_one_process"]


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


def test_usage_errors_are_one_line_and_code_2() -> None:
    mistakes = {
        ("--out=x",): "points",
        ("--points=none.csv", "--out=x", "--huber_delta=0"): "must be above zero",
    }
    for message, done in zip(
        mistakes.values(), run_in_one_process("finetune_scaling.fit", list(mistakes)), strict=True
    ):
        assert done.returncode == 2
        assert message in done.stderr
        assert "Traceback" not in done.stderr
