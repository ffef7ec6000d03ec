"""The record of an evaluation: NAME.json, written last, and one JSONL file of rows per split."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from finetune_scaling import configuration
from finetune_scaling.errors import ConfigError, WorkdirError
from finetune_scaling.evaluation.example_rows import EVALUATION, write_rows
from finetune_scaling.evaluation.task_evaluation import Rows
from finetune_scaling.files import Location, check_record, read_json, write_json_atomically
from finetune_scaling.names import file_key
from finetune_scaling.runs.evaluators import TEST_EVALUATOR
from finetune_scaling.runs.run_directory import EVALUATION_SHAPE
from finetune_scaling.sharding.processes import run_on_primary

Record = dict[str, Any]

_RECORD_SHAPE = {**EVALUATION_SHAPE, "checkpoint!": {"step!": int}, "settings": {"sets": {"*": {"sha256!": str}}}}


def settings_digest(settings: Mapping[str, Any]) -> str:
    """Return 12 hexadecimal digits that identify the settings of an evaluation."""
    return hashlib.sha256(configuration.canonical_json(settings).encode()).hexdigest()[:12]


def rows_name(evaluator: str, split: str) -> str:
    """Return the name of the file of a split's rows, without .jsonl."""
    return f"{evaluator}.{split}"


def rows_path(record_path: Location, split: str) -> Location:
    """Return the path of a split's rows: NAME.SPLIT.jsonl in the directory of NAME.json."""
    return record_path.with_name(f"{rows_name(record_path.name.removesuffix('.json'), split)}.jsonl")


def check_rows_names(evaluator: str, splits: Iterable[str], test_sets: Iterable[str]) -> None:
    """Raise ConfigError if a split's rows would be written to the file of the rows of one of the run's test sets."""
    own = {file_key(rows_name(evaluator, split)) for split in splits}
    for name in test_sets:
        if file_key(name) in own:
            raise ConfigError(
                f"its rows and those of the test set {name!r} are one file, {EVALUATION}/{name}.jsonl. Fix: rename the "
                "evaluator or the test set"
            )


def write_record(path: Location, record: Record, rows: Rows) -> None:
    """Write the rows, then the record, whose presence means that the evaluation is complete, on the primary process."""

    def write() -> None:
        for split, split_rows in rows.items():
            write_rows(rows_path(path, split), split_rows)
        write_json_atomically(path, configuration.plain(record))

    run_on_primary(write)


def matching_record(path: Location, settings: Mapping[str, Any], checkpoint: Mapping[str, Any]) -> Record | None:
    """Return the record at `path`, or None if there is none.

    Raises WorkdirError if it has other settings or another checkpoint, so that it is not overwritten by accident.
    """
    record = run_on_primary(lambda: read_json(path) if path.exists() else None)
    if record is None:
        return None
    wanted = {"settings": settings, "checkpoint": checkpoint}
    differing = configuration.differing_fields({name: record.get(name) for name in wanted}, wanted)
    if differing:
        raise WorkdirError(
            f"{path}: holds scores of other settings (they differ in {', '.join(differing[:4])}); give --again to "
            "replace them, or another --out or evaluator name to keep them"
        )
    return record


def is_of_other_checkpoint(path: Location, checkpoint: Mapping[str, Any]) -> bool:
    """Return whether the record at `path` belongs to an earlier checkpoint."""
    return run_on_primary(
        lambda: path.exists() and not configuration.equal(read_json(path).get("checkpoint"), checkpoint)
    )


def scores_for_result(record: Mapping[str, Any]) -> Record:
    """Return the part of a record that is copied to result.json: the model's, the base's and the baselines' scores."""
    return model_scores(record) | {name: record[name] for name in ("untuned", "baselines") if name in record}


def model_scores(record: Mapping[str, Any]) -> Record:
    """Return the model's own scores: losses, metrics with their signatures, and how many texts were cut off."""
    kept = ("metrics", "generated", "at_limit")
    return {name: value for name, value in record.items() if name in kept or isinstance(value, float)}


def score_values(record: Mapping[str, Any]) -> dict[str, float]:
    """Return losses and metric scores by name, without signatures."""
    losses = {name: value for name, value in record.items() if isinstance(value, float)}
    return losses | {name: entry["score"] for name, entry in record.get("metrics", {}).items()}


def columns(name: str, record: Mapping[str, Any]) -> dict[str, float]:
    """Return a record as table columns: NAME.loss, NAME.bleu, and for the base model NAME.untuned.bleu, ..."""
    groups = {name: record, f"{name}.untuned": record.get("untuned") or {}}
    return {f"{group}.{key}": value for group, scores in groups.items() for key, value in score_values(scores).items()}


def evaluation_records(run: Location) -> Iterator[tuple[str, Record]]:
    """Yield (evaluator name, record) for every evaluation in a run's directory, sorted by name."""
    folder = run / EVALUATION
    for path in sorted(folder.iterdir()) if folder.exists() else ():
        if path.name.endswith(".json") and not path.name.startswith("."):
            record = read_json(path)
            # Records written to other names with --out, and other files that users keep there, are skipped.
            if isinstance(record, dict) and f"{record.get('evaluator')}.json" == path.name:
                check_record(path, record, _RECORD_SHAPE)
                yield record["evaluator"], record


def best_checkpoint_records(run: Location, result: Mapping[str, Any]) -> dict[str, Record]:
    """Return the records of a run's best checkpoint by name; later evaluations replace those in its result."""
    later = {name: one for name, one in evaluation_records(run) if one["checkpoint"]["step"] == result["best_step"]}
    return {**result.get("evaluators", {}), **later}


def digest_columns(run: Location, result: Mapping[str, Any]) -> dict[str, str]:
    """Return NAME.digest of the examples that each task evaluator scored, where the run's directory has its record.

    A text evaluator has none: the digest in its record depends on the batch size, too.
    """
    found = {}
    for name, record in best_checkpoint_records(run, result).items():
        if sets := record.get("settings", {}).get("sets"):
            data = configuration.canonical_json({split: one["sha256"] for split, one in sets.items()})
            found[f"{name}.digest"] = f"sha256:{hashlib.sha256(data.encode()).hexdigest()}"
    return found


def table_columns(run: Location, result: Mapping[str, Any]) -> dict[str, float]:
    """Return the points.csv columns of all evaluations of a run's best checkpoint.

    The evaluator of the run's own test sets adds its metrics under plain names unless the run's result has metrics.
    """
    found: dict[str, float] = {}
    for name, record in best_checkpoint_records(run, result).items():
        if name != TEST_EVALUATOR:
            found |= columns(name, record)
            continue
        found |= columns(name, {"untuned": record.get("untuned")})
        if not result.get("metrics"):
            found |= score_values({"metrics": record["metrics"]})
    return found
