"""Workloads for tests of the planner; none is allocated."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from finetune_scaling.models.ladder import PAPER_VOCABULARY, model_config
from finetune_scaling.planning.workload import Workload
from finetune_scaling.training.optimizers import OptimizerConfig
from finetune_scaling.tuning.method import configure
from finetune_scaling.tuning.registry import METHODS


@pytest.fixture(scope="session")
def workload() -> Callable[..., Workload]:
    """Return workload("16b", "lora", rank=4): size and method; fields of Workload and the method's options by keyword.

    `options` has those of the method's options that Workload has a field of the same name for.
    """

    def make(size: str = "100k", method: str = "full", vocabulary: int = 512, **changes: Any) -> Workload:
        paper = size in ("1b", "2b", "4b", "8b", "16b")
        model = model_config({"name": size}, PAPER_VOCABULARY) if paper else model_config({"name": size}, vocabulary)
        fields = {field.name for field in dataclasses.fields(Workload)}
        options = dict(changes.pop("options", {}))
        options |= {name: changes.pop(name) for name in list(changes) if name not in fields}
        tuning = configure(METHODS, {"name": method, **options})
        defaults = {"batch": 16, "length": 64, "evaluation_batch": 8}
        return Workload(model, tuning, OptimizerConfig(), **{**defaults, **changes})

    return make
