"""Plan a run: python -m finetune_scaling.plan --config=... --topology=v5e:4x4

Compiles the run's programs for a TPU slice, on a machine without TPU, and prints memory, collectives, a lower bound of
the step time, chip-hours and cost. For GPUs (h100:8) and CPUs the same is estimated. --search finds the cheapest layout
that fits for each kind of chip, --study sums over a study, --json prints JSON only. See docs/planning.md.
"""

import dataclasses
from collections.abc import Sequence

from absl import flags

from finetune_scaling import command
from finetune_scaling.chips import CHIPS, Chip, Slice, available_slices, find_chip, find_slice
from finetune_scaling.command_flags import config_flag, integer_flag, read_config, required
from finetune_scaling.errors import ConfigError
from finetune_scaling.planning.default_prices import default_prices
from finetune_scaling.planning.formatting import format_plan, format_study
from finetune_scaling.planning.prices import Prices, read_prices
from finetune_scaling.planning.run_plan import plan_run, run_plan_as_json
from finetune_scaling.planning.search import search_kinds
from finetune_scaling.planning.study_totals import study_totals
from finetune_scaling.planning.workload import planned_model, read_workload
from finetune_scaling.runs.run_config import RunConfig, read_run_config
from finetune_scaling.strict_json import format_json
from finetune_scaling.studies.grid import read_study

_CONFIG = config_flag("config", "Config of the run; with --study, of the study.")
_PRICES = config_flag("prices", "Config of the prices per chip-hour.", lambda _: Prices, default_prices)
_TOPOLOGY = flags.DEFINE_string(
    "topology", "", "Slice (v5e:4x4, h100:8); with --study a kind of chip, with --search either."
)
_BATCH = integer_flag("batch", None, "Sequences per step; default: the config's.", lower_bound=1)
_BATCHES = flags.DEFINE_list(
    "batches", None, "With --search: batch sizes to compare by cost per sequence, such as 16,32,64."
)
_LENGTH = integer_flag("length", None, "Tokens per row; default: the config's.", lower_bound=1)
_MODEL = flags.DEFINE_string("model", None, "Model size of the ladder; default: that of the config's model or base.")
_VOCABULARY = integer_flag("vocabulary", None, "Vocabulary size if the tokenizer does not exist yet.", 1)
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
    config = read_config(_CONFIG)
    prices = read_prices(read_config(_PRICES))
    if _STUDY.value:
        totals = study_totals(read_study(config), list(_slices()), prices, _UTILISATION.value)
        print(format_json(totals) if _JSON.value else format_study(totals))
        return
    run_configs = _run_configs_by_batch(read_run_config(config))
    first = next(iter(run_configs.values()))
    model = planned_model(first, _MODEL.value, _VOCABULARY.value)
    workloads = [read_workload(run_config, model) for run_config in run_configs.values()]
    if _SEARCH.value:
        found = search_kinds(
            workloads, _slices(), first.sharding.axes, smallest=_SMALLEST.value, analytic=_ANALYTIC.value
        )
    else:
        slice_, analytic = find_slice(_TOPOLOGY.value), _ANALYTIC.value
        found = [plan_run(first, workloads[0], slice_, analytic=analytic, training_only=_TRAINING_ONLY.value)]
    results = [run_plan_as_json(one, run_configs[one.workload.batch], prices, _UTILISATION.value) for one in found]
    if _JSON.value:
        print(format_json(results if _SEARCH.value else results[0]))
    else:
        print("\n\n".join(map(format_plan, found, results)))


def _check_flags() -> None:
    if _SMALLEST.value and not _SEARCH.value:
        raise ConfigError("--smallest needs --search; give both")
    if _SEARCH.value and _STUDY.value:
        raise ConfigError("--search plans one run and --study a study; give one of them")
    if not (_SEARCH.value or _STUDY.value):
        required(_TOPOLOGY)
    if _STUDY.value:
        for flag in (_BATCH, _BATCHES, _LENGTH, _MODEL, _VOCABULARY):
            if flag.value is not None:
                raise ConfigError(f"--{flag.name} is for one run; a study takes it from its config: remove the flag")
        kind, shaped, _ = _TOPOLOGY.value.partition(":")
        if shaped:
            raise ConfigError(f"--study chooses a slice for each run; give only the kind of chip, --topology={kind}")
    if _BATCHES.value and (not _SEARCH.value or _BATCH.value is not None):
        raise ConfigError("--batches needs --search and excludes --batch; add --search, or remove one of the two")
    one_run = not (_SEARCH.value or _STUDY.value)
    if _TRAINING_ONLY.value and not (one_run and find_slice(_TOPOLOGY.value).chip.compiles(_ANALYTIC.value)):
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


def _slices() -> dict[Chip, tuple[Slice, ...]]:
    """Return the slices that --topology allows, by kind of chip."""
    topology = _TOPOLOGY.value
    if ":" in topology:
        one = find_slice(topology)
        return {one.chip: (one,)}
    return {chip: available_slices(chip) for chip in ([find_chip(topology)] if topology else CHIPS.values())}


if __name__ == "__main__":
    command.run(main)
