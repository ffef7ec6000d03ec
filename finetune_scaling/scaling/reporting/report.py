"""report.html: the summary in plain words, then laws, errors, critical sizes, claims, scores, data and settings."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from finetune_scaling.files import write_atomically
from finetune_scaling.scaling.findings.analysis import Analysis, best_runs, measured_best
from finetune_scaling.scaling.findings.critical import SEARCH_RANGE, CriticalSize
from finetune_scaling.scaling.fitting.staged_fit import StagedFit
from finetune_scaling.scaling.reporting import page
from finetune_scaling.scaling.reporting.correlation_section import correlation_section
from finetune_scaling.scaling.reporting.forgetting_section import forgetting_section
from finetune_scaling.scaling.reporting.metric_section import metric_section
from finetune_scaling.scaling.reporting.names import FACTOR_NAMES, human, method_name
from finetune_scaling.scaling.reporting.plots import Plot
from finetune_scaling.scaling.reporting.pretraining_section import pretraining_section
from finetune_scaling.scaling.reporting.reservations import reservations
from finetune_scaling.scaling.reporting.tables import entropy_rows, errors_table
from finetune_scaling.scaling.reporting.words import BASELINE, parameter_text, summary


def write_report(analysis: Analysis, plots: Sequence[Plot], out: Path, command: str) -> Path:
    """Writes out/report.html from the analysis and the pictures in out/plots; returns its path."""
    name = str(analysis.facts.get("name") or Path(analysis.table.source).stem)
    table = analysis.table
    held_out = int(table.settings["held_out"].sum())
    counts = f"{len(table.runs)} runs of {len(table.settings)} settings, {held_out} held out"
    lead = f"{counts}; tasks: {', '.join(table.tasks)}."
    sections = [
        ("summary", "Summary", _summary(analysis)),
        ("best", "Which method is best", _best(analysis) + _figures(plots, out, ("-methods", "-best-"))),
        ("laws", "Laws", _laws(analysis) + _figures(plots, out, ("exponents", "-multiplicative-"))),
        ("errors", "How well the laws predict", _errors(analysis) + _figures(plots, out, ("-residuals",))),
        ("critical", "Critical finetuning sizes", _critical(analysis)),
        ("claims", "The paper's findings on these points", _claims(analysis)),
        ("scores", "Scores", _scores(analysis) + _figures(plots, out, ("-metrics", "-learning-rate"))),
        ("correlation", "Which metrics follow the loss", correlation_section(analysis)),
        ("metric-laws", "By which law a metric follows the loss", metric_section(analysis)),
        (
            "forgetting",
            "What tuning changes elsewhere",
            forgetting_section(analysis) + _figures(plots, out, ("-forgetting",)),
        ),
        ("more", "Additive and single laws", _more(analysis) + _figures(plots, out, ("-additive-", "-single-"))),
        ("pretraining", "Pretraining", pretraining_section(analysis) + _figures(plots, out, ("pretraining",))),
        ("data", "Data and settings", _data(analysis)),
        ("remake", "How to remake this report", _remake(command)),
    ]
    path = out / "report.html"
    write_atomically(path, page.page(f"Finetuning scaling: {name}", lead, [s for s in sections if s[2]]))
    return path


def _summary(analysis: Analysis) -> str:
    parts = [page.subheading(heading) + page.bullets(lines, "summary") for heading, lines in summary(analysis)]
    remarks = reservations(analysis)
    return "".join(parts) + (page.subheading("Reservations") + page.bullets(remarks) if remarks else "")


def _figures(plots: Sequence[Plot], out: Path, parts: Sequence[str]) -> str:
    chosen = [plot for plot in plots if any(part in plot.name for part in parts)]
    return "".join(
        page.subheading(p.title) + page.figure(out / "plots" / f"{p.name}.svg", p.title, p.caption) for p in chosen
    )


def _best(analysis: Analysis) -> str:
    body = ""
    for task in analysis.table.tasks:
        best = measured_best(analysis, task)
        rows = [
            (human(r.x), human(r.finetune_examples), method_name(r.method), r.loss, method_name(r.runner_up), r.gap)
            for r in best.itertuples()
        ]
        header = ("parameters", "examples", "least loss", "loss", "runner-up", "its loss is higher by")
        if rows:
            body += page.table(f"{task}: measured with two methods or more", header, rows)
    return page.folded("Measured loss, cell by cell", body) if body else ""


def _laws(analysis: Analysis) -> str:
    return page.paragraph(
        "L is the loss in nats per target token, X the factor, D the number of finetuning examples. The numbers "
        "behind ± are 90 % margins from leaving out one factor value or data size at a time (for A, B and E a "
        "factor, ×/÷); they are not yet intervals with checked coverage. (±?) means that there are too few values "
        "to leave one out; * marks what these points do not pin down."
    ) + "".join(_law_table(analysis, law) for law in ("multiplicative",))


def _law_table(analysis: Analysis, law: str) -> str:
    fits = analysis.of_law(law)
    if not fits:
        return ""
    names = list(dict.fromkeys(name for fit in fits for name in fit.parameters))
    rows = [(f.task, method_name(f.method), *(_value(f, n) for n in names), f.objective["stage_2"]) for f in fits]
    return page.table(
        f"{law}: {fits[0].law.formula}", ("task", "method", *(n.replace("_", " ") for n in names), "objective"), rows
    )


def _value(fit: StagedFit, name: str) -> str:
    if name not in fit.parameters:
        return "–"
    return parameter_text(fit, name) + ("" if fit.is_identified(name) else " *")


def _errors(analysis: Analysis) -> str:
    table = errors_table(analysis)
    keys = ["task", "factor", "method"]
    wide = table.pivot_table(
        index=keys, columns="law", values=["fitted_error", "held_out_error"], sort=False, dropna=False
    )
    wide = wide.dropna(how="all")
    kinds = [(kind, law) for kind in ("fitted_error", "held_out_error") for law in ("multiplicative", "additive")]
    kinds = [kind for kind in kinds if kind in wide.columns]
    rows = [
        (key[0], FACTOR_NAMES[key[1]], method_name(key[2]), *(_plain(row[kind]) for kind in kinds))
        for key, row in wide.iterrows()
    ]
    header = (
        "task",
        "factor",
        "method",
        *(f"{kind.removesuffix('_error').replace('_', '-')}, {law}" for kind, law in kinds),
    )
    return page.table("Mean absolute deviation, nats per token", header, rows)


def _critical(analysis: Analysis) -> str:
    low, high = SEARCH_RANGE
    body = page.paragraph(
        f"The number of examples at which two methods have equal loss, searched from {human(low)} to {human(high)} "
        "examples. Crossings are very sensitive: the leave-out range is where they move when one factor value or "
        "data size is left out. A crossing that extrapolates a method beyond the data it was measured with is a "
        "guess. H and gamma are the paper's closed form D = H X^gamma, right only where both laws have the same "
        "E."
    )
    header = (
        "task",
        "factor",
        "X",
        "methods",
        "crossing",
        "leave-out range",
        "below → above",
        "extrapolates",
        "H",
        "gamma",
    )
    for law in ("multiplicative", "additive"):
        rows = [row for size in analysis.critical if size.law == law for row in _critical_rows(size)]
        if rows:
            content = page.table(f"{law} law", header, rows)
            body += content if law == "multiplicative" else page.folded("By the additive law", content)
    return body if analysis.critical else ""


def _critical_rows(size: CriticalSize) -> Iterator[tuple]:
    key = (size.task, FACTOR_NAMES[size.factor], human(size.x), " / ".join(size.methods))
    form = (size.closed_form.H, size.closed_form.gamma) if size.closed_form else (None, None)
    if not size.roots:
        yield (*key, "none", "–", f"{size.better_everywhere} everywhere", "–", *form)
    for root in size.roots:
        reach = f"{human(root.low)} – {human(root.high)}" if root.low and root.high else "cannot be told"
        extrapolated = ", ".join(root.extrapolated) or "no"
        yield (*key, human(root.examples), reach, f"{root.below} → {root.above}", extrapolated, *form)


def _claims(analysis: Analysis) -> str:
    body = page.paragraph(
        "A finding holds, or does not hold, in a cell only where the difference in question exceeds its 90 % leave-out "
        "margin; otherwise it cannot be told from these points. It holds overall where it holds in every cell."
    )
    overall = [(claim.sentence, claim.verdict, claim.tally) for claim in analysis.claims]
    body += page.table("Verdicts", ("finding", "verdict", "cells"), overall, wrap=("finding",))
    for claim in analysis.claims:
        rows = [(c.where, c.difference, c.margin, c.verdict, c.why) for c in claim.cells]
        header = ("cell", "difference", "margin", "verdict", "why")
        body += page.folded(claim.sentence, page.table(claim.name, header, rows, wrap=("why",)))
    return body


def _scores(analysis: Analysis) -> str:
    body = ""
    for task in analysis.table.tasks:
        body += _best_scores(analysis, task)
    return body


def _best_scores(analysis: Analysis, task: str) -> str:
    metrics = [m for m in analysis.table.metrics if analysis.rows(task)[m].notna().any()]
    if not metrics:
        return ""
    rows = [
        (
            method_name(r["method"]),
            FACTOR_NAMES[r["factor"]],
            human(r["x"]),
            human(r["finetune_examples"]),
            r["loss"],
            *tuple(float(r[m]) for m in metrics),
        )
        for _, r in best_runs(analysis, task).iterrows()
    ]
    baseline = analysis.facts.get("baselines", {}).get(task)
    if isinstance(baseline, dict):
        rows.append((BASELINE, "–", "–", "–", None, *(baseline.get(m) for m in metrics)))
    return page.table(
        f"{task}: setting of each method with the best test score",
        ("method", "factor", "X", "examples", "loss", *metrics),
        rows,
    )


def _more(analysis: Analysis) -> str:
    body = _law_table(analysis, "additive")
    rows = [
        (
            s.task,
            method_name(s.method),
            FACTOR_NAMES[s.factor],
            human(s.x),
            *s.parameters.values(),
            s.fitted_error,
            s.held_out_error,
        )
        for s in analysis.singles
    ]
    if rows:
        header = ("task", "method", "factor", "X", *analysis.singles[0].parameters, "fitted error", "held-out error")
        body += page.folded(
            "Single laws, L = A / D^beta + E at each factor value", page.table("single laws", header, rows)
        )
    return body


def _data(analysis: Analysis) -> str:
    table, settings = analysis.table, analysis.settings
    counts = table.settings.groupby(["task", "method", "factor"], sort=False)
    rows = [
        (
            key[0],
            method_name(key[1]),
            FACTOR_NAMES[key[2]],
            len(part),
            int(part["held_out"].sum()),
            _values(part["x"]),
            _values(part["finetune_examples"]),
            float(part["seeds"].mean()),
        )
        for key, part in counts
    ]
    header = ("task", "method", "factor", "settings", "held out", "X", "examples", "mean seeds")
    residual = settings.residual or "the law's own (linear: predicted minus measured loss)"
    body = page.paragraph(
        f"Points: {Path(table.source).name}. Huber loss, delta {settings.huber_delta:g}, residual: {residual}; "
        f"model size counted as {analysis.size.replace('_', '-')} parameters; seeds of a setting are averaged; "
        "held-out settings never enter a fit. Stage 1 fits model and pretraining size together (shared E and beta), "
        "stage 2 freezes these and refits A and alpha of every factor."
    )
    body += page.table("Settings by factor", header, rows, wrap=("X", "examples"))
    floors = entropy_rows(analysis)
    if floors:
        content = [(r["task"], method_name(r["method"]), r["law"], r["E"], r["entropy"]) for r in floors]
        names = ("task", "method", "law", "fitted E", "true entropy")
        body += page.table("Fitted floor and true entropy, nats per token", names, content)
    return body + page.bullets(map(str, analysis.facts.get("notes", ())))


def _remake(command: str) -> str:
    return f"<pre>{page.escape(command)}</pre>" + page.paragraph(
        "Beside this page: fit.json (all numbers), tables/*.csv, plots/*.png and *.svg."
    )


def _values(values: pd.Series) -> str:
    distinct = sorted(values.unique())
    return (
        ", ".join(human(v) for v in distinct)
        if len(distinct) <= 12
        else f"{human(distinct[0])} … {human(distinct[-1])}"
    )


def _plain(value: float) -> float | None:
    return None if pd.isna(value) else float(value)
