"""Plan a run: python -m finetune_scaling.plan --config=... --topology=v5e:4x4

Compiles the run's programs for a TPU slice, on a machine without TPU, and prints memory, collectives, a lower bound of
the step time, chip-hours and cost. For GPUs (h100:8) and CPUs the same is estimated. --search finds the cheapest layout
that fits for each kind of chip, --study sums over a study, --json prints JSON only. See docs/planning.md.
"""

import dataclasses
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
from absl import flags
from ml_collections import config_flags

from finetune_scaling import command
from finetune_scaling.errors import ConfigError
from finetune_scaling.models.attention import check_attention
from finetune_scaling.planning import plans, prices
from finetune_scaling.planning.chips import CHIPS, Chip, Slice, available_slices, find_chip, find_slice
from finetune_scaling.planning.formatting import format_plan, format_study
from finetune_scaling.planning.layout import Layout, state_shapes
from finetune_scaling.planning.search import (
    Candidate,
    by_slice_size,
    candidates,
    compile_until_fit,
    compile_until_fit_by_size,
    first_estimated_to_fit,
)
from finetune_scaling.planning.study_totals import MethodTotals, study_totals
from finetune_scaling.planning.topology import prepare_environment
from finetune_scaling.planning.totals import RunTotals, run_totals
from finetune_scaling.planning.workload import Workload, planned_model, read_workload
from finetune_scaling.runs.run_config import RunConfig, read_run_config
from finetune_scaling.sharding.axes import AxisRules
from finetune_scaling.studies.grid import read_study
from finetune_scaling.trees import parameter_count

log = logging.getLogger(__name__)

_CONFIG = config_flags.DEFINE_config_file("config", help_string="Config of the run; with --study, of the study.")
_PRICES = config_flags.DEFINE_config_file("prices", "configs/prices.py", "Config of the prices per chip-hour.")
_TOPOLOGY = flags.DEFINE_string(
    "topology", "", "Slice (v5e:4x4, h100:8); with --study a kind of chip, with --search either."
)
_BATCH = flags.DEFINE_integer("batch", None, "Sequences per step; default: the config's.", lower_bound=1)
_BATCHES = flags.DEFINE_list(
    "batches", None, "With --search: batch sizes to compare by cost per sequence, such as 16,32,64."
)
_LENGTH = flags.DEFINE_integer("length", None, "Tokens per row; default: the config's.", lower_bound=1)
_MODEL = flags.DEFINE_string("model", None, "Model size of the ladder; default: that of the config's model or base.")
_VOCABULARY = flags.DEFINE_integer("vocabulary", None, "Vocabulary size if the tokenizer does not exist yet.", 1)
_SEARCH = flags.DEFINE_boolean("search", False, "Find the cheapest layout that fits, for each kind of chip.")
_SMALLEST = flags.DEFINE_boolean("smallest", False, "With --search: find the smallest slice that the run fits.")
_STUDY = flags.DEFINE_boolean("study", False, "Sum chip-hours and cost over a study.")
_TRAINING_ONLY = flags.DEFINE_boolean("training_only", False, "Compile the train step only.")
_ANALYTIC = flags.DEFINE_boolean("analytic", False, "Estimate without compiling, for TPUs too.")
_UTILISATION = flags.DEFINE_float(
    "utilisation", 0.4, "Assumed model FLOPs utilisation, a fraction of peak.", lower_bound=1e-3, upper_bound=1
)
_JSON = flags.DEFINE_boolean("json", False, "JSON on stdout and nothing else.")


def main() -> None:
    """Plan a run, search for its layout, or sum over a study."""
    _check_flags()
    config = command.read_config(_CONFIG)
    table = prices.read_prices(command.read_config(_PRICES))
    if _STUDY.value:
        result = plan_study(config, table)
        print(json.dumps(result) if _JSON.value else format_study(result))
        return
    run_configs = _run_configs_by_batch(read_run_config(config))
    model = planned_model(next(iter(run_configs.values())), _MODEL.value, _VOCABULARY.value)
    workloads = {batch: read_workload(run_config, model) for batch, run_config in run_configs.items()}
    if _SEARCH.value:
        found = search(list(workloads.values()), next(iter(run_configs.values())).sharding.axes)
    else:
        found = [plan_run(run_config, workloads[batch]) for batch, run_config in run_configs.items()]
    results = [_result(entry, run_configs[entry.workload.batch], table) for entry in found]
    _print(results, found)


