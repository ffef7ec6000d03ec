"""The table of points: one row a finetuning run, read from CSV with every mistake named by line, column and mend."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from finetune_scaling.configuration import suggestion
from finetune_scaling.errors import DataError
from finetune_scaling.scaling.points.columns import METRIC, Column, evaluator_column

METHODS = ("full", "prompt", "lora")
FACTORS = ("model", "pretrain", "pet")
SENSITIVITY_FACTOR = "learning_rate"
ALL_FACTORS = (*FACTORS, SENSITIVITY_FACTOR)
REQUIRED = ("task", "method", "factor", "x", "finetune_examples", "loss", "seed", "held_out")
SETTING = ["task", "method", "factor", "x", "finetune_examples"]
CONDITION = (
    "parameters",
    "parameters_non_embedding",
    "pretrain_tokens",
    "pet_size",
    "learning_rate",
    "flops",
    "entropy",
)
RECORD = ("model", "trainable_parameters", "steps", "best_step", "dev_loss")  # a study's further columns
STOPPED_BY_BUDGET = "budget"


@dataclass(frozen=True)
class PointsTable:
    """Points of one file.

    runs: one row a run, those stopped by their budget left out; settings: means over seeds, with `seeds` and `loss_sd`;
    metrics: the metric columns of the task's own test sets; evaluations: those of other evaluators; stopped_by_budget,
    repeated: rows left out and why; ignored: columns not used; ended_at_best: rows whose dev loss was least at the
    last step.
    """

    path: Path
    runs: pd.DataFrame
    settings: pd.DataFrame
    metrics: tuple[str, ...]
    evaluations: tuple[Column, ...]
    stopped_by_budget: int
    repeated: int
    ended_at_best: int
    ignored: tuple[str, ...]

    @property
    def score_columns(self) -> tuple[str, ...]:
        """All columns that score generated text of the tuned models: the task's own, then other evaluators'."""
        others = (column.name for column in self.evaluations if column.is_score)
        return (*self.metrics, *others)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks in the order of the file."""
        return tuple(dict.fromkeys(self.settings["task"]))


def read_points(path: str | Path, size: str = "total", methods: Sequence[str] = METHODS) -> PointsTable:
    """Reads and checks points.csv.

    size: "total" leaves x as it is, "non_embedding" puts the column parameters_non_embedding in its place for the
    factor model. Raises DataError that names file, line, column and mend.
    """
    path = Path(path)
    text = read_csv(path, REQUIRED)
    for column, known in (("method", methods), ("factor", ALL_FACTORS), ("held_out", ("0", "1"))):
        check_choices(path, text, column, known)
    table = _numbers(path, text)
    if size == "non_embedding":
        table = _with_non_embedding_sizes(path, table)
    _check_pet_rows(path, table)
    finished = table[_stopped_by(table) != STOPPED_BY_BUDGET]
    if finished.empty:
        raise DataError(
            f"{path}: every run was stopped by its budget; give the runs more steps, no law is fitted to these"
        )
    runs = _without_repeats(path, finished)
    if (runs["held_out"] == 1).all():
        raise DataError(f"{path}: column held_out is 1 in every row; mark the points to fit with 0")
    metrics = tuple(c for c in text.columns if METRIC.fullmatch(c))
    evaluations = tuple(filter(None, map(evaluator_column, text.columns)))
    scores = (*metrics, *(column.name for column in evaluations))
    used = {*REQUIRED, *CONDITION, *RECORD, *scores, "stopped_by"}
    return PointsTable(
        path=path,
        runs=runs,
        settings=_means(path, runs, scores),
        metrics=metrics,
        evaluations=evaluations,
        stopped_by_budget=len(table) - len(finished),
        repeated=len(finished) - len(runs),
        ended_at_best=_ended_at_best(text.loc[runs.index]),
        ignored=tuple(c for c in text.columns if c not in used),
    )


def read_csv(path: str | Path, required: Sequence[str]) -> pd.DataFrame:
    """Reads a CSV as text, index = line number in the file; DataError where it is no such table."""
    path = Path(path)
    try:
        table = pd.read_csv(
            path, dtype=str, keep_default_na=False, skip_blank_lines=False, header=None, encoding="utf-8"
        )
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; give the CSV that a study wrote (points.csv)") from None
    except IsADirectoryError:
        raise DataError(f"{path}: is a directory; give the CSV file inside it (points.csv)") from None
    except pd.errors.EmptyDataError:
        raise DataError(
            f"{path}: the file is empty; its first line must name the columns {', '.join(required)}"
        ) from None
    except pd.errors.ParserError as error:
        raise DataError(f"{path}: not a table of commas ({str(error).strip()}); mend or drop that line") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8") from None
    return _with_header(path, table.fillna(""), required)


def check_choices(path: Path, table: pd.DataFrame, column: str, known: Sequence[str]) -> None:
    """Every value of the column is one of `known`; DataError at the first that is not."""
    wrong = table[~table[column].isin(known)]
    if len(wrong):
        value = wrong[column].iloc[0]
        raise DataError(f"{_at(path, wrong.index[0], column)}: {value!r} is unknown{suggestion(value, known)}")


