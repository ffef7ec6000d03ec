"""The table of points: one row per finetuning run, read in stages from text to typed runs to settings."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from finetune_scaling.errors import DataError
from finetune_scaling.files import Location
from finetune_scaling.laws.points.cells import (
    MAX_LOSS,
    check_counts,
    check_range,
    parse_choices,
    parse_flags,
    parse_integers,
    parse_losses,
    parse_names,
    parse_numbers,
)
from finetune_scaling.laws.points.checks import check_consistent, check_units
from finetune_scaling.laws.points.columns import (
    COUNTS,
    COVARIATES,
    EVALUATOR_DIGEST,
    FACTOR_CHOICES,
    IN_TRAINING,
    LOSS_PER_BYTE,
    LOSS_UNIT,
    NUMBERS,
    RECORD,
    REQUIRED,
    SENSITIVITY_FACTOR,
    SETTING,
    SIZE,
    SWEPT_SIZE,
    UNIT_COLUMNS,
    Column,
    evaluator_column,
    holds_generation_scores,
    is_own_metric,
)
from finetune_scaling.laws.points.text import Source, TextTable, clean, printable, read_text
from finetune_scaling.laws.points.warnings import point_warnings, unusable_losses
from finetune_scaling.tuning.registry import METHODS

STOPPED_BY_BUDGET = "budget"
MAX_COUNTS = {"x": 1e18, "finetune_examples": 1e15}  # no count of parameters, tokens or examples is larger
MAX_SCORE = 1e6  # absolute value of any metric


@dataclass(frozen=True)
class PointsTable:
    """Points of one file or data frame.

    source: the file's name, or DataFrame; path: the file, if any; runs: one row per run, without those whose loss no
    law can use, and those stopped by their budget (if all were, they are all held out); settings: means over seeds,
    with `seeds` and `loss_sd`; metrics: metric columns of the task's own test sets; evaluations: columns of other
    evaluators; stopped_by_budget, repeated: how many rows were stopped by their budget or repeat another; ignored:
    columns not used; evaluated_once, ended_at_best: how many rows had one dev loss, or of several their lowest at the
    last step; warnings: on suspicious rows, which are used, and on losses that are not.
    """

    source: str
    path: Location | None
    runs: pd.DataFrame
    settings: pd.DataFrame
    metrics: tuple[str, ...]
    evaluations: tuple[Column, ...]
    stopped_by_budget: int
    repeated: int
    evaluated_once: int
    ended_at_best: int
    ignored: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    @property
    def score_columns(self) -> tuple[str, ...]:
        """All columns that score generated text of the tuned models: the task's own, then other evaluators'."""
        return (*self.metrics, *(column.name for column in self.evaluations if column.is_score))

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks in the order of the file."""
        return tuple(dict.fromkeys(self.settings["task"]))


def read_points(source: Source, size: str = "total", methods: Sequence[str] = tuple(METHODS)) -> PointsTable:
    """Read and check a table of points: CSV, JSONL, a study's directory, or a pandas frame; losses become nats.

    size: "total" leaves x unchanged, "non_embedding" replaces it by the column parameters_non_embedding for the factor
    model. Raises DataError that names file, row, column and the fix.
    """
    text = read_text(source, REQUIRED)
    check_units(text)
    parsed = _typed_runs(text, methods, size)
    unusable, parsed = parsed[parsed["loss"].isna()], parsed[parsed["loss"].notna()]
    if parsed.empty:
        raise DataError(f"{text.name}: no loss is above 0 and at most {MAX_LOSS:g} nats per token; correct {LOSS_UNIT}")
    stopped = _is_stopped(parsed)
    finished = parsed if stopped.all() else parsed[~stopped]
    check_consistent(text, finished)
    runs = finished.drop_duplicates([*SETTING, "seed"])
    return _table(text, stopped, finished, runs, (*unusable_losses(text, unusable), *point_warnings(text, runs)))


