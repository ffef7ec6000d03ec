"""Plan a run: python -m finetune_scaling.plan --config=... --topology=v5e:4x4

Compiles the run's programs for a TPU slice, on a machine without TPU, and prints memory, collectives, a lower bound of
the step time, chip-hours and cost. For GPUs (h100:8) and CPUs the same is estimated. --search finds the cheapest layout
that fits for each kind of chip, --study sums over a study, --json prints JSON only. See docs/planning.md.
"""

import dataclasses
import json
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from absl import flags
from ml_collections import config_flags

from finetune_scaling import command
from finetune_scaling.errors import ConfigError
from finetune_scaling.models.attention import check_attention
from finetune_scaling.planning.chips import CHIPS, Chip, Slice, available_slices, find_chip, find_slice
from finetune_scaling.planning.estimate import estimate_step
from finetune_scaling.planning.formatting import format_plan, format_study
from finetune_scaling.planning.layout import state_shapes
from finetune_scaling.planning.plans import Plan, as_json, compiled_plan, configured_layout, estimated_plan
from finetune_scaling.planning.prices import Prices, cost, price_of, read_prices
from finetune_scaling.planning.search import best_plan, candidates
from finetune_scaling.planning.study_totals import study_totals
from finetune_scaling.planning.totals import run_totals
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
    jax.config.update("jax_platforms", "cpu")
    config = command.read_config(_CONFIG)
    prices = read_prices(command.read_config(_PRICES))
    if _STUDY.value:
        totals = study_totals(read_study(config), [chip for chip, _ in _slices()], prices, _UTILISATION.value)
        print(json.dumps(totals) if _JSON.value else format_study(totals))
        return
    run_configs = _run_configs_by_batch(read_run_config(config))
    first = next(iter(run_configs.values()))
    model = planned_model(first, _MODEL.value, _VOCABULARY.value)
    workloads = [read_workload(run_config, model) for run_config in run_configs.values()]
    found = search(workloads, first.sharding.axes) if _SEARCH.value else [plan_run(first, workloads[0])]
    results = [_result(plan, run_configs[plan.workload.batch], prices) for plan in found]
    if _JSON.value:
        print(json.dumps(results if _SEARCH.value else results[0]))
    else:
        print("\n\n".join(map(format_plan, found, results)))


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
        raise ConfigError("--batches needs --search and excludes --batch; add --search, or remove one of the two")
    if _TRAINING_ONLY.value and (_SEARCH.value or _STUDY.value or not _compiles(find_slice(_TOPOLOGY.value).chip)):
        raise ConfigError("--training-only is for one run compiled for a TPU slice; remove it")


def _run_configs_by_batch(run_config: RunConfig) -> dict[int, RunConfig]:
    """Return the run config with --length and --batch, or one for each of --batches, by batch size."""
    if _BATCH.value is not None and _BATCH.value % run_config.batch.accumulation:
        raise ConfigError(
            f"--batch={_BATCH.value} must be a multiple of batch.accumulation = {run_config.batch.accumulation}"
        )
    if _LENGTH.value is not None:
        sequence = dataclasses.replace(run_config.sequence, length=_LENGTH.value)
        batch = dataclasses.replace(run_config.batch, row_length=None)
        run_config = dataclasses.replace(run_config, sequence=sequence, batch=batch)
    if _BATCHES.value:
        sizes = _batch_sizes(_BATCHES.value)
        return {size: _with_batch(run_config, size, accumulation=1) for size in sizes}  # the search varies it
    size = _BATCH.value or run_config.batch_size
    return {size: _with_batch(run_config, size, run_config.batch.accumulation)}


def _batch_sizes(texts: Sequence[str]) -> list[int]:
    """Return the batch sizes of --batches. Raises ConfigError for one that is not a positive integer."""
    for text in texts:
        if not text.isdecimal() or not int(text):
            raise ConfigError(f"--batches: {text!r} is not a number of sequences; give numbers such as 16,32,64")
    return [int(text) for text in texts]


def _with_batch(run_config: RunConfig, size: int, accumulation: int) -> RunConfig:
    batch = dataclasses.replace(run_config.batch, size=size, accumulation=accumulation)
    return dataclasses.replace(run_config, batch=batch)


def plan_run(run_config: RunConfig, workload: Workload) -> Plan:
    """Return the plan of the config's layout on the slice of --topology."""
    slice_ = find_slice(_TOPOLOGY.value)
    check_attention(workload.model, slice_.chip.platform)
    layout = configured_layout(workload, slice_, run_config.sharding, run_config.batch.accumulation)
    step = estimate_step(workload, slice_, layout)
    return compiled_plan(step, _TRAINING_ONLY.value) if _compiles(slice_.chip) else estimated_plan(step)


def _compiles(chip: Chip) -> bool:
    return chip.is_tpu and not _ANALYTIC.value


def search(workloads: Sequence[Workload], axes: AxisRules) -> list[Plan]:
    """Return, for each kind of chip, the plan of the cheapest batch and layout that fit; workloads differ in batch."""
    found: list[Plan] = []
    for chip, slices in _slices():
        try:
            check_attention(workloads[0].model, chip.platform)
        except ConfigError as error:
            if _TOPOLOGY.value:
                raise
            log.warning("%s is omitted: %s", chip.kind, error)
            continue
        ranked = candidates(workloads, slices, axes)
        plan = best_plan(ranked, smallest=_SMALLEST.value, compiling=_compiles(chip))
        if plan is None:
            log.warning("%s: no layout fits", chip.kind)
        else:
            found.append(plan)
    if not found:
        raise ConfigError("no layout fits; give a larger slice, a smaller batch or another kind of chip (--topology)")
    return found


def _slices() -> Iterator[tuple[Chip, tuple[Slice, ...]]]:
    """Yield the kinds of chips that --topology allows, each with its slices."""
    if ":" in _TOPOLOGY.value:
        one = find_slice(_TOPOLOGY.value)
        yield one.chip, (one,)
        return
    for chip in [find_chip(_TOPOLOGY.value)] if _TOPOLOGY.value else CHIPS.values():
        yield chip, available_slices(chip)


def _result(plan: Plan, run_config: RunConfig, prices: Prices) -> dict[str, Any]:
    """Return the JSON of a plan: plan, model, totals and cost of the run, and plans that did not fit."""
    workload = plan.workload
    state, frozen = state_shapes(workload)
    trainable = parameter_count(state.trainable)
    return {
        **as_json(plan),
        "batch": workload.batch,
        "length": workload.length,
        "chip_seconds_per_sequence_bound": plan.chip_seconds / workload.batch,
        "model": {"parameters": trainable + parameter_count(frozen), "trainable_parameters": trainable},
        **_totals_and_cost(plan, run_config, prices),
        **({"refused": list(map(as_json, plan.refused))} if plan.refused else {}),
    }


def _totals_and_cost(plan: Plan, run_config: RunConfig, prices: Prices) -> dict[str, Any]:
    price = price_of(prices, plan.slice.chip.kind)
    try:
        totals = run_totals(run_config, plan.workload, plan.slice.chip, plan.chip_seconds, _UTILISATION.value)
    except ConfigError as error:  # only the number of steps is unknown
        return {"run": None, "run_unknown": str(error), "usd": None}
    usd = {"bound": cost(price, totals.chip_hours_bound), "likely": cost(price, totals.chip_hours)}
    return {"run": dataclasses.asdict(totals), "usd": {**usd, "price": dataclasses.asdict(price)}}


if __name__ == "__main__":
    command.run(main)
