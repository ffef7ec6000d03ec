"""Totals of a study by method: runs, FLOPs, chip-hours and cost, estimated without compiling.

Every run gets the cheapest slice and layout that fit by the estimate (search.py), with the batch and sharding rules of
its config. Its steps run at an assumed model FLOPs utilisation, or at the lower bound if that takes longer. Early
stopping and evaluation are not included.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from finetune_scaling.chips import Chip, available_slices
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.planning.prices import Prices, cost, price_of
from finetune_scaling.planning.search import candidates, first_estimated_to_fit
from finetune_scaling.planning.totals import SECONDS_PER_HOUR, step_chip_seconds
from finetune_scaling.planning.workload import Workload, read_workload
from finetune_scaling.runs.run_config import RunConfig, read_run_config
from finetune_scaling.sharding.axes import AxisRules
from finetune_scaling.studies.configs import (
    bases,
    expected_flops,
    family_model,
    finetuning_config,
    pretraining_config,
    tuned_model,
)
from finetune_scaling.studies.grid import StudyConfig, runs
from finetune_scaling.studies.limits import grid_limits

PRETRAINING = "pretraining"


@dataclasses.dataclass(frozen=True)
class _PlannedRun:
    """One run of the study: its group (method or pretraining), its step, FLOPs and number of steps."""

    group: str
    workload: Workload
    axes: AxisRules
    flops: float
    steps: int


def study_totals(study: StudyConfig, chips: Sequence[Chip], prices: Prices, utilisation: float) -> dict[str, Any]:
    """Return runs, FLOPs, chip-hours and US dollars of a study by method, of pretraining, and in total.

    chip_hours: by kind of chip; None if a run fits no slice of that kind. undetermined: what the grid cannot determine.
    """
    chip_seconds = functools.cache(functools.partial(_step_chip_seconds, utilisation=utilisation))
    table = pd.DataFrame(
        {
            "group": run.group,
            "flops": run.flops,
            **{chip.kind: run.steps * chip_seconds(run.workload, run.axes, chip) / SECONDS_PER_HOUR for chip in chips},
        }
        for run in _planned_runs(study)
    )
    kinds = [chip.kind for chip in chips]
    return {
        "runs": len(table),
        "utilisation": utilisation,
        "chips": kinds,
        "methods": {name: _sums(rows, kinds, prices) for name, rows in table.groupby("group", sort=False)},
        "total": _sums(table, kinds, prices),
        "undetermined": grid_limits(study),
    }


def _sums(rows: pd.DataFrame, kinds: list[str], prices: Prices) -> dict[str, Any]:
    hours = {kind: float(count) if math.isfinite(count) else None for kind, count in rows[kinds].sum().items()}
    usd = {kind: cost(price_of(prices, kind), count) for kind, count in hours.items()}
    return {"runs": len(rows), "flops": float(rows["flops"].sum()), "chip_hours": hours, "usd": usd}


def _step_chip_seconds(workload: Workload, axes: AxisRules, chip: Chip, utilisation: float) -> float:
    """Return the chip-seconds of a step on the cheapest slice that it fits; infinity if there is no such slice."""
    chosen = first_estimated_to_fit(candidates([workload], available_slices(chip), axes))
    return math.inf if chosen is None else step_chip_seconds(workload, chip, chosen.chip_seconds, utilisation)


def _planned_runs(study: StudyConfig) -> Iterator[_PlannedRun]:
    workdir = Path()
    for run in runs(study):
        setting = run.setting
        run_config = read_run_config(finetuning_config(study, workdir, run))
        model = tuned_model(study.families[setting.family], setting.size, run_config)
        yield _planned_run(setting.method, model, run_config, setting.finetune_examples / run_config.batch_size)
    for base in bases(study):
        if not base.is_public:
            run_config = read_run_config(pretraining_config(study, workdir, base))
            yield _planned_run(PRETRAINING, family_model(study.families[base.family], base.size), run_config, math.inf)


def _planned_run(group: str, model: ModelConfig, run_config: RunConfig, steps_per_epoch: float) -> _PlannedRun:
    workload = read_workload(run_config, model)
    steps, _ = run_config.limits.last_step(steps_per_epoch, workload.batch * workload.length)
    flops = expected_flops(run_config, model, steps_per_epoch * run_config.batch_size)  # type: ignore[arg-type]
    return _PlannedRun(group, workload, run_config.sharding.axes, flops, steps)
