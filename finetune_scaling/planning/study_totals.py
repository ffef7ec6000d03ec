"""Totals of a study by method: runs, FLOPs and chip-hours, estimated without compiling.

Every run gets the cheapest slice and layout that fit by the estimate (search.py), with the batch and sharding rules of
its config. Its steps run at an assumed model FLOPs utilisation, or at the lower bound if that takes longer. Early
stopping and evaluation are not included.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator
from pathlib import Path

from finetune_scaling.models.config import ModelConfig
from finetune_scaling.planning.chips import Chip, available_slices
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

PRETRAINING = "pretraining"


@dataclasses.dataclass(frozen=True)
class MethodTotals:
    """Totals of all runs of one method, or of the pretraining of all bases.

    chip_hours: by kind of chip; None if a run fits no slice of that kind.
    """

    runs: int
    flops: float
    chip_hours: dict[str, float | None]


@dataclasses.dataclass(frozen=True)
class _PlannedRun:
    """One run of the study: its group (method or pretraining), its step, FLOPs and number of steps."""

    group: str
    workload: Workload
    axes: AxisRules
    flops: float
    steps: int


def study_totals(study: StudyConfig, chips: list[Chip], utilisation: float) -> dict[str, MethodTotals]:
    """Return the totals by method, and of pretraining, with chip-hours for each kind of chip."""
    seconds = functools.cache(functools.partial(_step_seconds, utilisation=utilisation))
    totals: dict[str, MethodTotals] = {}
    for run in _planned_runs(study):
        before = totals.get(run.group, MethodTotals(0, 0.0, {chip.kind: 0.0 for chip in chips}))
        hours = {
            chip.kind: _plus(before.chip_hours[chip.kind], run, seconds(run.workload, run.axes, chip)) for chip in chips
        }
        totals[run.group] = MethodTotals(before.runs + 1, before.flops + run.flops, hours)
    return totals


def _plus(hours: float | None, run: _PlannedRun, step_seconds: float | None) -> float | None:
    if hours is None or step_seconds is None:
        return None
    return hours + run.steps * step_seconds / SECONDS_PER_HOUR


def _step_seconds(workload: Workload, axes: AxisRules, chip: Chip, utilisation: float) -> float | None:
    """Return the chip-seconds of a step on the cheapest slice that it fits; None if there is no such slice."""
    chosen = first_estimated_to_fit(candidates([workload], available_slices(chip), axes))
    return None if chosen is None else step_chip_seconds(workload, chip, chosen.chip_seconds, utilisation)


def _planned_runs(study: StudyConfig) -> Iterator[_PlannedRun]:
    workdir = Path()
    for run in runs(study):
        setting = run.setting
        run_config = read_run_config(finetuning_config(study, workdir, run))
        model = tuned_model(study.families[setting.family], setting.size, run_config)
        yield _planned_run(setting.method, model, run_config, setting.finetune_examples / run_config.batch_size)
    for base in bases(study):
        if base.tokens is None:  # public bases are not pretrained
            run_config = read_run_config(pretraining_config(study, workdir, base))
            yield _planned_run(PRETRAINING, family_model(study.families[base.family], base.size), run_config, math.inf)


def _planned_run(group: str, model: ModelConfig, run_config: RunConfig, steps_per_epoch: float) -> _PlannedRun:
    workload = read_workload(run_config, model)
    steps, _ = run_config.limits.last_step(steps_per_epoch, workload.batch * workload.length)
    flops = expected_flops(run_config, model, steps_per_epoch * run_config.batch_size)  # type: ignore[arg-type]
    return _PlannedRun(group, workload, run_config.sharding.axes, flops, steps)
