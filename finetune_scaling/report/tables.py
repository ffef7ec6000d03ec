"""The findings of an analysis as tables, written as CSV and as LaTeX (booktabs)."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from finetune_scaling.analysis.analysis import Analysis, best_runs, measured_best
from finetune_scaling.analysis.joint_fits import JointFits
from finetune_scaling.files import write_atomically
from finetune_scaling.laws.uncertainty.intervals import Interval, interval_ends
from finetune_scaling.report.records import (
    SINGLE_FIELDS,
    all_factors_record,
    closed_form_record,
    comparison_record,
    correlation_record,
    crossing_record,
    metric_law_record,
    parameter_record,
    pretraining_record,
    selection_record,
)

LONGEST = 40  # rows on one page; longer tables are set as longtable
PREDICTED = ("", "_low", "_high")
EMPTY_PARAMETER = ("value", "low", "high", "identified")
CRITICAL_COLUMNS = (
    *("task", "law", "factor", "x", "first", "second", "crossings", "uncrossed_share"),
    *("finetune_examples", "low", "high", "probability", "leave_out_low", "leave_out_high"),
    *("better_below", "better_above", "inside_measured_range", "extrapolated_methods"),
    *("H", "H_low", "H_high", "gamma", "gamma_low", "gamma_high", "better_everywhere", "why"),
)


def finding_tables(analysis: Analysis) -> dict[str, pd.DataFrame]:
    """Return name -> table of all findings, without empty ones."""
    tasks = analysis.table.tasks
    found = {
        "laws": laws_table(analysis),
        "single_laws": _single_laws(analysis),
        "errors": errors_table(analysis),
        "selection": _selection(analysis),
        "all_factors": _with_parameters([all_factors_record(*key, fit) for key, fit in analysis.all_factors.items()]),
        "critical_sizes": _critical_sizes(analysis),
        "regions": pd.concat([r.table() for r in analysis.best_method_maps])
        if analysis.best_method_maps
        else pd.DataFrame(),
        "claims": _claims(analysis),
        "best_measured": pd.concat([measured_best(analysis, task).assign(task=task) for task in tasks]),
        "best_runs": pd.concat([best_runs(analysis, task) for task in tasks]),
        "correlation": _correlation(analysis),
        "forgetting": pd.DataFrame([asdict(change) for change in analysis.forgetting]),
        "metric_laws": _metric_laws(analysis),
        "pretraining": _pretraining(analysis),
        "entropy": _entropy(analysis),
        "factors": _factors(analysis),
        "points": predictions_table(analysis),
    }
    return {name: table for name, table in found.items() if len(table)}


def write_tables(tables: dict[str, pd.DataFrame], folder: Path) -> None:
    """Write folder/NAME.csv and folder/NAME.tex of every table."""
    for name, table in tables.items():
        write_atomically(folder / f"{name}.csv", table.to_csv(index=False))
        write_atomically(folder / f"{name}.tex", latex_table(table, name.replace("_", " ")))


def latex_table(table: pd.DataFrame, caption: str) -> str:
    r"""Return the table for \input into a paper with booktabs and longtable; numbers have four digits."""
    numeric = [pd.api.types.is_numeric_dtype(table[c]) and table[c].dtype != bool for c in table.columns]
    text = table.reset_index(drop=True).map(_latex_cell)
    styler = text.rename(columns=lambda name: str(name).replace("_", " ")).style.hide(axis="index")
    long = len(table) > LONGEST
    return styler.format_index(escape="latex", axis="columns").to_latex(
        hrules=True,
        column_format="".join("r" if is_number else "l" for is_number in numeric),
        caption=caption,
        environment="longtable" if long else "table",
        position_float=None if long else "centering",
    )


def _latex_cell(value: Any) -> str:
    """Escape a text, or format a number; "[" after a line break would begin an optional argument."""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return "--"
    if isinstance(value, int | float | np.number):
        return f"{value:d}" if isinstance(value, int | np.integer) else f"{float(value):.4g}"
    return "".join(LATEX_ESCAPES.get(char, char) for char in str(value))


LATEX_ESCAPES = {char: f"\\{char}" for char in "{}&%$#_"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "[": "{[}",
    "]": "{]}",
    "\n": " ",
    "\r": " ",
}


def laws_table(analysis: JointFits) -> pd.DataFrame:
    """Return one row per task, method, law and parameter: estimates, intervals, and whether it is well determined."""
    rows = []
    for fit in analysis.fits.values():
        for name in fit.parameters:
            record = parameter_record(fit, name)
            one_stage = {f"one_stage_{key}": value for key, value in record.pop("in_one_stage").items()}
            profile = record.pop("profile") or {"low": None, "high": None}
            record |= one_stage | {f"profile_{key}": value for key, value in profile.items()}
            rows.append({"task": fit.task, "method": fit.method, "law": fit.law.name, "parameter": name, **record})
    return pd.DataFrame(rows)


def errors_table(analysis: JointFits) -> pd.DataFrame:
    """Return mean absolute errors (nats per token) on fitted and held-out points, per task, method, factor and law."""
    rows = []
    for fit in analysis.fits.values():
        for factor in fit.factors:
            errors = {f"{kind}_error": fit.errors[kind].get(factor) for kind in ("fitted", "held_out")}
            interval = fit.held_out_interval(factor) or Interval(None, None)
            errors |= {"held_out_low": interval.low, "held_out_high": interval.high}
            rows.append({"task": fit.task, "method": fit.method, "factor": factor, "law": fit.law.name, **errors})
    return pd.DataFrame(rows)


def predictions_table(analysis: Analysis) -> pd.DataFrame:
    """Return the settings with every joint law's prediction and its 90 % interval (predicted_LAW, _low, _high).

    Laws that do not fit their points have no interval, since the bootstrap does not include their lack of fit.
    """
    table = analysis.table.settings.copy()
    for law in dict.fromkeys(law for _, _, law in analysis.fits):
        table[[f"predicted_{law}{end}" for end in PREDICTED]] = np.nan
    for (task, method, law), fit in analysis.fits.items():
        for factor in fit.factors:
            rows = (table["task"] == task) & (table["method"] == method) & (table["factor"] == factor)
            x, examples = (table.loc[rows, c].to_numpy(float) for c in ("x", "finetune_examples"))
            table.loc[rows, f"predicted_{law}"] = fit.predict_loss(factor, x, examples)
            if fit.fits_well and rows.any():
                ends = interval_ends(fit.predict_loss_replicates(factor, x, examples))
                table.loc[rows, [f"predicted_{law}{end}" for end in PREDICTED[1:]]] = ends.T
    return table


def _single_laws(analysis: Analysis) -> pd.DataFrame:
    rows = []
    for single in analysis.curve_fits:
        row = {field: getattr(single, field) for field in SINGLE_FIELDS}
        for name, value in single.parameters.items():
            interval = single.interval(name)
            row |= {name: value, f"{name}_low": interval.low, f"{name}_high": interval.high}
        rows.append(row)
    return pd.DataFrame(rows)


def _selection(analysis: Analysis) -> pd.DataFrame:
    rows = []
    for (task, method), found in analysis.selections.items():
        for candidate in selection_record(task, method, found)["candidates"]:
            preferred = candidate["law"] == found.preferred
            rows.append({"task": task, "method": method, **candidate, "preferred": preferred})
    return pd.DataFrame(rows)


def _critical_sizes(analysis: Analysis) -> pd.DataFrame:
    """Return one row per crossing, or one row without a crossing."""
    rows = []
    for size in analysis.critical_sizes:
        key = {"task": size.task, "law": size.law, "factor": size.factor, "x": size.x}
        key |= {"first": size.methods[0], "second": size.methods[1], "crossings": len(size.roots)}
        key["uncrossed_share"] = size.share_without_crossing
        form = closed_form_record(size.closed_form) if size.closed_form else {}
        nothing = {"better_everywhere": size.better_everywhere, "why": size.why}
        rows += [{**key, **record, **form} for record in [crossing_record(root) for root in size.roots] or [nothing]]
    return pd.DataFrame(rows).reindex(columns=CRITICAL_COLUMNS) if rows else pd.DataFrame()


def _claims(analysis: Analysis) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"claim": c.name, "claim_verdict": c.verdict, "claim_probability": c.probability, **comparison_record(one)}
            for c in analysis.claims
            for one in c.comparisons
        ]
    )


def _correlation(analysis: Analysis) -> pd.DataFrame:
    rows = []
    for found in analysis.correlations:
        record = correlation_record(found)
        row = {name: record[name] for name in ("task", "method", "factor", "metric", "settings")}
        for name in ("pearson", "spearman"):
            values = record[name] or dict.fromkeys(("value", "low", "high", "p"))
            row |= {f"{name}_{key}".removesuffix("_value"): value for key, value in values.items()}
        rows.append(row | {name: record[name] for name in ("verdict", "why")})
    return pd.DataFrame(rows)


def _metric_laws(analysis: Analysis) -> pd.DataFrame:
    """Return one row per metric, law and parameter, or one row without a law."""
    rows: list[dict[str, Any]] = []
    for record in map(metric_law_record, analysis.metric_laws):
        fits = record.pop("fits")
        rows += [{**record, **one} for one in fits or [{"parameters": {}}]]
    return _with_parameters(rows)


def _pretraining(analysis: Analysis) -> pd.DataFrame:
    records = []
    for record in map(pretraining_record, analysis.pretraining):
        errors = record.pop("errors")
        records.append(record | {f"{kind}_error": errors.get(kind) for kind in ("fitted", "held_out")})
    return _with_parameters(records)


def _with_parameters(records: list[dict[str, Any]]) -> pd.DataFrame:
    """Return one row per parameter of every record, or one row of a record without parameters."""
    rows: list[dict[str, Any]] = []
    for record in records:
        shared = {name: value for name, value in record.items() if name != "parameters"}
        parameters = record["parameters"].items() or [("", dict.fromkeys(EMPTY_PARAMETER))]
        rows += [{**shared, "parameter": name, **entry} for name, entry in parameters]
    return pd.DataFrame(rows)


def _entropy(analysis: Analysis) -> pd.DataFrame:
    """Return the fitted E and the true entropy per target token, if the points have it."""
    settings = analysis.table.settings
    if "entropy" not in settings or settings["entropy"].isna().all():
        return pd.DataFrame()
    entropies = settings.groupby("task")["entropy"].mean()
    rows = laws_table(analysis)
    rows = rows[rows["parameter"] == "E"].assign(entropy=rows["task"].map(entropies))
    columns = ["task", "method", "law", "value", "low", "high", "identified", "entropy"]
    return rows.loc[np.isfinite(rows["entropy"]), columns].rename(columns={"value": "E"})


def _factors(analysis: Analysis) -> pd.DataFrame:
    """Return the number of settings and the factor levels per task, method and factor."""
    return pd.DataFrame(
        {
            **dict(zip(("task", "method", "factor"), key, strict=True)),
            "settings": len(rows),
            "held_out_settings": int(rows["held_out"].sum()),
            "x": " ".join(f"{x:g}" for x in sorted(rows["x"].unique())),
            "finetune_examples": " ".join(f"{d:g}" for d in sorted(rows["finetune_examples"].unique())),
            "mean_seeds": float(rows["seeds"].mean()),
        }
        for key, rows in analysis.table.settings.groupby(["task", "method", "factor"], sort=False)
    )