def _typed_runs(text: TextTable, methods: Sequence[str], size: str) -> pd.DataFrame:
    """Return all rows with known methods and factors, numbers as floats, losses in nats and held_out as bool.

    size: which parameters x counts where the factor is model; see read_points.
    """
    runs = text.cells.copy()
    runs["task"], runs["seed"] = parse_names(text, "task"), parse_integers(text, "seed")
    method, factor = (
        parse_choices(text, "method", [*map(clean, methods)]),
        parse_choices(text, "factor", FACTOR_CHOICES),
    )
    sizeless = [name for name, spec in METHODS.items() if spec.size_field is None]
    no_pet = "the row's method has no PET size; correct the method or remove the row"
    text.reject(method.isin(sizeless) & (factor == "pet"), "factor", no_pet)
    for column in ("x", "finetune_examples"):
        runs[column] = parse_numbers(text, column, positive=True, exact=True)
    swept = factor == SENSITIVITY_FACTOR
    fix = "it is a raw count (of parameters, tokens, or a PET size): 7B is 7e9"
    check_range(text, runs.loc[~swept, "x"], "x", 1, MAX_COUNTS["x"], fix)
    check_range(text, runs["finetune_examples"], "finetune_examples", 1, MAX_COUNTS["finetune_examples"], "correct it")
    check_counts(text, runs.loc[~swept, "x"], "x")
    check_counts(text, runs["finetune_examples"], "finetune_examples")
    runs["loss"] = parse_losses(text)
    runs["held_out"] = parse_flags(text, "held_out")
    for column in runs.columns:
        if column in (*COVARIATES, *NUMBERS) or is_own_metric(column) or evaluator_column(column):
            runs[column] = parse_numbers(text, column, optional=True)
        if column in COUNTS:
            check_range(text, runs[column], column, 0, np.inf, "a count is not negative; correct it")
            check_counts(text, runs[column], column)
        if column in IN_TRAINING:
            check_range(text, runs[column], column, 0, 1, "it is a share, from 0 to 1; correct it")
        if holds_generation_scores(column):
            check_range(text, runs[column], column, -MAX_SCORE, MAX_SCORE, "no score is so large; correct it")
    runs["x"] = _factor_values(text, runs, size)
    runs[SWEPT_SIZE] = runs["parameters"].fillna(0).where(swept, 0.0) if "parameters" in runs else 0.0
    return runs


def _factor_values(text: TextTable, runs: pd.DataFrame, size: str) -> pd.Series:
    """Return x of every run, with model sizes counted as `size` says (total or non_embedding).

    For non_embedding, sizes come from the column parameters_non_embedding, except in rows whose column `size` says
    that x counts so already. Raises DataError where the table lacks such counts.
    """
    rows = runs["factor"] == "model"
    counted = runs[SIZE] == "non_embedding" if SIZE in runs else pd.Series(False, index=runs.index)
    if size == "total":
        fix = "x counts parameters without embeddings; fit with --size=non_embedding, or give total parameters"
        text.reject(rows & counted, SIZE, fix)
        return runs["x"]
    rows &= ~counted
    if not rows.any():
        return runs["x"]
    column = "parameters_non_embedding"
    if column not in runs:
        raise DataError(f"{text.header}: --size=non_embedding needs the column {column!r}; add it or use --size=total")
    text.reject(rows & ~(runs[column] > 0), column, "--size=non_embedding takes x from it; give a number above zero")
    return runs["x"].where(~rows, runs[column])


def _is_stopped(runs: pd.DataFrame) -> pd.Series:
    """Return which runs were stopped by their budget."""
    if "stopped_by" not in runs:
        return pd.Series(False, index=runs.index)
    return runs["stopped_by"].str.lower() == STOPPED_BY_BUDGET


def _table(
    text: TextTable, stopped: pd.Series, finished: pd.DataFrame, runs: pd.DataFrame, warnings: tuple[str, ...]
) -> PointsTable:
    names = text.cells.columns
    metrics = tuple(filter(is_own_metric, names))
    evaluations = tuple(filter(None, map(evaluator_column, names)))
    scores = (*metrics, *(column.name for column in evaluations))
    evaluated_once = _column(runs, "dev_evaluations") == 1
    ended_at_best = _column(runs, "steps") == _column(runs, "best_step")
    if stopped.all():
        runs = runs.assign(held_out=True)  # shown, and no law is fitted to them
    used = {*REQUIRED, *COVARIATES, *RECORD, *scores, *UNIT_COLUMNS, "stopped_by"}
    return PointsTable(
        source=text.name,
        path=text.path,
        runs=runs,
        settings=_settings(runs, scores),
        metrics=metrics,
        evaluations=evaluations,
        stopped_by_budget=int(stopped.sum()),
        repeated=len(finished) - len(runs),
        evaluated_once=int(evaluated_once.sum()),
        ended_at_best=int((ended_at_best & ~evaluated_once).sum()),
        ignored=tuple(printable(c) for c in names if c not in used and not EVALUATOR_DIGEST.fullmatch(c)),
        warnings=warnings,
    )


def _settings(runs: pd.DataFrame, scores: Sequence[str]) -> pd.DataFrame:
    """Return one row per setting: means over its seeds."""
    columns = [c for c in (*COVARIATES, LOSS_PER_BYTE, *scores) if c in runs]
    grouped = runs.groupby(SETTING, sort=False)
    means = grouped[["loss", *columns]].mean()
    means.insert(0, "held_out", grouped["held_out"].first().astype(bool))
    means["loss_sd"] = grouped["loss"].std()
    means["seeds"] = grouped.size()
    return means.reset_index()


def _column(runs: pd.DataFrame, name: str) -> pd.Series:
    """Return an optional column of numbers; nan, which equals no number, if the table does not have it."""
    return runs[name] if name in runs else pd.Series(np.nan, index=runs.index)
