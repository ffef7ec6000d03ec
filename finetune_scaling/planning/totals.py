"""Totals of a run: steps and chip-hours."""

import dataclasses

from finetune_scaling.chips import Chip
from finetune_scaling.errors import ConfigError
from finetune_scaling.planning.bounds import model_flops
from finetune_scaling.planning.workload import Workload
from finetune_scaling.runs.run_config import RunConfig

SECONDS_PER_HOUR = 3600.0


@dataclasses.dataclass(frozen=True)
class RunTotals:
    """Totals of a run until its first limit, without evaluation and start-up.

    limit: the name of that limit.
    chip_hours_bound: chip-hours at the lower bound of the step time.
    chip_hours: chip-hours at an assumed model FLOPs utilisation, or at the bound if that takes longer.
    utilisation: the assumed fraction of peak FLOPs.
    """

    steps: int
    limit: str
    flops: float
    chip_hours_bound: float
    chip_hours: float
    utilisation: float


def run_steps(run_config: RunConfig) -> tuple[int, str]:
    """Return the steps until the first limit, and its name.

    limits.max_epochs is ignored if finetune_examples is unset. Raises ConfigError if no other limit is set.
    """
    limits, examples = run_config.limits, run_config.finetune_examples
    if limits.max_epochs is not None and examples is None:
        if not (limits.max_steps or limits.max_tokens):
            raise ConfigError("finetune_examples is not set, so limits.max_epochs gives no number of steps; set it")
        limits = dataclasses.replace(limits, max_epochs=None)
    return limits.last_step((examples or 0) / run_config.batch_size, run_config.tokens_per_step)


def step_chip_seconds(workload: Workload, chip: Chip, bound_chip_seconds: float, utilisation: float) -> float:
    """Return the chip-seconds of a train step at a model FLOPs utilisation, at least its lower bound."""
    return max(model_flops(workload) / (chip.peak_flops * utilisation), bound_chip_seconds)


def run_totals(
    run_config: RunConfig, workload: Workload, chip: Chip, bound_chip_seconds: float, utilisation: float
) -> RunTotals:
    """Return the totals of a run. bound_chip_seconds: chips times the lower bound of one step's time."""
    steps, limit = run_steps(run_config)
    at_utilisation = step_chip_seconds(workload, chip, bound_chip_seconds, utilisation)
    return RunTotals(
        steps=steps,
        limit=limit,
        flops=steps * model_flops(workload),
        chip_hours_bound=steps * bound_chip_seconds / SECONDS_PER_HOUR,
        chip_hours=steps * at_utilisation / SECONDS_PER_HOUR,
        utilisation=utilisation,
    )
