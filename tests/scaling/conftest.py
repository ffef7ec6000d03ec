"""Fits that several test files look at, made once."""

import json
from pathlib import Path

import pytest

from finetune_scaling.fit import fit_study
from finetune_scaling.scaling.findings.analysis import Analysis, analyse
from finetune_scaling.scaling.fitting.program import FitSettings
from finetune_scaling.scaling.points import planted
from finetune_scaling.scaling.points.table import read_points
from finetune_scaling.scaling.uncertainty.bootstrap import Resampling


@pytest.fixture(scope="session")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    """The paper's En-De grid with three seeds and noise .003 each; fewer resamples than `fit` draws, to save time."""
    path = planted.write(tmp_path_factory.mktemp("noisy") / "points.csv", planted.rows(noise=0.003, seeds=3))
    return analyse(read_points(path), FitSettings(), progress=lambda _: None, resampling=Resampling(resamples=100))


@pytest.fixture(scope="session")
def few(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    """Two model sizes and three data sizes of full tuning and LoRA: too few to be sure of anything."""
    chosen = [
        row
        for row in planted.rows(noise=0.003, methods=("full", "lora"))
        if row["factor"] == "model" and row["x"] in planted.SIZES[:2]
        if row["finetune_examples"] in planted.EXAMPLES[row["method"]][:3]
    ]
    path = planted.write(tmp_path_factory.mktemp("few") / "points.csv", chosen)
    return analyse(read_points(path), FitSettings(), progress=lambda _: None)


@pytest.fixture(scope="session")
def hostile_task() -> str:
    """The name of the only task of hostile_report."""
    return "wmt <script>alert(\"x\")</script> & 'co' </script><!--"


@pytest.fixture(scope="session")
def small_rows(hostile_task: str) -> list[dict]:
    """Four sizes, three token counts and three PET sizes with metrics, entropy and a column of no use."""
    found = []
    for row in planted.rows(noise=0.003):
        values = {"model": planted.SIZES[:4], "pretrain": planted.TOKENS[:3], "pet": (50, 100, 150, 4, 8, 16)}
        if row["x"] in values[row["factor"]] and row["finetune_examples"] in planted.EXAMPLES[row["method"]][::2]:
            held_out = int(row["held_out"] or row["x"] == planted.SIZES[3])
            extra = {"bleu": 60 - 20 * row["loss"], "entropy": 0.6, "stopped_by": "patience", "remark": "<i>"}
            extra |= {"pretraining.loss": 2 + row["finetune_examples"] / 1e7, "pretraining.untuned.loss": 2}
            found.append({**row, "task": hostile_task, "held_out": held_out, **extra})
    found[-1]["stopped_by"] = "budget"
    return found


@pytest.fixture(scope="session")
def hostile_report(tmp_path_factory: pytest.TempPathFactory, small_rows: list[dict], hostile_task: str) -> Path:
    """The report of small_rows, whose names and facts are full of markup."""
    folder = tmp_path_factory.mktemp("study")
    planted.write(folder / "points.csv", small_rows)
    facts = {"name": "a <b>bold</b> study", "baselines": {hostile_task: {"bleu": 3.25}}, "notes": ["Made & planted."]}
    (folder / "study.json").write_text(json.dumps(facts))
    fit_study(folder / "points.csv", folder / "report", progress=lambda _: None)
    return folder / "report"
