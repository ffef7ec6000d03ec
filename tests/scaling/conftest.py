"""Fits that several test files look at, made once."""

import pytest

from finetune_scaling.scaling.findings.analysis import Analysis, analyse
from finetune_scaling.scaling.fitting.program import FitSettings
from finetune_scaling.scaling.points import planted
from finetune_scaling.scaling.points.table import read_points


@pytest.fixture(scope="session")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    """The paper's En-De grid with three seeds and noise .003 each."""
    path = planted.write(tmp_path_factory.mktemp("noisy") / "points.csv", planted.rows(noise=0.003, seeds=3))
    return analyse(read_points(path), FitSettings(), progress=lambda _: None)


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