def to_numbers(path: Path, table: pd.DataFrame, column: str, positive: bool, optional: bool = False) -> pd.Series:
    """The column as floats (NaN where empty and optional); DataError at the first value that is no such number."""
    numbers = pd.to_numeric(table[column], errors="coerce")
    checked = table[column].str.strip() != "" if optional else pd.Series(True, index=table.index)
    finite = numbers.map(math.isfinite)
    if not (finite | ~checked).all():
        line = numbers.index[~finite & checked][0]
        value = table.at[line, column]
        what = "empty" if not value.strip() else f"{value!r}, not a finite number"
        raise DataError(f"{_at(path, line, column)} is {what}; give a number or drop the row")
    if positive and (numbers <= 0).any():
        line = numbers.index[numbers <= 0][0]
        raise DataError(
            f"{_at(path, line, column)} is {table.at[line, column]}; laws take logarithms, so it must be above zero: "
            "correct it or drop the row"
        )
    return numbers


def _with_header(path: Path, table: pd.DataFrame, required: Sequence[str]) -> pd.DataFrame:
    header = [str(name).strip() for name in table.iloc[0]]
    repeated = [name for name in dict.fromkeys(header) if header.count(name) > 1]
    if repeated:
        raise DataError(f"{path} line 1: column {repeated[0]!r} stands twice; drop or rename one of them")
    missing = [name for name in required if name not in header]
    if missing:
        near = suggestion(missing[0], header) if header else ""
        raise DataError(f"{path} line 1: column {missing[0]!r} is missing{near}; the file needs {', '.join(required)}")
    body = table.iloc[1:].set_axis(header, axis=1)
    body.index = body.index + 1
    body = body[(body != "").any(axis=1)]
    if body.empty:
        raise DataError(f"{path}: has a header but no rows; add one row for each run")
    return body


def _numbers(path: Path, text: pd.DataFrame) -> pd.DataFrame:
    table = text.copy()
    for column in ("x", "finetune_examples", "loss"):
        table[column] = to_numbers(path, text, column, positive=True)
    table["held_out"] = text["held_out"].astype(int)
    optional = [c for c in text.columns if c in CONDITION or METRIC.fullmatch(c) or evaluator_column(c)]
    for column in optional:
        table[column] = to_numbers(path, text, column, positive=False, optional=True)
    return table


def _with_non_embedding_sizes(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    column = "parameters_non_embedding"
    if column not in table:
        raise DataError(f"{path} line 1: --size=non_embedding needs the column {column!r}; add it or use --size=total")
    rows = table["factor"] == "model"
    wrong = table[rows & ~(table[column] > 0)]
    if len(wrong):
        raise DataError(f"{_at(path, wrong.index[0], column)} is not above zero; --size=non_embedding takes x from it")
    return table.assign(x=table["x"].where(~rows, table[column]))


def _check_pet_rows(path: Path, table: pd.DataFrame) -> None:
    wrong = table[(table["method"] == "full") & (table["factor"] == "pet")]
    if len(wrong):
        raise DataError(
            f"{_at(path, wrong.index[0], 'factor')}: full tuning has no PET size; correct the method or drop the row"
        )


def _ended_at_best(text: pd.DataFrame) -> int:
    if not {"steps", "best_step"} <= set(text.columns):
        return 0
    return int(((text["steps"] == text["best_step"]) & (text["steps"] != "")).sum())


def _stopped_by(table: pd.DataFrame) -> pd.Series:
    return table["stopped_by"] if "stopped_by" in table else pd.Series("", index=table.index)


def _without_repeats(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Drops rows that say the same run again; DataError where they say something else."""
    key = [*SETTING, "seed"]
    first = table.groupby(key)["loss"].transform("first")
    contrary = table[table["loss"] != first]
    if len(contrary):
        line = contrary.index[0]
        same = (table[key] == table.loc[line, key]).all(axis=1)
        raise DataError(
            f"{_at(path, line, 'loss')}: the same setting and seed as line {same.idxmax()} with another loss; "
            "keep one of them, or give them different seeds"
        )
    return table.drop_duplicates(key)


def _means(path: Path, runs: pd.DataFrame, scores: Sequence[str]) -> pd.DataFrame:
    """Means over the seeds of a setting."""
    mixed = runs[runs["held_out"] != runs.groupby(SETTING)["held_out"].transform("first")]
    if len(mixed):
        raise DataError(
            f"{_at(path, mixed.index[0], 'held_out')}: the setting's other seeds say otherwise; mark all alike"
        )
    columns = [c for c in (*CONDITION, *scores) if c in runs]
    grouped = runs.groupby(SETTING, sort=False)
    means = grouped[["held_out", "loss", *columns]].mean()
    means["loss_sd"] = grouped["loss"].std()
    means["seeds"] = grouped.size()
    means["held_out"] = means["held_out"] == 1
    return means.reset_index()


def _at(path: Path, line: int, column: str) -> str:
    return f"{path} line {line}, column {column!r}"
