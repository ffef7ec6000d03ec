"""What an evaluation leaves behind: NAME.json, written last, with rows beside it; what is there is not made again."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from finetune_scaling import configuration
from finetune_scaling.errors import WorkdirError
from finetune_scaling.evaluation.questions import Rows
from finetune_scaling.evaluation.rows import EVALUATION
from finetune_scaling.evaluation.scoring import write_rows
from finetune_scaling.files import Location, read_json, write_json_atomically
from finetune_scaling.runs.evaluators import TEST_EVALUATOR
from finetune_scaling.sharding.roles import run_on_primary

Record = dict[str, Any]


def settings_digest(settings: Mapping[str, Any]) -> str:
    """Names the settings of an evaluation in 12 hexadecimal digits."""
    return hashlib.sha256(configuration.canonical_json(settings).encode()).hexdigest()[:12]


def rows_path(record_path: Location, split: str) -> Location:
    """Where the rows of a set are: NAME.SPLIT.jsonl beside NAME.json."""
    return record_path.with_name(f"{record_path.name.removesuffix('.json')}.{split}.jsonl")


def write_record(path: Location, record: Record, rows: Rows) -> None:
    """Writes the rows and then, since its presence means that all is there, the record."""
    for split, own in rows.items():
        write_rows(rows_path(path, split), own)
    write_json_atomically(path, configuration.plain(record))


def finished(path: Location, settings: Mapping[str, Any], checkpoint: Mapping[str, Any]) -> Record | None:
    """The record at `path`, where there is one of these settings and this checkpoint.

    Raises WorkdirError where there is one of others: it is not overwritten unasked.
    """
    found = run_on_primary(lambda: read_json(path) if path.exists() else None)
    if found is None:
        return None
    now = {"settings": settings, "checkpoint": checkpoint}
    differing = configuration.differing_fields({name: found.get(name) for name in now}, now)
    if differing:
        raise WorkdirError(
            f"{path}: holds scores of other settings (they differ in {', '.join(differing[:4])}); --again replaces "
            "them, another --out or an evaluator of another name keeps them"
        )
    return found


def is_of_another(path: Location, checkpoint: Mapping[str, Any]) -> bool:
    """Whether the record at `path` is of a checkpoint that was there before."""
    return run_on_primary(
        lambda: path.exists() and not configuration.equal(read_json(path).get("checkpoint"), checkpoint)
    )


def scores_alone(record: Mapping[str, Any]) -> Record:
    """Of a record what goes into a run's result: scores, those of the base without tuning, and of the baselines."""
    return own_scores(record) | {name: record[name] for name in ("untuned", "baselines") if name in record}


def own_scores(record: Mapping[str, Any]) -> Record:
    """Of a record the model's own scores: loss and its like, and metrics with their signatures."""
    return {name: value for name, value in record.items() if name == "metrics" or isinstance(value, float)}


def figures(record: Mapping[str, Any]) -> dict[str, float]:
    """A model's loss, its like, and its metrics by name."""
    numbers = {name: value for name, value in record.items() if isinstance(value, float)}
    return numbers | {name: entry["score"] for name, entry in record.get("metrics", {}).items()}


def columns(name: str, record: Mapping[str, Any]) -> dict[str, float]:
    """A record as columns of a table: NAME.loss, NAME.bleu, and of the base without tuning NAME.untuned.bleu, ..."""
    groups = {name: record, f"{name}.untuned": record.get("untuned") or {}}
    return {f"{group}.{key}": value for group, scores in groups.items() for key, value in figures(scores).items()}


def recorded(run: Location) -> Iterator[tuple[str, Record]]:
    """Names and records of the evaluations that a run's directory holds, by name."""
    folder = run / EVALUATION
    for path in sorted(folder.iterdir()) if folder.exists() else ():
        if path.name.endswith(".json") and not path.name.startswith("."):
            record = read_json(path)
            # Records under other names, and what else people keep there, are no columns.
            if isinstance(record, dict) and f"{record.get('evaluator')}.json" == path.name:
                yield record["evaluator"], record


def all_records(run: Location, result: Mapping[str, Any]) -> dict[str, Record]:
    """The records of a run's best checkpoint by name: those in its result, and those asked for later, which count."""
    later = {name: one for name, one in recorded(run) if one["checkpoint"]["step"] == result["best_step"]}
    return {**result.get("evaluators", {}), **later}


def table_columns(run: Location, result: Mapping[str, Any]) -> dict[str, float]:
    """All that evaluators found of a run's best checkpoint.

    Metrics of the run's own test sets have plain names, and are its own where it decoded by itself.
    """
    found: dict[str, float] = {}
    for name, record in all_records(run, result).items():
        if name != TEST_EVALUATOR:
            found |= columns(name, record)
            continue
        found |= columns(name, {"untuned": record.get("untuned")})
        if not result.get("metrics"):
            found |= figures({"metrics": record["metrics"]})
    return found
