"""Tables of a study, made from its result records: points.csv, bases.csv, and study.json for the report."""

import csv
import functools
import io
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune_scaling import configuration
from finetune_scaling.data.digests import joint_digest
from finetune_scaling.data.task import load_task
from finetune_scaling.evaluation.records import best_checkpoint_records, digest_columns, score_values, table_columns
from finetune_scaling.evaluation.scoring import baseline_texts, text_scores
from finetune_scaling.files import location, read_json, read_json_object, write_atomically, write_json_atomically
from finetune_scaling.laws.points.columns import LOSS_UNIT, NATS, RECORD, REQUIRED
from finetune_scaling.messages import first_names
from finetune_scaling.runs.run_config import read_run_config
from finetune_scaling.runs.run_data import test_examples
from finetune_scaling.runs.run_directory import FAILURE, RunDirectory, run_state
from finetune_scaling.studies.configs import Base, finetuning_config
from finetune_scaling.studies.data_record import changed_data
from finetune_scaling.studies.grid import StudyConfig, StudyRun, factor_value, held_out, runs

POINTS, BASES, METADATA, REPORT = "points.csv", "bases.csv", "study.json", "report"
POINT_COLUMNS = (
    *REQUIRED,
    *("parameters", "parameters_non_embedding", "pretrain_tokens", "pet_size", "learning_rate", "flops", "stopped_by"),
    *(*RECORD, "entropy", "tokenizer", LOSS_UNIT),
)
BASE_COLUMNS = (
    *("family", "model", "parameters", "parameters_non_embedding", "pretrain_tokens", "loss", "held_out"),
    *("flops", "learning_rate", "tokenizer", LOSS_UNIT),
)

_NAMED_FAILURES = 20
_MAIN_METRIC = {"translation": "bleu", "summarization": "rougeL"}  # as in arXiv 2402.17193


def write_tables(study: StudyConfig, workdir: Path) -> tuple[int, dict[str, str]]:
    """Write points.csv, bases.csv, and, if no run is left to execute, study.json.

    Returns the number of finished runs, and the errors of failed runs by directory.
    """
    finished = write_points(study, workdir)
    write_bases(study, workdir)
    failures = _failures(study, workdir)
    if ready_for_report(study, finished, failures):
        write_study_metadata(study, workdir)
    return finished, failures


def ready_for_report(study: StudyConfig, finished: int, failures: Mapping[str, str]) -> bool:
    """Return whether every run is finished or failed, and at least one is finished."""
    return finished > 0 and finished + len(failures) == len(runs(study))


def _failures(study: StudyConfig, workdir: Path) -> dict[str, str]:
    directories = (run.directory for run in runs(study))
    failed = [directory for directory in directories if run_state(workdir / directory) == "failed"]
    return {directory: read_json(workdir / directory / FAILURE)["error"] for directory in failed}


def write_points(study: StudyConfig, workdir: Path) -> int:
    """Write points.csv: one row for every finished run and factor of its setting. Returns the number of runs."""
    rows = []
    finished = 0
    for run in runs(study):
        record = RunDirectory(workdir / run.directory).result
        if record is not None:
            finished += 1
            directory = location(workdir / run.directory)
            evaluated = table_columns(directory, record) | digest_columns(directory, record)
            rows.extend(_point_rows(study, run, record, evaluated))
    metrics = dict.fromkeys(name for row in rows for name in row if name not in POINT_COLUMNS)
    _write_csv(workdir / POINTS, [*POINT_COLUMNS, *metrics], rows)
    return finished


def write_bases(study: StudyConfig, workdir: Path) -> int:
    """Write bases.csv: one row for every base and kept token count with a dev loss. Returns the number of rows.

    Public models are omitted, because the data that they were pretrained on is not known. Without rows there is no
    file: nothing can be fitted to it.
    """
    pretrained = (name for name, family in study.families.items() if family.public is None)
    rows = [row for name in pretrained for row in _base_rows(study, workdir, name)]
    if rows:
        _write_csv(workdir / BASES, BASE_COLUMNS, rows)
    else:
        (workdir / BASES).unlink(missing_ok=True)
    return len(rows)


def write_study_metadata(study: StudyConfig, workdir: Path) -> dict[str, Any]:
    """Write study.json for the report: name and notes, and the main metric and baselines of each task.

    baselines: scores on the task's test sets; of a task whose data changed, those recorded before. evaluator_baselines:
    scores on the examples of its evaluators. failures: the errors of failed runs, which a note names, too.
    """
    failures = _failures(study, workdir)
    metadata = {
        "name": study.name,
        "notes": [*study.notes, *([_failure_note(study, failures)] if failures else [])],
        "failures": failures,
        "baselines": _baselines(study, workdir),
        "evaluator_baselines": {name: _evaluator_baselines(study, workdir, name) for name in study.tasks},
        "metrics": {name: _MAIN_METRIC[load_task(configuration.plain(t.task)).kind] for name, t in study.tasks.items()},
    }
    write_json_atomically(workdir / METADATA, metadata)
    return metadata