def _check_flags() -> None:
    if _SMALLEST.value and not _SEARCH.value:
        raise ConfigError("--smallest needs --search; give both")
    if _SEARCH.value and _STUDY.value:
        raise ConfigError("--search plans one run and --study a study; give one of them")
    if not (_SEARCH.value or _STUDY.value):
        command.required(_TOPOLOGY)
    if _STUDY.value:
        for flag in (_BATCH, _BATCHES, _LENGTH, _MODEL, _VOCABULARY):
            if flag.value is not None:
                raise ConfigError(f"--{flag.name} is for one run; a study takes it from its config: remove the flag")
        kind, shaped, _ = _TOPOLOGY.value.partition(":")
        if shaped:
            raise ConfigError(f"--study chooses a slice for each run; give only the kind of chip, --topology={kind}")
    if _BATCHES.value and (not _SEARCH.value or _BATCH.value is not None):
        raise ConfigError("--batches needs --search and excludes --batch")
    if _TRAINING_ONLY.value and (_SEARCH.value or _STUDY.value or not _compiles(find_slice(_TOPOLOGY.value).chip)):
        raise ConfigError("--training-only is for one run compiled for a TPU slice; remove it")


def _run_configs_by_batch(run_config: RunConfig) -> dict[int, RunConfig]:
    """Return the run config with --length and --batch, or one for each of --batches, by batch size."""
    if _BATCH.value is not None and _BATCH.value % run_config.batch.accumulation:
        raise ConfigError(f"--batch={_BATCH.value} must be a multiple of batch.accumulation")
    if _LENGTH.value is not None:
        sequence = dataclasses.replace(run_config.sequence, length=_LENGTH.value)
        batch = dataclasses.replace(run_config.batch, row_length=None)
        run_config = dataclasses.replace(run_config, sequence=sequence, batch=batch)
    if _BATCHES.value:
        return {size: _with_batch(run_config, size, accumulation=1) for size in _batches()}  # the search varies it
    if _BATCH.value is not None:
        return {_BATCH.value: _with_batch(run_config, _BATCH.value, run_config.batch.accumulation)}
    return {run_config.batch_size: run_config}


def _batches() -> list[int]:
    """Return the batch sizes of --batches. Raises ConfigError for one that is not a positive integer."""
    given = _BATCHES.value or []
    for text in given:
        if not text.isdecimal() or not int(text):
            raise ConfigError(f"--batches: {text!r} is not a number of sequences; give numbers such as 16,32,64")
    return [int(text) for text in given]


def _with_batch(run_config: RunConfig, size: int, accumulation: int) -> RunConfig:
    batch = dataclasses.replace(run_config.batch, size=size, accumulation=accumulation)
    return dataclasses.replace(run_config, batch=batch)


@dataclasses.dataclass(frozen=True)
class PlannedStep:
    """A plan, its workload, and the plans that were compiled before it and did not fit."""

    plan: plans.Plan
    workload: Workload
    refused: tuple[plans.Plan, ...] = ()


def plan_run(run_config: RunConfig, workload: Workload) -> PlannedStep:
    """Return the plan of the config's layout on the slice of --topology."""
    slice_ = find_slice(_TOPOLOGY.value)
    check_attention(workload.model, slice_.chip.platform)
    layout = plans.configured_layout(workload, slice_, run_config.sharding, run_config.batch.accumulation)
    return PlannedStep(_planned(workload, slice_, layout, _TRAINING_ONLY.value), workload)


def _planned(workload: Workload, slice_: Slice, layout: Layout, training_only: bool) -> plans.Plan:
    if not _compiles(slice_.chip):
        return plans.estimated_plan(workload, slice_, layout)
    prepare_environment(slice_)  # fails early if libtpu is missing
    return plans.compiled_plan(workload, slice_, layout, training_only)


def _compiles(chip: Chip) -> bool:
    return chip.is_tpu and not _ANALYTIC.value


def search(workloads: Sequence[Workload], axes: AxisRules) -> list[PlannedStep]:
    """Return, for each kind of chip, the plan of the cheapest batch and layout that fit; workloads differ in batch."""
    found: list[PlannedStep] = []
    for chip, chosen in _slices():
        try:
            check_attention(workloads[0].model, chip.platform)
        except ConfigError as error:
            if _TOPOLOGY.value:
                raise
            log.warning("%s is omitted: %s", chip.kind, error)
            continue
        best = _search_kind(candidates(workloads, chosen, axes))
        if best is None:
            log.warning("%s: no layout fits", chip.kind)
        else:
            found.append(best)
    if not found:
        raise ConfigError("no layout fits; give a larger slice, a smaller batch or another kind of chip (--topology)")
    return found


