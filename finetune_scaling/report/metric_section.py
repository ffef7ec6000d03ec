"""The report's section on laws of metrics: by which function of the loss a score is described, if by any."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pandas as pd

from finetune_scaling.analysis.analysis import Analysis
from finetune_scaling.analysis.metric_laws import DESCRIBES, METRIC_LAWS, MetricFinding, MetricFit
from finetune_scaling.files import finite_or_none
from finetune_scaling.report import page
from finetune_scaling.report.names import method_name


def metric_section(analysis: Analysis) -> str:
    """Verdicts and fits for every task and method; nothing where there are no metrics."""
    if not analysis.metric_laws:
        return ""
    formulas = "; ".join(f"{law.name}: {law.formula} ({law.source})" for law in METRIC_LAWS)
    body = page.paragraph(
        f"M is the metric, L the loss in nats a token. {formulas}. A law describes a metric where it explains at least "
        f"{DESCRIBES:.0%} of the variance of the settings it is fitted to (means over seeds). One of two laws is "
        "preferred only where it errs less, beyond chance, on numbers of examples that it had not seen."
    )
    verdicts = [(f.task, f.metric, method_name(f.method), f.settings, f.verdict) for f in analysis.metric_laws]
    body += page.table("Verdicts", ("task", "metric", "method", "settings", "verdict"), verdicts, wrap=("verdict",))
    rows = [_row(finding, one) for finding in analysis.metric_laws for one in finding.fits]
    header = ("task", "metric", "method", "law", "parameters", "R²", "error", "error left out", "error held out")
    table = page.table("Both laws; parameters with 90 % intervals, of laws that describe the metric", header, rows)
    return body + (page.folded("Both laws, everywhere", table) if rows else "")


def metric_records(analysis: Analysis) -> list[dict[str, Any]]:
    """The same for fit.json."""
    return [
        {
            **{
                name: getattr(finding, name)
                for name in ("task", "method", "metric", "settings", "verdict", "preferred")
            },
            "used": finding.used.law.name if finding.used else None,
            "fits": [_record(one) for one in finding.fits],
        }
        for finding in analysis.metric_laws
    ]


def metric_table(analysis: Analysis) -> pd.DataFrame:
    """The same as a table: one row a law and parameter, or one that says why there is none."""
    return pd.DataFrame(list(_flat(metric_records(analysis))))


def _flat(records: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for record in records:
        shared = {name: value for name, value in record.items() if name != "fits"}
        for one in record["fits"] or [{"parameters": {}}]:
            law = {name: value for name, value in one.items() if name != "parameters"}
            for name, entry in one["parameters"].items() or [("", {})]:
                yield {**shared, **law, "parameter": name, **entry}


def _record(one: MetricFit) -> dict[str, Any]:
    """No value of a parameter where the law does not describe the metric."""
    parameters = {
        name: {
            "value": finite_or_none(value),
            **{end: finite_or_none(found) for end, found in asdict(one.interval(name)).items()},
            "identified": not one.why_poorly_determined(name),
            "why_unidentified": one.why_poorly_determined(name),
        }
        for name, value in (one.fitted.parameters if one.describes else {}).items()
    }
    return {
        "law": one.law.name,
        "formula": one.law.formula,
        "describes": one.describes,
        "r_squared": finite_or_none(one.r_squared),
        "error": finite_or_none(one.error),
        "left_out_error": finite_or_none(float(one.left_out.mean())),
        "held_out_error": finite_or_none(one.held_out_error),
        "parameters": parameters,
    }


def _row(finding: MetricFinding, one: MetricFit) -> tuple:
    record = _record(one)
    texts = [_text(name, entry) for name, entry in record["parameters"].items()]
    errors = (record[name] for name in ("r_squared", "error", "left_out_error", "held_out_error"))
    parameters = ", ".join(texts) or "–"
    return (finding.task, finding.metric, method_name(finding.method), one.law.name, parameters, *errors)


def _text(name: str, entry: dict[str, Any]) -> str:
    low, high = ("?" if end is None else f"{end:.3g}" for end in (entry["low"], entry["high"]))
    value = "?" if entry["value"] is None else f"{entry['value']:.3g}"
    return f"{name} = {value} ({low} to {high}){' *' if entry['why_unidentified'] else ''}"
