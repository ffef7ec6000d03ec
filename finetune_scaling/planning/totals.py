"""From a step to a whole run: how many steps, and the hours of chips that they take."""

import dataclasses
import math

from finetune_scaling.errors import ConfigError
from finetune_scaling.planning.bounds import model_flops
from finetune_scaling.planning.chips import Chip
from finetune_scaling.planning.workload import Workload
from finetune_scaling.runs.run_config import RunConfig

SECONDS_AN_HOUR = 3600.0


@dataclasses.dataclass(frozen=True)
class RunTotals:
    """A run to its limits. limit: which one ends it.

    chip_hours_bound: of its steps at the lower bound of their time. chip_hours: at an assumed model FLOPs utilisation
    (utilisation, the share of a chip's peak), or at the bound where that takes longer. Scoring and start-up are not in
    it.
    """

    steps: int
    limit: str
    flops: float
    chip_hours_bound: float
    chip_hours: float
    utilisation: float


def run_steps(run_config: RunConfig) -> tuple[int, str]:
    """Steps until the first limit, and its name.

    Epochs are counted where finetune_examples is given; else they are left out, and ConfigError is raised where no
    other limit is given.
    """
    limits, batch = run_config.limits, run_config.batch_size
    tokens = batch * (run_config.batch.row_length or run_config.sequence.length)
    if limits.max_epochs is None or run_config.finetune_examples is not None:
        return limits.last_step((run_config.finetune_examples or 0) / batch, tokens)
    others = dataclasses.replace(limits, max_epochs=None) if limits.max_steps or limits.max_tokens else None
    if others is None:
        raise ConfigError("finetune_examples is not given, so limits.max_epochs is no number of steps; give it a value")
    return others.last_step(math.inf, tokens)


def step_chip_seconds(workload: Workload, chip: Chip, bound_chip_seconds: float, utilisation: float) -> float:
    """Chip-seconds of a train step at a model FLOPs utilisation, and no less than its bound."""
    return max(model_flops(workload) / (chip.peak_flops * utilisation), bound_chip_seconds)


def run_totals(
    run_config: RunConfig, workload: Workload, chip: Chip, bound_chip_seconds: float, utilisation: float
) -> RunTotals:
    """The whole run; bound_chip_seconds: of one step, chips times the lower bound of its time."""
    steps, limit = run_steps(run_config)
    likely = step_chip_seconds(workload, chip, bound_chip_seconds, utilisation)
    return RunTotals(
        steps=steps,
        limit=limit,
        flops=steps * model_flops(workload),
        chip_hours_bound=steps * bound_chip_seconds / SECONDS_AN_HOUR,
        chip_hours=steps * likely / SECONDS_AN_HOUR,
        utilisation=utilisation,
    )
