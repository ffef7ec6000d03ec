"""The runs and bases of a study with their states, costs and expected times, as `study --list` prints them."""

import itertools
import statistics
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune_scaling.messages import count_noun
from finetune_scaling.models.config import count_parameters
from finetune_scaling.runs.run_config import read_run_config
from finetune_scaling.runs.run_directory import RunDirectory, run_state
from finetune_scaling.studies.configs import (
    base_of,
    bases,
    expected_flops,
    finetuning_config,
    pretraining_flops,
    tuned_model,
)
from finetune_scaling.studies.grid import StudyConfig, StudyRun, factor_value, held_out, runs


def list_runs(study: StudyConfig, workdir: Path) -> list[dict[str, Any]]:
    """Return one object per run, scalars only, as `--list --json` prints them.

    expected_seconds of an unfinished run: from the finished runs of the same method and model, else from all finished
    runs, in proportion to the FLOPs; None if no run is finished.
    """
    rows = [_list_row(study, workdir, run) for run in runs(study)]
    return _with_expected_seconds(rows, lambda row: (row["method"], row["model"]))


def list_bases(study: StudyConfig, workdir: Path) -> list[dict[str, Any]]:
    """Return one object per base that the runs need: FLOPs, seconds, and expected_seconds if it is not finished."""
    rows: list[dict[str, Any]] = []
    for base in bases(study):
        record = RunDirectory(base.directory(workdir)).result
        flops = record["flops"] if record else pretraining_flops(study, workdir, base)
        rows.append({"base": base.name, "flops": flops, "seconds": record["seconds"] if record else None})
    return _with_expected_seconds(rows, lambda row: None)


def _with_expected_seconds(
    rows: list[dict[str, Any]], group_of: Callable[[dict[str, Any]], Hashable]
) -> list[dict[str, Any]]:
    """Add expected_seconds, by the median seconds per FLOP of finished rows of the same group, else of all."""
    rates: dict[Hashable, list[float]] = {}
    for row in rows:
        if row["seconds"] and row["flops"]:
            rates.setdefault(group_of(row), []).append(row["seconds"] / row["flops"])
    all_rates = list(itertools.chain.from_iterable(rates.values()))
    for row in rows:
        known = rates.get(group_of(row), all_rates) if row["seconds"] is None else []
        row["expected_seconds"] = round(statistics.median(known) * row["flops"], 1) if known else None
    return rows


def _list_row(study: StudyConfig, workdir: Path, run: StudyRun) -> dict[str, Any]:
    setting = run.setting
    directory = workdir / run.directory
    record = RunDirectory(directory).result
    run_config = read_run_config(finetuning_config(study, workdir, run))
    model = tuned_model(study.families[setting.family], setting.size, run_config)
    factor = setting.factors[0]
    return {
        "task": setting.task,
        "method": setting.method,
        "factor": factor,
        "x": factor_value(setting, factor, count_parameters(model).total, run_config.schedule_config.learning_rate),
        "finetune_examples": setting.finetune_examples,
        "seed": run.seed,
        "held_out": held_out(study, setting),
        "state": run_state(directory),
        "flops": record["flops"] if record else expected_flops(run_config, model, setting.finetune_examples),
        "model": setting.size,
        "pretrain_tokens": setting.tokens,
        "pet_size": setting.pet_size,
        "learning_rate": run_config.schedule_config.learning_rate,
        "batch_size": run_config.batch_size,
        "max_steps": run_config.limits.max_steps,
        "base": base_of(study, setting).name,
        "directory": run.directory,
        "seconds": record["seconds"] if record else None,
    }


def format_listing(rows: Sequence[Mapping[str, Any]], base_rows: Sequence[Mapping[str, Any]], seeds: int) -> str:
    """Return a line for each run, with state and cost, and the totals."""
    unfinished = [row for row in rows if row["state"] != "done"]
    seconds = sum(row["expected_seconds"] or 0.0 for row in (*unfinished, *base_rows))
    remaining = f"about {max(1.0, seconds / 60):.0f} min remaining"
    if not unfinished:
        remaining = "all done"
    elif not seconds:
        remaining = "remaining time is estimated once some runs are finished"
    settings = count_noun(len(rows) // seeds, "setting")
    total = (
        f"{count_noun(len(rows), 'run')} ({settings} x {count_noun(seeds, 'seed')}), {len(unfinished)} to do; "
        f"{sum(row['flops'] for row in rows):.3g} FLOPs to finetune, "
        f"{sum(row['flops'] for row in base_rows):.3g} to pretrain {count_noun(len(base_rows), 'base')}; {remaining}"
    )
    return "\n".join([*map(_list_line, rows), total])


def _list_line(row: Mapping[str, Any]) -> str:
    seconds = row["seconds"] or row["expected_seconds"]
    time = "" if seconds is None else f"{seconds:8.1f} s"
    mark = "held out" if row["held_out"] else ""
    return (
        f"{row['state']:<8} {row['flops']:9.2e} FLOPs {time:>10}  {row['factor']:<8} x={row['x']:<13,} {mark:<8} "
        f"{row['directory'].removeprefix('runs/')}"
    )
