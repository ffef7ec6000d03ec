"""What a whole study takes: operations, chip-hours and money by method, from the analytic part alone.

Every run is laid out on the cheapest slice and layout that hold it by the estimate, with the batch and the rules of its
config, as the search does it (search.py); its step takes what its operations need at an
assumed model FLOPs utilisation, or its lower bound where that is longer. Runs go to their limits: early stopping is not
foreseen. Scoring is not in it.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator
from pathlib import Path

from finetune_scaling.models.config import ModelConfig
from finetune_scaling.planning.chips import Chip, slices
from finetune_scaling.planning.search import analytic, candidates
from finetune_scaling.planning.totals import SECONDS_AN_HOUR, step_chip_seconds
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
    """All runs of one method, or the pretraining of all bases.

    chip_hours: by kind of chip; None where some run fits no slice of it.
    """

    runs: int
    flops: float
    chip_hours: dict[str, float | None]


@dataclasses.dataclass(frozen=True)
class _Planned:
    """One run: what it is summed under, its step, its operations and how many steps it goes."""

    group: str
    workload: Workload
    axes: AxisRules
    flops: float
    steps: int


def study_totals(study: StudyConfig, chips: list[Chip], utilisation: float) -> dict[str, MethodTotals]:
    """Totals by method, and of pretraining, on each kind of chip."""
    seconds = functools.cache(functools.partial(_step_seconds, utilisation=utilisation))
    totals: dict[str, MethodTotals] = {}
    for run in _planned(study):
        before = totals.get(run.group, MethodTotals(0, 0.0, {chip.kind: 0.0 for chip in chips}))
        hours = {
            chip.kind: _plus(before.chip_hours[chip.kind], run, seconds(run.workload, run.axes, chip)) for chip in chips
        }
        totals[run.group] = MethodTotals(before.runs + 1, before.flops + run.flops, hours)
    return totals


def _plus(hours: float | None, run: _Planned, step_seconds: float | None) -> float | None:
    if hours is None or step_seconds is None:
        return None
    return hours + run.steps * step_seconds / SECONDS_AN_HOUR


def _step_seconds(workload: Workload, axes: AxisRules, chip: Chip, utilisation: float) -> float | None:
    """Chip-seconds of a step on the cheapest slice that holds it; None where none does."""
    chosen = analytic(candidates([workload], slices(chip), axes))
    return None if chosen is None else step_chip_seconds(workload, chip, chosen.chip_seconds, utilisation)


def _planned(study: StudyConfig) -> Iterator[_Planned]:
    workdir = Path()
    for run in runs(study):
        setting = run.setting
        run_config = read_run_config(finetuning_config(study, workdir, run))
        model = tuned_model(study.families[setting.family], setting.size, run_config)
        yield _plan(setting.method, model, run_config, setting.finetune_examples / run_config.batch_size)
    for base in bases(study):
        if base.tokens is None:  # public bases are there
            run_config = read_run_config(pretraining_config(study, workdir, base))
            yield _plan(PRETRAINING, family_model(study.families[base.family], base.size), run_config, math.inf)


def _plan(group: str, model: ModelConfig, run_config: RunConfig, steps_per_epoch: float) -> _Planned:
    workload = read_workload(run_config, model)
    steps, _ = run_config.limits.last_step(steps_per_epoch, workload.batch * workload.length)
    flops = expected_flops(run_config, model, steps_per_epoch * run_config.batch_size)  # type: ignore[arg-type]
    return _Planned(group, workload, run_config.sharding.axes, flops, steps)