def _failure_note(study: StudyConfig, failures: Mapping[str, str]) -> str:
    names = [directory.removeprefix("runs/") for directory in failures]
    return (
        f"{len(names)} of {len(runs(study))} runs failed and are not among the points: "
        f"{first_names(names, _NAMED_FAILURES)}. Their errors are in study.json."
    )


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue())


def _point_rows(
    study: StudyConfig, run: StudyRun, record: Mapping[str, Any], evaluated: Mapping[str, float | str]
) -> list[dict[str, Any]]:
    setting = run.setting
    shared = {
        **{name: record.get(name) for name in POINT_COLUMNS if name in record},
        **_data_columns(record),
        "task": setting.task,
        "method": setting.method,
        "finetune_examples": setting.finetune_examples,
        "seed": run.seed,
        "held_out": int(held_out(study, setting)),
        "model": setting.size,
        "tokenizer": record["tokenizer_sha256"],
        LOSS_UNIT: NATS,
        **record.get("metrics", {}),
        **evaluated,
    }
    x = functools.partial(factor_value, setting, parameters=record["parameters"], learning_rate=record["learning_rate"])
    return [{**shared, "factor": factor, "x": x(factor)} for factor in setting.factors]


def _data_columns(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the digests of the splits, and the shares of held-out examples that are also in the training data.

    A share is left out if near duplicates were not counted.
    """
    splits = dict(record.get("splits", {}))  # older runs have none
    columns: dict[str, Any] = {}
    if "train" in splits:
        columns["train_digest"] = splits.pop("train")["digest"]
    dev = {"dev": splits.pop("dev")} if "dev" in splits else {}
    for name, found in (("dev", dev), ("test", splits)):
        if found:
            columns[f"{name}_digest"] = joint_digest([split["digest"] for split in found.values()])
            if all(split["near_training"] is not None for split in found.values()):
                known = sum(split["in_training"] + split["near_training"] for split in found.values())
                columns[f"{name}_in_training"] = known / sum(split["examples"] for split in found.values())
    return columns


def _base_rows(study: StudyConfig, workdir: Path, name: str) -> Iterator[dict[str, Any]]:
    family = study.families[name]
    for size in family.sizes:
        record = RunDirectory(Base(name, size).directory(workdir)).result
        if record is None:
            continue
        per_step = record["tokens_seen"] / record["steps"]
        for tokens in family.tokens:
            step = round(tokens / per_step)
            loss = record["dev_losses"].get(str(step))
            if loss is not None:
                yield {
                    "family": name,
                    "model": size,
                    "parameters": record["parameters"],
                    "parameters_non_embedding": record["parameters_non_embedding"],
                    "pretrain_tokens": tokens,
                    "loss": loss,
                    "held_out": int(size in family.held_out_sizes or tokens in family.held_out_tokens),
                    "flops": record["flops"] * step / record["steps"],
                    "learning_rate": record["learning_rate"],
                    "tokenizer": record["tokenizer_sha256"],
                    LOSS_UNIT: NATS,
                }


def _baselines(study: StudyConfig, workdir: Path) -> dict[str, dict[str, float]]:
    path, changed = workdir / METADATA, changed_data(study, workdir)
    recorded = read_json_object(path).get("baselines", {}) if any(changed.values()) and path.exists() else {}
    return {
        name: recorded.get(name, {}) if changed[f"tasks.{name}"] else _baseline(study, workdir, name)
        for name in study.tasks
    }


def _baseline(study: StudyConfig, workdir: Path, task_name: str) -> dict[str, float]:
    """Return the metrics of copying the source or its first sentence, on the test examples that runs generate for."""
    grid = study.tasks[task_name]
    task = load_task(configuration.plain(grid.task))
    some_run = next(run for run in runs(study) if run.setting.task == task_name)
    run_config = read_run_config(finetuning_config(study, workdir, some_run))
    scores: dict[str, list[float]] = {}
    for name in task.test:
        examples = test_examples(run_config, name, run_config.evaluation.test_examples)
        count = run_config.evaluation.generate_examples
        chosen = [examples[i] for i in range(len(examples) if count is None else min(count, len(examples)))]
        if chosen:
            for metric, entry in text_scores(chosen, baseline_texts(task, chosen)).items():
                scores.setdefault(metric, []).append(entry["score"])
    return {metric: statistics.fmean(values) for metric, values in scores.items()}


def _evaluator_baselines(study: StudyConfig, workdir: Path, task_name: str) -> dict[str, dict[str, dict[str, float]]]:
    """Return {evaluator: {baseline: {metric: score}}} from the runs' records."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for run in (run for run in runs(study) if run.setting.task == task_name):
        directory = location(workdir / run.directory)
        result = RunDirectory(directory).result
        for name, record in best_checkpoint_records(directory, result).items() if result else ():
            for baseline, scores in record.get("baselines", {}).items():
                found.setdefault(name, {})[baseline] = score_values(scores)
    return found
