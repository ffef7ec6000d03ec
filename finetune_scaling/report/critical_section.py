"""The report's section on critical finetuning sizes: where two methods cross, how sure that is, or why it is untold."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from finetune_scaling.analysis.analysis import Analysis
from finetune_scaling.analysis.critical_sizes import SEARCH_RANGE, ClosedForm, CriticalSize, Root
from finetune_scaling.files import finite_or_none
from finetune_scaling.laws.uncertainty.intervals import Interval
from finetune_scaling.report import page
from finetune_scaling.report.names import FACTOR_NAMES, human
from finetune_scaling.report.phrases import interval_text, share_text


def critical_section(analysis: Analysis) -> str:
    """Crossings by every law, or why there is none to tell; nothing where no two methods were fitted."""
    low, high = SEARCH_RANGE
    body = page.paragraph(
        f"The number of examples at which two methods have equal loss, searched from {human(low)} to {human(high)} "
        "examples. Interval: 90 % over the bootstrap, open where it falls among resamples without this crossing; "
        "share: of the resamples, those that have it. The leave-out range is where it moves when one factor value or "
        "data size is left out. A crossing that extrapolates a method beyond the data it was measured with is a "
        "guess. H and gamma are the paper's closed form D = H X^gamma, right only where both laws have the same E."
    )
    header = (
        "task",
        "factor",
        "X",
        "methods",
        "crossing",
        "90 % interval",
        "share",
        "leave-out range",
        "below → above",
        "extrapolates",
        "H",
        "gamma",
    )
    for law in analysis.laws:
        told = [size for size in analysis.critical if size.law == law]
        rows = [row for size in told for row in _critical_rows(size)]
        if rows:
            wrap = ("crossing",) if any(size.why for size in told) else ()
            content = page.table(f"{law} law", header, rows, wrap)
            body += content if law == analysis.main_law else page.folded(f"By the {law} law", content)
    return body if analysis.critical else ""


def _critical_rows(size: CriticalSize) -> Iterator[tuple]:
    key = (size.task, FACTOR_NAMES[size.factor], human(size.x), " / ".join(size.methods))
    if size.why:
        yield (*key, f"cannot be told: {size.why}", *("–",) * 7)
        return
    form = size.closed_form
    closed = ("–", "–")
    if form is not None:
        closed = (
            f"{form.H:.2g} ({interval_text(form.H_interval, '{:.2g}'.format)})",
            f"{form.gamma:.2g} ({interval_text(form.gamma_interval, '{:.2g}'.format)})",
        )
    if not size.roots:
        uncrossed = share_text(size.uncrossed_share or 0.0)
        yield (*key, "none", "–", uncrossed, "–", f"{size.better_everywhere} everywhere", "–", *closed)
    for root in size.roots:
        low, high = root.leave_out_low, root.leave_out_high
        reach = f"{human(low)} to {human(high)}" if low and high else "cannot be told"
        interval = interval_text(Interval(root.low, root.high), human)
        sides, outside = f"{root.below} → {root.above}", ", ".join(root.extrapolated) or "no"
        yield (*key, human(root.examples), interval, share_text(root.share), reach, sides, outside, *closed)


def critical_table(analysis: Analysis) -> pd.DataFrame:
    """One row a crossing, or one that says there is none."""
    rows = []
    for size in analysis.critical:
        key = {"task": size.task, "law": size.law, "factor": size.factor, "x": size.x}
        key |= {"first": size.methods[0], "second": size.methods[1], "crossings": len(size.roots)}
        key["uncrossed_share"] = size.uncrossed_share
        form = _form_record(size.closed_form) if size.closed_form else {}
        nothing = {"better_everywhere": size.better_everywhere, "why": size.why}
        for record in [_root_record(root) for root in size.roots] or [nothing]:
            rows.append({**key, **record, **form})
    return pd.DataFrame(rows)


def critical_record(size: CriticalSize) -> dict[str, Any]:
    """Of fit.json."""
    form = size.closed_form
    return {
        "task": size.task,
        "law": size.law,
        "factor": size.factor,
        "x": size.x,
        "methods": list(size.methods),
        "crossings": len(size.roots),
        "roots": [_root_record(root) for root in size.roots],
        "better_everywhere": size.better_everywhere,
        "search_range": list(SEARCH_RANGE),
        "uncrossed_share": size.uncrossed_share,
        "why": size.why,
        "closed_form": form and {**_form_record(form), "examples": finite_or_none(form.at(size.x))},
    }


def _form_record(form: ClosedForm) -> dict[str, float | None]:
    return {
        "H": finite_or_none(form.H),
        "H_low": finite_or_none(form.H_interval.low),
        "H_high": finite_or_none(form.H_interval.high),
        "gamma": form.gamma,
        "gamma_low": form.gamma_interval.low,
        "gamma_high": form.gamma_interval.high,
    }


def _root_record(root: Root) -> dict[str, Any]:
    return {
        "finetune_examples": root.examples,
        "low": root.low,
        "high": root.high,
        "probability": root.share,
        "leave_out_low": root.leave_out_low,
        "leave_out_high": root.leave_out_high,
        "better_below": root.below,
        "better_above": root.above,
        "inside_measured_range": not root.extrapolated,
        "extrapolated_methods": " ".join(root.extrapolated),
    }
