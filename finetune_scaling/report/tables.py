"""The findings of an analysis as tables, written as CSV and as LaTeX (booktabs)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from finetune_scaling.analysis.analysis import Analysis, best_runs, measured_best
from finetune_scaling.files import write_atomically
from finetune_scaling.laws.uncertainty.intervals import interval_ends

Record = Mapping[str, Any]
MAX_ROWS = 40  # rows on one page; longer tables are set as longtable
PREDICTED = ("", "_low", "_high")
# Other glyphs in LaTeX's default font encoding; "[" after a line break would begin an optional argument.
LATEX_CHARACTERS = str.maketrans({"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "[": "{[}"})
LAW_COLUMNS = ("task", "method", "law", "parameter", "value", "low", "high", "identified", "why")  # without any fit
CRITICAL_COLUMNS = (
    *("task", "law", "factor", "x", "first", "second", "crossings", "uncrossed_share"),
    *("finetune_examples", "low", "high", "probability", "leave_out_low", "leave_out_high"),
    *("better_below", "better_above", "inside_measured_range", "extrapolated_methods"),
    *("H", "H_low", "H_high", "gamma", "gamma_low", "gamma_high", "better_everywhere", "why"),
)


def finding_tables(analysis: Analysis, record: Record) -> dict[str, pd.DataFrame]:
    """Return name -> table of all findings, without empty ones; record: the content of fit.json."""
    tasks, regions = analysis.table.tasks, [found.table() for found in analysis.best_method_maps]
    laws = laws_table(record["fits"])
    found = {
        "laws": laws,
        "single_laws": _single_laws(record["single_fits"]),
        "errors": _errors(record["fits"]),
        "selection": _selection(record["selections"]),
        "all_factors": _with_parameters(record["all_factors"]),
        "critical_sizes": _critical_sizes(record["critical_sizes"]),
        "regions": pd.concat(regions) if regions else pd.DataFrame(),
        "claims": _claims(record["claims"]),
        "best_measured": pd.concat([measured_best(analysis, task).assign(task=task) for task in tasks]),
        "best_runs": pd.concat([best_runs(analysis, task) for task in tasks]),
        "correlation": _correlation(record["correlations"]),
        "forgetting": pd.DataFrame(record["forgetting"]),
        "metric_laws": _metric_laws(record["metric_laws"]),
        "pretraining": _pretraining(record["pretraining"]),
        "entropy": _entropy(analysis.table.settings, laws),
        "factors": _factors(analysis.table.settings),
        "points": predictions_table(analysis),
    }
    return {name: table for name, table in found.items() if len(table)}


def write_tables(tables: Mapping[str, pd.DataFrame], folder: Path) -> None:
    """Write folder/NAME.csv and folder/NAME.tex of every table."""
    for name, table in tables.items():
        write_atomically(folder / f"{name}.csv", table.to_csv(index=False))
        write_atomically(folder / f"{name}.tex", latex_table(table, name.replace("_", " ")))


def latex_table(table: pd.DataFrame, caption: str) -> str:
    r"""Return the table for \input into a paper with booktabs and longtable; numbers have four digits."""
    numeric = [pd.api.types.is_numeric_dtype(table[c]) and table[c].dtype != bool for c in table.columns]
    long = len(table) > MAX_ROWS
    styler = table.reset_index(drop=True).rename(columns=lambda name: str(name).replace("_", " ")).style
    styler = styler.hide(axis="index").format(_latex_cell, escape="latex", na_rep="--")
    return styler.format_index(escape="latex", axis="columns").to_latex(
        hrules=True,
        column_format="".join("r" if is_number else "l" for is_number in numeric),
        caption=caption,
        environment="longtable" if long else "table",
        position_float=None if long else "centering",
    )


def _latex_cell(value: Any) -> str:
    """Format a number, or the characters of a text that pandas does not escape."""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else " ".join(str(value).translate(LATEX_CHARACTERS).split())


def laws_table(fits: Sequence[Record]) -> pd.DataFrame:
    """Return one row per parameter of the records of joint fits: estimates, intervals, whether well determined."""
    rows = []
    for fit in fits:
        for name, parameter in fit["parameters"].items():
            row = {"task": fit["task"], "method": fit["method"], "law": fit["law"], "parameter": name, **parameter}
            one_stage, profile = row.pop("in_one_stage"), row.pop("profile") or {"low": None, "high": None}
            row |= {f"one_stage_{key}": value for key, value in one_stage.items()}
            rows.append(row | {f"profile_{end}": value for end, value in profile.items()})
    return pd.DataFrame(rows, columns=None if rows else list(LAW_COLUMNS))


def _errors(fits: Sequence[Record]) -> pd.DataFrame:
    """Return mean absolute errors (nats per token) on fitted and held-out points, per task, method, factor and law."""
    rows = []
    for fit in fits:
        for factor in fit["points"]:
            row = {"task": fit["task"], "method": fit["method"], "factor": factor, "law": fit["law"]}
            row |= {f"{kind}_error": fit["errors"][kind].get(factor) for kind in ("fitted", "held_out")}
            interval = fit["error_intervals"]["held_out"].get(factor, {})
            rows.append(row | {f"held_out_{end}": interval.get(end) for end in ("low", "high")})
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


def _single_laws(fits: Sequence[Record]) -> pd.DataFrame:
    rows = []
    for fit in fits:
        row = {name: value for name, value in fit.items() if name not in ("parameters", "intervals")}
        for name, value in fit["parameters"].items():
            row |= {name: value, **{f"{name}_{end}": bound for end, bound in fit["intervals"][name].items()}}
        rows.append(row)
    return pd.DataFrame(rows)


def _selection(selections: Sequence[Record]) -> pd.DataFrame:
    rows = [
        {"task": one["task"], "method": one["method"], **law, "preferred": law["law"] == one["preferred"]}
        for one in selections
        for law in one["candidates"]
    ]
    return pd.DataFrame(rows)


def _critical_sizes(sizes: Sequence[Record]) -> pd.DataFrame:
    """Return one row per crossing, or one row without a crossing."""
    rows = []
    for size in sizes:
        pair = dict(zip(("first", "second"), size["methods"], strict=True))
        rows += [{**size, **pair, **root, **(size["closed_form"] or {})} for root in size["roots"] or [{}]]
    return pd.DataFrame(rows, columns=list(CRITICAL_COLUMNS))


def _claims(claims: Sequence[Record]) -> pd.DataFrame:
    rows = [
        {**{f"claim_{key}": claim[key] for key in ("name", "verdict", "probability")}, **comparison}
        for claim in claims
        for comparison in claim["cells"]
    ]
    return pd.DataFrame(rows).rename(columns={"claim_name": "claim"})


def _correlation(correlations: Sequence[Record]) -> pd.DataFrame:
    rows = []
    for found in correlations:
        row = {name: found[name] for name in ("task", "method", "factor", "metric", "settings")}
        for name in ("pearson", "spearman"):
            values = found[name] or {}
            row |= {name: values.get("value"), **{f"{name}_{key}": values.get(key) for key in ("low", "high", "p")}}
        rows.append(row | {"verdict": found["verdict"], "why": found["why"]})
    return pd.DataFrame(rows)


def _metric_laws(findings: Sequence[Record]) -> pd.DataFrame:
    """Return one row per metric, law and parameter, or one row without a law."""
    fits = [{**found, **fit} for found in findings for fit in found["fits"] or [{"parameters": {}}]]
    return _with_parameters(fits).drop(columns="fits", errors="ignore")


def _pretraining(laws: Sequence[Record]) -> pd.DataFrame:
    errors = [{f"{kind}_error": law["errors"].get(kind) for kind in ("fitted", "held_out")} for law in laws]
    found = [{**law, **error} for law, error in zip(laws, errors, strict=True)]
    return _with_parameters(found).drop(columns="errors", errors="ignore")


def _with_parameters(records: Sequence[Record]) -> pd.DataFrame:
    """Return one row per parameter of every record, or one row of a record without parameters."""
    rows: list[dict[str, Any]] = []
    for record in records:
        shared = {name: value for name, value in record.items() if name != "parameters"}
        parameters = record["parameters"].items() or [("", dict.fromkeys(("value", "low", "high", "identified")))]
        rows += [{**shared, "parameter": name, **entry} for name, entry in parameters]
    return pd.DataFrame(rows)


def _entropy(settings: pd.DataFrame, laws: pd.DataFrame) -> pd.DataFrame:
    """Return the fitted E and the true entropy per target token, if the points have it."""
    if "entropy" not in settings:
        return pd.DataFrame()
    rows = laws[laws["parameter"] == "E"].rename(columns={"value": "E"})
    rows["entropy"] = rows["task"].map(settings.groupby("task")["entropy"].mean())
    return rows[["task", "method", "law", "E", "low", "high", "identified", "entropy"]].dropna(subset="entropy")


def _factors(settings: pd.DataFrame) -> pd.DataFrame:
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
        for key, rows in settings.groupby(["task", "method", "factor"], sort=False)
    )
