"""The recommend command on the points of the Debian study: JSON and usage errors."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

POINTS = Path(__file__).parents[1] / "docs" / "debian_points.csv"
run_in_one_process = runpy.run_path(str(Path(__file__).with_name("command_process.py")))["run_in_one_process"]


def recommend(*flags: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "finetune_scaling.recommend", f"--points={POINTS}", *flags]
    return subprocess.run(command, cwd=POINTS.parents[1], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_json_alone_is_on_stdout_and_in_the_file(tmp_path: Path) -> None:
    out = tmp_path / "advice.json"
    flags = ("--task=summarization", "--budget=1e12flop", "--next-run", "--json", f"--out={out}")
    done = recommend("--finetune-examples=1e3", *flags)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads(out.read_text())
    (task,) = json.loads(done.stdout)["tasks"]
    assert (task["task"], task["finetune_examples"], task["budget"]["flops"]) == ("summarization", 1000, 1e12)
    assert task["choice"]["cost"]["flops"] <= 1e12
    assert task["next_runs"] is not None
    assert "multiplicative, summarization, " in done.stderr


def test_usage_errors_are_one_line_and_code_2() -> None:
    mistakes = {
        (): "--finetune-examples is missing",
        ("--finetune-examples=40k",): "--finetune-examples=40k is not a number",
        ("--finetune-examples=5e3", "--task=trans"): "did you mean 'translation'",
    }
    calls = [(f"--points={POINTS}", *flags) for flags in mistakes]
    for message, done in zip(mistakes.values(), run_in_one_process("finetune_scaling.recommend", calls), strict=True):
        assert done.returncode == 2
        assert message in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        assert not done.stdout
