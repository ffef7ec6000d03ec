"""The runs and bases of a study with their states, costs and expected times, as `--list` prints them."""

import statistics
from pathlib import Path
from typing import Any

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
from finetune_scaling.studies.grid import Run, StudyConfig, factor_value, held_out, runs


def list_runs(study: StudyConfig, workdir: Path) -> list[dict[str, Any]]:
    """Return one object per run, scalars only, as `--list --json` prints them.

    expected_seconds of an unfinished run: from the finished runs of the same method and model, else from all finished
    runs, in proportion to the FLOPs; None if no run is finished.
    """
    rows = [_list_row(study, workdir, run) for run in runs(study)]
    rates: dict[tuple[str, str], list[float]] = {}  # seconds per FLOP of finished runs
    for row in rows:
        if row["seconds"]:
            rates.setdefault((row["method"], row["model"]), []).append(row["seconds"] / row["flops"])
    all_rates = [rate for group in rates.values() for rate in group]
    for row in rows:
        if row["seconds"] is None and all_rates:
            group = rates.get((row["method"], row["model"]), all_rates)
            row["expected_seconds"] = round(statistics.median(group) * row["flops"], 1)
    return rows


def list_bases(study: StudyConfig, workdir: Path) -> list[dict[str, Any]]:
    """Return one object per base that the runs need: FLOPs, seconds, and expected_seconds if it is not finished."""
    rows: list[dict[str, Any]] = []
    for base in bases(study):
        record = RunDirectory(base.directory(workdir)).result
        flops = record["flops"] if record else pretraining_flops(study, workdir, base)
        rows.append({"base": base.name, "flops": flops, "seconds": record["seconds"] if record else None})
    rates = [row["seconds"] / row["flops"] for row in rows if row["seconds"] and row["flops"]]
    for row in rows:
        known = row["seconds"] is None and rates
        row["expected_seconds"] = round(statistics.median(rates) * row["flops"], 1) if known else None
    return rows


def _list_row(study: StudyConfig, workdir: Path, run: Run) -> dict[str, Any]:
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
        "expected_seconds": None,
    }
