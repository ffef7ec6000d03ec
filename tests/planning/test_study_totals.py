"""Totals of a study are the sums over its runs, as `study --list --json` prints them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAPER = "--config=configs/study/paper.py"
PEAK = 197e12


def printed(module: str, *flags: str) -> str:
    command = [sys.executable, "-m", f"finetune_scaling.{module}", *flags]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, timeout=300).stdout


@pytest.mark.slow
def test_totals_of_the_papers_grid() -> None:
    listed = json.loads(printed("study", PAPER, "--list", "--json"))
    totals = json.loads(printed("plan", PAPER, "--study", "--topology=v5e", "--utilisation=0.5", "--json"))
    assert len(listed) == 3819
    assert totals["runs"] == 3819 + 10  # and ten base models
    for method in ("full", "lora", "prompt"):
        rows = [row for row in listed if row["method"] == method]
        flops = sum(row["flops"] for row in rows)
        found = totals["methods"][method]
        assert found["runs"] == len(rows)
        assert found["flops"] == pytest.approx(flops)
        at_utilisation = flops / (PEAK * 0.5) / 3600
        assert found["chip_hours"]["v5e"] >= at_utilisation * (1 - 1e-9)  # the bound may be longer
        assert found["usd"]["v5e"]["on_demand"] == pytest.approx(found["chip_hours"]["v5e"] * 1.2)
    parts = totals["methods"].values()
    assert totals["total"]["chip_hours"]["v5e"] == pytest.approx(sum(part["chip_hours"]["v5e"] for part in parts))
    pretraining = totals["methods"]["pretraining"]
    tokens = {"en_de": 135_000 * 2**21, "en_zh": 98_000 * 2**21}
    parameters = (1_218_480_128, 2_188_956_160, 3_601_935_360, 8_107_724_800, 15_440_491_520)
    assert pretraining["flops"] == pytest.approx(
        sum(tokens.values()) * 6 * sum(parameters), rel=0.1
    )  # attention adds to it
