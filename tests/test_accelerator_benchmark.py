"""The benchmark of an accelerator, end to end at toy size on the CPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "accelerator.py"


@pytest.mark.slow
def test_every_part_runs_and_a_failed_or_late_one_is_named(tmp_path):
    out = tmp_path / "results.jsonl"
    peers = ["good=echo '{\"tokens_per_s\": 5}'", "silent=true", "missing=no-such-program", "wrong=false"]
    command = [sys.executable, str(SCRIPT), "--toy", f"--out={out}", *(f"--peer={peer}" for peer in peers)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in out.read_text().splitlines()]
    failed = {result["part"]: result["error"] for result in results if "error" in result}
    assert failed.keys() == {"silent", "missing", "wrong"}
    assert "no-such-program" in failed["missing"]
    assert [result["tokens_per_s"] > 0 for result in results if "error" not in result] == [True] * 10
    assert len(done.stdout.splitlines()) == 2 + len(results)

    late = subprocess.run([*command, "--minutes=0"], capture_output=True, text=True, timeout=600)
    assert late.returncode == 0, late.stderr
    added = [json.loads(line) for line in out.read_text().splitlines()][len(results) :]
    assert [result["error"] for result in added] == ["no time was left"] * len(results)
