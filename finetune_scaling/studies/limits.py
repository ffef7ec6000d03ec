"""What a study's grid cannot determine, known before it is run: laws, exponents and findings that its settings lack."""

from collections.abc import Iterable, Iterator

import pandas as pd

from finetune_scaling.laws.fitting.requirements import few_levels, joint_grid, unfittable
from finetune_scaling.laws.forms.library import ADDITIVE, MULTIPLICATIVE
from finetune_scaling.laws.points.columns import FACTORS
from finetune_scaling.studies.grid import StudyConfig, held_out, settings

LAWS = (MULTIPLICATIVE, ADDITIVE)


def settings_table(study: StudyConfig) -> pd.DataFrame:
    """Return one row for every setting and factor, as a table of points has them; x of a model is its size's name."""
    return pd.DataFrame(
        {
            "task": s.task,
            "method": s.method,
            "factor": factor,
            "x": {"model": s.size, "pretrain": s.tokens, "pet": s.pet_size}[factor],
            "finetune_examples": s.finetune_examples,
            "held_out": held_out(study, s),
        }
        for s in settings(study)
        for factor in s.factors
        if factor in FACTORS
    )


def grid_limits(study: StudyConfig) -> list[str]:
    """Return what the study will not determine, and what its grid lacks for it, a sentence each.

    Findings about factors that no method varies are left out, as in the report.
    """
    table = settings_table(study)
    if table.empty:
        return ["no law is fitted: no method varies model size, pretraining tokens or PET size"]
    return [
        line
        for task, rows in table.groupby("task", sort=False)
        for line in (*_laws(str(task), rows), *_exponents(str(task), rows), *_findings(str(task), rows))
    ]


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
    if len(factors) == 1:
        yield f"{task}: no best method and no critical dataset sizes, which need two methods; there is 1"
    varied = {factor for own in factors.values() for factor in own}
    if varied >= {"model", "pretrain"} and not any({*own} >= {"model", "pretrain"} for own in factors.values()):
        yield f"{task}: no comparison of model size and pretraining data, since no method varies both"
    if not rows["held_out"].any():
        yield f"{task}: no errors of predictions, since nothing is held out"


def format_limits(lines: Iterable[str]) -> str:
    """Return the lines under a heading; empty where there are none."""
    found = "".join(f"\n  {line}" for line in lines)
    return f"this grid does not determine:{found}" if found else ""
