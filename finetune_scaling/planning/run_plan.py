"""The plan of a run: its configured layout on a slice, and its JSON with totals and cost."""

import dataclasses
from typing import Any

from finetune_scaling.chips import Slice
from finetune_scaling.errors import ConfigError
from finetune_scaling.models.attention_choice import check_attention
from finetune_scaling.planning.estimate import estimate_step
from finetune_scaling.planning.layout import state_shapes
from finetune_scaling.planning.plans import Plan, as_json, compiled_plan, configured_layout, estimated_plan
from finetune_scaling.planning.prices import Prices, cost, price_of
from finetune_scaling.planning.totals import run_totals
from finetune_scaling.planning.workload import Workload
from finetune_scaling.runs.run_config import RunConfig
from finetune_scaling.trees import parameter_count


def plan_run(
    run_config: RunConfig, workload: Workload, slice_: Slice, *, analytic: bool = False, training_only: bool = False
) -> Plan:
    """Return the plan of the config's layout on a slice, compiled for TPUs unless `analytic`.

    training_only: compile the train step only. Raises ConfigError if the slice does not suit model, batch or attention.
    """
    check_attention(workload.model, slice_.chip.platform)
    layout = configured_layout(workload, slice_, run_config.sharding, run_config.batch.accumulation)
    step = estimate_step(workload, slice_, layout)
    return compiled_plan(step, training_only) if slice_.chip.compiles(analytic) else estimated_plan(step)


def run_plan_as_json(plan: Plan, run_config: RunConfig, prices: Prices, utilisation: float) -> dict[str, Any]:
    """Return the JSON of a run's plan: plan, model, totals and cost of the run, and plans that did not fit.

    utilisation: the assumed model FLOPs utilisation, a fraction of peak.
    """
    workload = plan.workload
    state, frozen = state_shapes(workload)
    trainable = parameter_count(state.trainable)
    return {
        **as_json(plan),
        "batch": workload.batch,
        "length": workload.length,
        "chip_seconds_per_sequence_bound": plan.chip_seconds / workload.batch,
        "model": {"parameters": trainable + parameter_count(frozen), "trainable_parameters": trainable},
        **_totals_and_cost(plan, run_config, prices, utilisation),
        **({"refused": list(map(as_json, plan.refused))} if plan.refused else {}),
    }


def _totals_and_cost(plan: Plan, run_config: RunConfig, prices: Prices, utilisation: float) -> dict[str, Any]:
    price = price_of(prices, plan.slice.chip.kind)
    try:
        totals = run_totals(run_config, plan.workload, plan.slice.chip, plan.chip_seconds, utilisation)
    except ConfigError as error:  # only the number of steps is unknown
        return {"run": None, "run_unknown": str(error), "usd": None}
    usd = {"bound": cost(price, totals.chip_hours_bound), "likely": cost(price, totals.chip_hours)}
    return {"run": dataclasses.asdict(totals), "usd": {**usd, "price": dataclasses.asdict(price)}}