def _search_kind(ranked: list[Candidate]) -> PlannedStep | None:
    """Return the best candidate of one kind of chip, cheapest first; None if none fits."""
    ordered = by_slice_size(ranked) if _SMALLEST.value else ranked
    if not ranked or not _compiles(ranked[0].slice.chip):
        best = first_estimated_to_fit(ordered)
        if best is None:
            return None
        return PlannedStep(plans.estimated_plan(best.workload, best.slice, best.layout), best.workload)

    def compile_(candidate: Candidate) -> tuple[bool, plans.Plan]:
        plan = _planned(candidate.workload, candidate.slice, candidate.layout, training_only=True)
        return plan.training.fits, plan

    compile_candidates = compile_until_fit_by_size if _SMALLEST.value else compile_until_fit
    best, tried = compile_candidates(ordered, compile_)
    plans_made = [plan for _, plan in tried]
    return None if best is None else PlannedStep(plans_made.pop(), best.workload, tuple(plans_made))


def _slices() -> Iterator[tuple[Chip, tuple[Slice, ...]]]:
    """Yield the kinds of chips that --topology allows, each with its slices."""
    if ":" in _TOPOLOGY.value:
        one = find_slice(_TOPOLOGY.value)
        yield one.chip, (one,)
        return
    for chip in [find_chip(_TOPOLOGY.value)] if _TOPOLOGY.value else CHIPS.values():
        yield chip, available_slices(chip)


def _result(found: PlannedStep, run_config: RunConfig, table: prices.Prices) -> dict[str, Any]:
    """Return the JSON of a plan: plan, model, totals and cost of the run, and plans that did not fit."""
    plan, workload = found.plan, found.workload
    state, frozen = state_shapes(workload)
    trainable = parameter_count(state.trainable)
    model = {"parameters": trainable + parameter_count(frozen), "trainable_parameters": trainable}
    return {
        **plans.as_json(plan),
        "batch": workload.batch,
        "length": workload.length,
        "chip_seconds_per_sequence_bound": plan.chip_seconds / workload.batch,
        "model": model,
        **_totals_and_cost(plan, run_config, workload, table),
        **({"refused": [plans.as_json(other) for other in found.refused]} if found.refused else {}),
    }


def _totals_and_cost(
    plan: plans.Plan, run_config: RunConfig, workload: Workload, table: prices.Prices
) -> dict[str, Any]:
    price = prices.price_of(table, plan.slice.chip.kind)
    try:
        totals = run_totals(run_config, workload, plan.slice.chip, plan.chip_seconds, _UTILISATION.value)
    except ConfigError as error:  # only the number of steps is unknown
        return {"run": None, "run_unknown": str(error), "usd": None}
    return {"run": dataclasses.asdict(totals), "usd": _usd(price, totals)}


def _usd(price: prices.Price, totals: RunTotals) -> dict[str, Any]:
    return {
        "bound": prices.cost(price, totals.chip_hours_bound),
        "likely": prices.cost(price, totals.chip_hours),
        "price": dataclasses.asdict(price),
    }


def _print(results: list[dict[str, Any]], found: list[PlannedStep]) -> None:
    if _JSON.value:
        print(json.dumps(results if _SEARCH.value else results[0]))
        return
    print("\n\n".join(format_plan(entry.plan, result) for entry, result in zip(found, results, strict=True)))


def plan_study(config: Mapping[str, Any], table: prices.Prices) -> dict[str, Any]:
    """Return the totals of a study by method, of pretraining, and in total: runs, FLOPs, chip-hours and US dollars."""
    chips = [chip for chip, _ in _slices()]
    jax.config.update("jax_platforms", "cpu")
    methods = study_totals(read_study(config), chips, _UTILISATION.value)
    rows = {name: _study_row(totals, table) for name, totals in methods.items()}
    total = _study_row(_sum(list(methods.values())), table)
    return {
        "runs": total["runs"],
        "utilisation": _UTILISATION.value,
        "chips": [chip.kind for chip in chips],
        "methods": rows,
        "total": total,
    }


def _study_row(totals: MethodTotals, table: prices.Prices) -> dict[str, Any]:
    usd = {kind: prices.cost(prices.price_of(table, kind), hours) for kind, hours in totals.chip_hours.items()}
    return {**dataclasses.asdict(totals), "usd": usd}


def _sum(parts: list[MethodTotals]) -> MethodTotals:
    kinds = parts[0].chip_hours

    def hours(kind: str) -> float | None:
        found = [part.chip_hours[kind] for part in parts]
        return None if None in found else sum(value for value in found if value is not None)

    return MethodTotals(
        runs=sum(part.runs for part in parts),
        flops=sum(part.flops for part in parts),
        chip_hours={kind: hours(kind) for kind in kinds},
    )


if __name__ == "__main__":
    command.run(main)
