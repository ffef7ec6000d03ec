"""What a study's grid cannot determine, known before it is run: laws, exponents and findings that its settings lack."""

from collections.abc import Iterable, Iterator

import pandas as pd

from finetune_scaling.configuration import merge
from finetune_scaling.laws.fitting.requirements import (
    few_levels,
    joint_grid,
    unfittable,
    why_no_crossings,
    why_no_metric_law,
)
from finetune_scaling.laws.forms.library import ADDITIVE, MULTIPLICATIVE
from finetune_scaling.laws.points.columns import FACTORS, SENSITIVITY_FACTOR
from finetune_scaling.studies.grid import Setting, StudyConfig, held_out, settings

LAWS = (MULTIPLICATIVE, ADDITIVE)


def settings_table(study: StudyConfig) -> pd.DataFrame:
    """Return one row for every setting and factor, as a table of points has them; x of a model is its size's name.

    setting: its number, which the factors that share it have in common; generates: whether metrics are measured.
    """
    levels = {"model": "size", "pretrain": "tokens", "pet": "pet_size", SENSITIVITY_FACTOR: "learning_rate"}
    return pd.DataFrame(
        {
            "task": s.task,
            "method": s.method,
            "factor": factor,
            "x": getattr(s, levels[factor]),
            "finetune_examples": s.finetune_examples,
            "held_out": held_out(study, s),
            "setting": number,
            "generates": _generates(study, s),
        }
        for number, s in enumerate(settings(study))
        for factor in s.factors
    )


def _generates(study: StudyConfig, setting: Setting) -> bool:
    task = study.tasks[setting.task]
    fields = merge(task.finetune, task.methods[setting.method].config)
    return (fields.get("evaluation") or {}).get("generate_examples", 0) != 0


def grid_limits(study: StudyConfig) -> list[str]:
    """Return what the study will not determine, and what its grid lacks for it, a sentence each.

    Findings about factors that no method varies are left out, as in the report.
    """
    tasks = settings_table(study).groupby("task", sort=False)
    return [line for task, rows in tasks for line in _limits(str(task), rows)]


def _limits(task: str, rows: pd.DataFrame) -> Iterator[str]:
    if rows["factor"].isin(FACTORS).any():
        yield from (*_laws(task, rows), *_exponents(task, rows), *_findings(task, rows))
    else:
        yield f"{task}: no law of the loss and no finding from laws, since only learning rates are varied"
    yield from _metric_laws(task, rows[rows["generates"]].drop_duplicates("setting"))


def _laws(task: str, rows: pd.DataFrame) -> Iterator[str]:
    missing: dict[tuple[str, str], list[str]] = {}
    for one in unfittable(rows, LAWS):
        missing.setdefault((one.law, one.reason), []).append(one.method)
    for (law, reason), methods in missing.items():
        yield f"{task}, {', '.join(methods)}: the {law} law {reason}"


def _exponents(task: str, rows: pd.DataFrame) -> Iterator[str]:
    few: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for method, own in rows.groupby("method", sort=False):
        for law in LAWS:
            for parameter, reason in {} if joint_grid(law, own).lacking else few_levels(law, own).items():
                few.setdefault((law.name, reason), []).append((str(method), parameter))
    for (name, reason), found in few.items():
        methods, names = (", ".join(dict.fromkeys(column)) for column in zip(*found, strict=True))
        yield f"{task}, {methods}: {names} of the {name} law will be poorly determined: {reason}"


def _findings(task: str, rows: pd.DataFrame) -> Iterator[str]:
    factors = {str(m): joint_grid(MULTIPLICATIVE, own).factors for m, own in rows.groupby("method", sort=False)}
    if reason := why_no_crossings(rows, LAWS):
        yield f"{task}: no map of the best method and no critical dataset sizes, which {reason}"
    varied = {factor for own in factors.values() for factor in own}
    if varied >= {"model", "pretrain"} and not any({*own} >= {"model", "pretrain"} for own in factors.values()):
        yield f"{task}: no comparison of model size and pretraining data, since no method varies both"
    if not rows["held_out"].any():
        yield f"{task}: no errors of predictions, since nothing is held out"


def _metric_laws(task: str, rows: pd.DataFrame) -> Iterator[str]:
    few: dict[str, list[str]] = {}
    for method, own in rows.groupby("method", sort=False):
        if reason := why_no_metric_law(own[~own["held_out"]]):
            few.setdefault(reason, []).append(str(method))
    for reason, methods in few.items():
        yield f"{task}, {', '.join(methods)}: no law of metrics over the loss: {reason}"


def format_limits(lines: Iterable[str]) -> str:
    """Return the lines under a heading; empty where there are none."""
    found = "".join(f"\n  {line}" for line in lines)
    return f"this grid does not determine:{found}" if found else ""
