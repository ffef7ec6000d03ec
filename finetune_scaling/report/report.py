"""report.html: the summary in plain words, then laws, errors, critical sizes, claims, scores, data and settings."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from finetune_scaling.analysis.analysis import Analysis, best_runs, measured_best
from finetune_scaling.analysis.claims import CONFIDENCE, Comparison
from finetune_scaling.files import write_atomically
from finetune_scaling.laws.fitting.joint_fit import JointFit
from finetune_scaling.laws.forms.power import SINGLE
from finetune_scaling.laws.uncertainty.intervals import Interval
from finetune_scaling.report import page
from finetune_scaling.report.all_factors_section import all_factors_section
from finetune_scaling.report.certainty_section import certainty_section
from finetune_scaling.report.correlation_section import correlation_section
from finetune_scaling.report.critical_section import critical_section
from finetune_scaling.report.forgetting_section import forgetting_section
from finetune_scaling.report.metric_section import metric_section
from finetune_scaling.report.names import FACTOR_NAMES, human, method_name
from finetune_scaling.report.phrases import interval_text, parameter_text, share_text
from finetune_scaling.report.plots import Plot
from finetune_scaling.report.pretraining_section import pretraining_section
from finetune_scaling.report.reservations import reservations
from finetune_scaling.report.selection_section import selection_section
from finetune_scaling.report.tables import entropy_rows, errors_table
from finetune_scaling.report.words import BASELINE, summary

RESIDUALS = {
    "linear": "linear, predicted minus measured loss",
    "log": "log, the difference of the logarithms of predicted and measured loss",
}


def write_report(analysis: Analysis, plots: Sequence[Plot], out: Path, command: str) -> Path:
    """Writes out/report.html from the analysis and the pictures in out/plots; returns its path."""
    name = str(analysis.facts.get("name") or Path(analysis.table.source).stem)
    table = analysis.table
    held_out = int(table.settings["held_out"].sum())
    counts = f"{len(table.runs)} runs of {len(table.settings)} settings, {held_out} held out"
    lead = f"{counts}; tasks: {', '.join(table.tasks)}."
    others = [*(law for law in analysis.laws if law != analysis.main_law), SINGLE.name]
    sections = [
        ("summary", "Summary", page.bullets(summary(analysis)[0][1], "summary")),
        ("tasks", "Task by task", _tasks(analysis)),
        ("best", "Which method is best", _best(analysis) + _figures(plots, out, ("-methods", "-best-"))),
        ("laws", "Laws", _laws(analysis) + _figures(plots, out, ("exponents", f"-{analysis.main_law}-"))),
        ("selection", "Which law the points prefer", selection_section(analysis)),
        ("certainty", "How sure each parameter is", certainty_section(analysis)),
        ("errors", "How well the laws predict", _errors(analysis) + _figures(plots, out, ("-residuals",))),
        ("critical", "Critical finetuning sizes", critical_section(analysis)),
        ("claims", "The paper's findings on these points", _claims(analysis)),
        ("scores", "Scores", _scores(analysis) + _figures(plots, out, ("-metrics", "-learning-rate"))),
        ("correlation", "Which metrics follow the loss", correlation_section(analysis)),
        ("metric-laws", "By which law a metric follows the loss", metric_section(analysis)),
        (
            "forgetting",
            "What tuning changes elsewhere",
            forgetting_section(analysis) + _figures(plots, out, ("-forgetting",)),
        ),
        ("more", "Further laws", _more(analysis) + _figures(plots, out, tuple(f"-{law}-" for law in others))),
        (
            "all-factors",
            "One law over all factors",
            all_factors_section(analysis) + _figures(plots, out, ("-all-factors",)),
        ),
        ("pretraining", "Pretraining", pretraining_section(analysis) + _figures(plots, out, ("pretraining",))),
        ("data", "Data and settings", _data(analysis)),
        ("remake", "How to remake this report", _remake(command)),
    ]
    path = out / "report.html"
    write_atomically(path, page.page(f"Finetuning scaling: {name}", lead, [s for s in sections if s[2]]))
    return path


def _tasks(analysis: Analysis) -> str:
    parts = [page.subheading(heading) + page.bullets(lines) for heading, lines in summary(analysis)[1:]]
    remarks = reservations(analysis)
    return "".join(parts) + (page.subheading("Reservations") + page.bullets(remarks) if remarks else "")


def _figures(plots: Sequence[Plot], out: Path, parts: Sequence[str]) -> str:
    chosen = [plot for plot in plots if any(part in plot.name for part in parts)]
    return "".join(page.subheading(p.title) + page.figure(out / "plots", p.name, p.title, p.caption) for p in chosen)


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
        "L is the loss in nats per target token, X the factor, D the number of finetuning examples. In brackets the "
        "90 % interval over the bootstrap, open on a side where it does not close. Unidentified: these points do not "
        "hold the value; why is said below, parameter by parameter."
    ) + _law_table(analysis, analysis.main_law)


def _law_table(analysis: Analysis, law: str) -> str:
    fits = analysis.of_law(law)
    if not fits:
        return ""
    names = list(dict.fromkeys(name for fit in fits for name in fit.parameters))
    rows = [(f.task, method_name(f.method), *(_value(f, n) for n in names), f.objective["stage_2"]) for f in fits]
    return page.table(
        f"{law}: {fits[0].law.formula}", ("task", "method", *(n.replace("_", " ") for n in names), "objective"), rows
    )


def _value(fit: JointFit, name: str) -> str:
    return parameter_text(fit, name) if name in fit.parameters else "–"


def _errors(analysis: Analysis) -> str:
    table = errors_table(analysis)
    kinds = [(kind, law) for kind in ("fitted", "held_out") for law in table["law"].unique()]
    header = ("task", "factor", "method", *(f"{kind.replace('_', '-')}, {law}" for kind, law in kinds))
    rows = []
    for (task, factor, method), own in table.groupby(["task", "factor", "method"], sort=False):
        by_law = {row["law"]: row for _, row in own.iterrows()}
        errors = [_error(by_law[law], kind) if law in by_law else "–" for kind, law in kinds]
        rows.append((task, FACTOR_NAMES[factor], method_name(method), *errors))
    caption = "Mean absolute deviation, nats per token; of held-out settings with its 90 % interval over the bootstrap"
    return page.table(caption, header, rows)


def _error(row: pd.Series, kind: str) -> str:
    if pd.isna(row[f"{kind}_error"]):
        return "–"
    if kind == "fitted":
        return f"{row['fitted_error']:.3g}"
    ends = (None if pd.isna(row[f"held_out_{end}"]) else float(row[f"held_out_{end}"]) for end in ("low", "high"))
    return f"{row['held_out_error']:.3g} ({interval_text(Interval(*ends))})"


def _claims(analysis: Analysis) -> str:
    body = page.paragraph(
        f"A cell is a difference that a finding says is above zero. It is supported where it is so in at least "
        f"{CONFIDENCE:.0%} of the resamples, and not supported where it is so in at most {1 - CONFIDENCE:.0%}; in both "
        "cases the difference must also exceed its 90 % jackknife margin. Otherwise, and where the two disagree, it is "
        "inconclusive. A finding is supported overall where it is in every cell, and in all of them together in at "
        f"least {CONFIDENCE:.0%} of the resamples."
    )
    overall = [(c.sentence, c.verdict, c.tally, _share(c.probability)) for c in analysis.claims]
    header = ("finding", "verdict", "cells", "all together")
    body += page.table("Verdicts", header, overall, wrap=("finding",))
    for claim in analysis.claims:
        rows = [
            (c.where, c.difference, _interval(c), _share(c.probability), c.margin, c.verdict, c.why)
            for c in claim.comparisons
        ]
        names = ("cell", "difference", "90 % interval", "above zero in", "leave-out margin", "verdict", "why")
        body += page.folded(claim.sentence, page.table(claim.name, names, rows, wrap=("why",)))
    return body


def _interval(cell: Comparison) -> str:
    return "–" if cell.replicates is None else interval_text(Interval(cell.low, cell.high))


def _share(share: float | None) -> str:
    return "–" if share is None else share_text(share)


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
    body = "".join(_law_table(analysis, law) for law in analysis.laws if law != analysis.main_law)
    rows = [
        (
            s.task,
            method_name(s.method),
            FACTOR_NAMES[s.factor],
            human(s.x),
            s.points,
            *(_single_text(value, s.interval(name)) for name, value in s.parameters.items()),
            s.fitted_error,
            s.held_out_error,
        )
        for s in analysis.singles
    ]
    if rows:
        names = analysis.singles[0].parameters
        header = ("task", "method", "factor", "X", "points", *names, "fitted error", "held-out error")
        caption = "90 % intervals in brackets; three points go with every law and tell none"
        heading = "Single laws, L = A / D^beta + E at each factor value"
        body += page.folded(heading, page.table(caption, header, rows))
    return body


def _single_text(value: float, interval: Interval) -> str:
    told = interval.low is not None or interval.high is not None
    return f"{value:.3g} ({interval_text(interval)})" if told else "not told"


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
    kinds = sorted({settings.residual_of(fit.law) for fit in analysis.fits.values()})
    residual = " or ".join(RESIDUALS[kind] for kind in kinds)
    body = page.paragraph(
        f"Points: {Path(table.source).name}. Huber loss, delta {settings.huber_delta:g}, residual: {residual}; "
        f"model size counted as {analysis.size.replace('_', '-')} parameters; seeds of a setting are averaged; "
        "held-out settings never enter a fit. Stage 1 fits model and pretraining size together (shared E and beta), "
        "stage 2 freezes these and refits A and alpha of every factor."
    )
    body += page.table("Settings by factor", header, rows, wrap=("X", "examples"))
    floors = entropy_rows(analysis)
    if floors:
        content = [
            (
                r["task"],
                method_name(r["method"]),
                r["law"],
                parameter_text(analysis.fits[r["task"], r["method"], r["law"]], "E"),
                r["entropy"],
            )
            for r in floors
        ]
        names = ("task", "method", "law", "fitted E", "true entropy")
        body += page.table("Fitted floor and true entropy, nats per token", names, content)
    return body + page.bullets(map(str, analysis.facts.get("notes", ())))


def _remake(command: str) -> str:
    return f"<pre>{page.escape(command)}</pre>" + page.paragraph(
        "Beside this page: fit.json (all numbers), tables/*.csv and *.tex, plots/*.png, *.svg and *.json (what each "
        "picture shows)."
    )


def _values(values: pd.Series) -> str:
    distinct = sorted(values.unique())
    return (
        ", ".join(human(v) for v in distinct)
        if len(distinct) <= 12
        else f"{human(distinct[0])} … {human(distinct[-1])}"
    )
