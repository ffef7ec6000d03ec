"""Published finetuning curves of 30 models: our fits compared with their authors' fits."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

DATA = os.environ.get("FINETUNE_SCALING_DATA")
FOLDER = Path(DATA or "") / "scaling" / "finetune30"
PROGRAM = Path(__file__).parents[2] / "benchmarks" / "published_curves.py"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (DATA and FOLDER.is_dir()), reason="needs FINETUNE_SCALING_DATA/scaling/finetune30"),
]


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("published_curves", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    # In a subprocess, since the many fits need optimized code, unlike the tests.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run([sys.executable, PROGRAM], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_number_is_within_its_bound(benchmark: ModuleType, record: dict[str, Any]) -> None:
    assert record["curves"] == 90
    assert benchmark.misses(record) == []


def test_a_worse_fit_is_detected(benchmark: ModuleType, record: dict[str, Any]) -> None:
    for change in (
        {"rectified_mean": 0.0078},
        {"worst_ratio_to_published": 1.06},
        {"worst_ratio_to_published": float("nan")},
        {"preferred": None},
        {
            "families": [
                {**family, "fits_well": True, "alpha": {"value": 1.0}, "beta": {"value": 1.0}}
                for family in record["families"]
            ]
        },
    ):
        assert benchmark.misses({**record, **change})
