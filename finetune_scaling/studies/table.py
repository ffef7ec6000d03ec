"""From result records to the table of points, and to the list of runs that --list prints."""

import csv
import functools
import io
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune_scaling import configuration
from finetune_scaling.data.task import load_task
from finetune_scaling.evaluation.records import all_records, figures, table_columns
from finetune_scaling.evaluation.scoring import baseline_texts, text_scores
from finetune_scaling.files import location, write_atomically, write_json_atomically
from finetune_scaling.models.config import count_parameters
from finetune_scaling.runs.run_config import read_run_config
from finetune_scaling.runs.run_data import test_examples
from finetune_scaling.runs.run_directory import RunDirectory, run_state
from finetune_scaling.studies.configs import (
    base_of,
    bases,
    expected_flops,
    finetuning_config,
    pretraining_flops,
    tuned_model,
)
from finetune_scaling.studies.grid import Run, StudyConfig, held_out, runs, x_of

POINTS, FACTS = "points.csv", "study.json"

_MAIN_METRIC = {"translation": "bleu", "summarization": "rougeL"}  # as in arXiv 2402.17193
_COLUMNS = (
    *("task", "method", "factor", "x", "finetune_examples", "loss", "seed", "held_out"),
    *("parameters", "parameters_non_embedding", "pretrain_tokens", "pet_size", "learning_rate", "flops", "stopped_by"),
    *("model", "trainable_parameters", "steps", "best_step", "dev_loss", "entropy", "tokenizer"),
)


def write_points(study: StudyConfig, workdir: Path) -> int:
    """Writes points.csv: a row for every finished run and every factor that it serves. Returns the number of runs."""
    rows = []
    finished = 0
    for run in runs(study):
        record = RunDirectory(workdir / run.directory).result
        if record is not None:
            finished += 1
            rows.extend(_rows(study, run, record, table_columns(location(workdir / run.directory), record)))
    metrics = list(dict.fromkeys(name for row in rows for name in row if name not in _COLUMNS))
    text = io.StringIO()
    writer = csv.DictWriter(text, [*_COLUMNS, *metrics], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(workdir / POINTS, text.getvalue())
    return finished


def write_facts(study: StudyConfig, workdir: Path) -> dict[str, Any]:
    """Writes study.json for the report: name, notes, and for each task its metric and what costs nothing scores.

    baselines: on its test sets; evaluator_baselines: on what its evaluators ask.
    """
    facts = {
        "name": study.name,
        "notes": list(study.notes),
        "baselines": {name: _baseline(study, workdir, name) for name in study.tasks},
        "evaluator_baselines": {name: _evaluator_baselines(study, workdir, name) for name in study.tasks},
        "metrics": {name: _MAIN_METRIC[load_task(configuration.plain(t.task)).kind] for name, t in study.tasks.items()},
    }
    write_json_atomically(workdir / FACTS, facts)
    return facts


def listing(study: StudyConfig, workdir: Path) -> list[dict[str, Any]]:
    """One object a run, scalars only, as --list --json prints them.

    expected_seconds: of a run that is not done, from the finished runs of its method and model, or else of any.
    """
    rows = [_list_row(study, workdir, run) for run in runs(study)]
    rates: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        if row["seconds"]:
            rates.setdefault((row["method"], row["model"]), []).append(row["seconds"] / row["flops"])
    every = [rate for alike in rates.values() for rate in alike]
    for row in rows:
        if row["seconds"] is None and every:
            alike = rates.get((row["method"], row["model"]), every)
            row["expected_seconds"] = round(statistics.median(alike) * row["flops"], 1)
    return rows


def base_listing(study: StudyConfig, workdir: Path) -> list[dict[str, Any]]:
    """One object a base that the runs need: its FLOPs, and its seconds, expected where it is not done (or None)."""
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


def _rows(
    study: StudyConfig, run: Run, record: Mapping[str, Any], further: Mapping[str, float]
) -> list[dict[str, Any]]:
    setting = run.setting
    shared = {
        **{name: record.get(name) for name in _COLUMNS if name in record},
        "task": setting.task,
        "method": setting.method,
        "finetune_examples": setting.finetune_examples,
        "seed": run.seed,
        "held_out": int(held_out(study, setting)),
        "model": setting.size,
        "tokenizer": record["tokenizer_sha256"],
        **record.get("metrics", {}),
        **further,
    }
    x = functools.partial(x_of, setting, parameters=record["parameters"], learning_rate=record["learning_rate"])
    return [{**shared, "factor": factor, "x": x(factor)} for factor in setting.factors]


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
        "x": x_of(setting, factor, count_parameters(model).total, run_config.schedule_config.learning_rate),
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


def _baseline(study: StudyConfig, workdir: Path, task_name: str) -> dict[str, float]:
    """Metrics of the copied source or first sentence, on the segments that the runs generated."""
    grid = study.tasks[task_name]
    task = load_task(configuration.plain(grid.task))
    some_run = next(run for run in runs(study) if run.setting.task == task_name)
    run_config = read_run_config(finetuning_config(study, workdir, some_run))
    scores: dict[str, list[float]] = {}
    for name in task.test:
        examples = test_examples(run_config, name, run_config.evaluation.test_examples)
        wanted = run_config.evaluation.generate_examples
        chosen = [examples[i] for i in range(len(examples) if wanted is None else min(wanted, len(examples)))]
        if chosen:
            for metric, entry in text_scores(chosen, baseline_texts(task, chosen)).items():
                scores.setdefault(metric, []).append(entry["score"])
    return {metric: statistics.fmean(values) for metric, values in scores.items()}


def _evaluator_baselines(study: StudyConfig, workdir: Path, task_name: str) -> dict[str, dict[str, dict[str, float]]]:
    """Metrics of each baseline by evaluator and baseline, as the runs' records have them."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for run in (run for run in runs(study) if run.setting.task == task_name):
        directory = location(workdir / run.directory)
        result = RunDirectory(directory).result
        for name, record in all_records(directory, result).items() if result else ():
            for baseline, scores in record.get("baselines", {}).items():
                found.setdefault(name, {})[baseline] = figures(scores)
    return found
